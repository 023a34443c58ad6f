//! A hub as a process of its own, made from a config file as a user writes it: started, killed, started again.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test.
///
/// # Panics
/// It was not built.
pub fn program(name: &str) -> PathBuf {
    // Test binaries lie in target/<profile>/deps, the programs one folder up, beside other programs.
    let this = std::env::current_exe().unwrap();
    let path = this.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    path.unwrap_or_else(|| panic!("{name} is missing: build it with `cargo build -p primalcore --bins`"))
}

/// A port that nobody listens on.
///
/// # Panics
/// There is none.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A config file in a folder, and the commands that take it.
pub struct Hub {
    /// Where the config lies and the commands run.
    pub folder: tempfile::TempDir,
    running: Option<Child>,
}

impl Hub {
    /// With a config; nothing runs yet.
    ///
    /// # Panics
    /// The folder cannot be written.
    pub fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("primalcore.yaml"), config).unwrap();
        Hub { folder, running: None }
    }

    /// Runs a command to its end.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Output {
        let output =
            Command::new(program(name)).args(arguments).current_dir(&self.folder).stdin(Stdio::null()).output();
        output.unwrap()
    }

    /// Runs a command that has to succeed; what it printed.
    pub fn succeed(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.command(name, arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {arguments:?}: {}\n{told}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Publishes lines; what the program says of it.
    ///
    /// # Panics
    /// It fails.
    pub fn publish(&self, lines: &[String]) -> Value {
        let mut command = Command::new(program("primalcore"));
        command.args(["publish", "--json", "-"]).current_dir(&self.folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts `primalcore run`.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with further arguments.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_with(&mut self, arguments: &[&str]) {
        let log = std::fs::File::create(self.folder.path().join("hub.log")).unwrap();
        let mut command = Command::new(program("primalcore"));
        let child = command.arg("run").args(arguments).current_dir(&self.folder).stderr(log).spawn();
        self.running = Some(child.unwrap());
    }

    /// Whether the process that was started is still there.
    ///
    /// # Panics
    /// None was started.
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// What the running hub has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("hub.log")).unwrap_or_default()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.running.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Freezes it (SIGSTOP), or wakes it.
    pub fn freeze(&self, frozen: bool) {
        let pid = self.running.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args([if frozen { "-STOP" } else { "-CONT" }, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Its resident memory.
    ///
    /// # Panics
    /// It is not running.
    pub fn resident_kb(&self) -> u64 {
        let status = format!("/proc/{}/status", self.running.as_ref().unwrap().id());
        let text = std::fs::read_to_string(status).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Ends it with SIGTERM; how long that took.
    pub fn terminate(&mut self) -> Duration {
        let mut child = self.running.take().unwrap();
        let started = Instant::now();
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
        started.elapsed()
    }

    /// What `primalcore status --json` says.
    pub fn status(&self) -> Vec<Value> {
        serde_json::from_str(&self.succeed("primalcore", &["status", "--json"])).unwrap()
    }

    /// Waits until a condition of the status holds.
    pub fn wait(&self, what: &str, patience: Duration, holds: impl Fn(&[Value]) -> bool) {
        let until = Instant::now() + patience;
        loop {
            let status = self.status();
            if holds(&status) {
                return;
            }
            assert!(Instant::now() < until, "{what} did not come true: {status:#?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until every sink has everything.
    pub fn caught_up(&self) {
        self.wait("catching up", Duration::from_secs(120), |rows| rows.iter().all(|row| row["lag_events"] == 0));
    }

    /// Verifies sinks; each has to be clean.
    pub fn verified(&self, sinks: &[&str]) {
        for sink in sinks {
            let printed = self.succeed("primalcore", &["audit", "verify", "--sink", sink, "--json"]);
            let reports: Vec<Value> = serde_json::from_str(&printed).unwrap();
            assert!(!reports.is_empty());
            for report in reports {
                assert_eq!(report.get("verified"), report.get("records"), "{report:#?}");
            }
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
