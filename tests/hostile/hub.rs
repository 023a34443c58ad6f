//! A hub as a process: `primalcore dev` on a free port, and what the kernel says of its memory.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub struct Hub {
    pub address: SocketAddr,
    folder: PathBuf,
    process: Child,
    _own: Option<tempfile::TempDir>,
}

/// Resident memory in MB.
pub struct Memory {
    pub resident: u64,
    pub peak: u64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MB, at most {} MB", self.resident, self.peak)
    }
}

impl Hub {
    /// On empty data of its own.
    pub async fn start() -> Self {
        let own = tempfile::tempdir().unwrap();
        let mut hub = Hub::start_in(own.path()).await;
        hub._own = Some(own);
        hub
    }

    /// On data in a folder that outlives it.
    pub async fn start_in(folder: &Path) -> Self {
        // Test binaries lie in target/<profile>/deps; the programs one folder up.
        let program = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("primalcore");
        assert!(program.exists(), "{} is missing: `cargo build -p primalcore --bins` makes it", program.display());
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = std::fs::File::create(folder.join("hub.log")).unwrap();
        let process = Command::new(program)
            .args(["dev", "--listen", &free.to_string(), "--collections", "things"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let hub = Hub { address: free, folder: folder.to_owned(), process, _own: None };
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(free).await.is_ok() {
                return hub;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the hub did not start: {}", hub.log());
    }

    /// Ends it with SIGKILL.
    pub fn kill(self) {
        drop(self);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("hub.log")).unwrap_or_default()
    }

    pub fn memory(&self) -> Memory {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let megabytes = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
        };
        Memory { resident: megabytes("VmRSS:"), peak: megabytes("VmHWM:") }
    }

    /// What it says of its connections: how many are open, and how many made room for others.
    pub async fn connections(&self) -> String {
        let answer = primal_tests::http()
            .get(format!("http://{}/metrics", self.address))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let told = answer.lines().filter(|line| line.starts_with("primalcore_gateway_"));
        told.collect::<Vec<_>>().join(", ")
    }

    /// Nothing panicked, and the log is no flood.
    pub fn is_well(&self) {
        let log = self.log();
        assert!(!log.contains("panicked"), "{log}");
        assert!(log.lines().count() < 1_000, "{} lines in the hub's log", log.lines().count());
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
