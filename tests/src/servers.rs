//! Real servers for tests, started by the scripts in `tests/servers`. A server that cannot be had fails the test that
//! wants it. None outlives the test process: a watchdog ends it when that is gone, even after a kill.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::hub::free_port;

/// Variables of a Kafka that is killed and started again: what compiles less is up sooner, and after a kill the broker is
/// let in again only when the session of the one before is over.
const QUICK_KAFKA: &[(&str, &str)] = &[
    ("KAFKA_JVM", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"),
    ("KAFKA_CONF_EXTRA", "broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=300"),
];

/// A running server of its own, with empty data.
pub struct Server {
    name: String,
    data: PathBuf,
    variables: Vec<(String, String)>,
}

impl Server {
    /// Starts a server by the script of that name, on free ports.
    ///
    /// # Panics
    /// It cannot be had; with what the script said.
    pub fn start(name: &str) -> Self {
        Server::start_with(name, &[])
    }

    /// The same with further variables for the script.
    ///
    /// # Panics
    /// It cannot be had; with what the script said.
    pub fn start_with(name: &str, variables: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Not a private folder: some servers refuse to run as root and drop to a user that has to pass it.
        let data = std::env::temp_dir().join(format!("primalcore-tests/{name}-{}-{number}", std::process::id()));
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o755).create(&data);
        assert!(made.is_ok(), "{}: {made:?}", data.display());
        let mut all = vec![
            ("DATA_DIR".to_owned(), data.display().to_string()),
            ("PORT".to_owned(), free_port().to_string()),
            ("CONTROLLER_PORT".to_owned(), free_port().to_string()),
        ];
        all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let server = Server { name: name.to_owned(), data, variables: all };
        server.watch();
        server.script("start");
        server
    }

    /// How a client reaches it.
    pub fn url(&self) -> String {
        self.script("url").trim().to_owned()
    }

    /// Starts it again after [`Server::kill`] or [`Server::stop`], with its data and on its port.
    pub fn restart(&self) {
        self.script("start");
    }

    /// Ends it in good order.
    pub fn stop(&self) {
        self.script("stop");
    }

    /// Ends it with SIGKILL.
    pub fn kill(&self) {
        let process = std::fs::read_to_string(self.data.join("pid")).unwrap_or_default();
        self.signal("-KILL");
        let _ = std::fs::remove_file(self.data.join("pid"));
        // Its port is free once it is gone, whether or not anybody has reaped it.
        let stat = Path::new("/proc").join(process.trim()).join("stat");
        while std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Freezes it.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Wakes it.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.data.join("pid")).unwrap_or_default();
        let done = Command::new("kill").args([signal, pid.trim()]).status();
        assert!(done.is_ok_and(|status| status.success()), "kill {signal} of {} ({pid:?}) failed", self.name);
    }

    fn script(&self, verb: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers").join(&self.name);
        let ran = Command::new(&path)
            .arg(verb)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output();
        match ran {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            Ok(output) => panic!("{} {verb}: {}", path.display(), String::from_utf8_lossy(&output.stderr)),
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }

    /// Ends the server and removes its data once this process is gone.
    fn watch(&self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers").join(&self.name);
        let (pid, data) = (std::process::id(), self.data.display());
        let watch =
            format!("while kill -0 {pid} 2>/dev/null; do sleep 1; done; '{}' stop; rm -rf '{data}'", script.display());
        let spawned = Command::new("setsid")
            .args(["bash", "-c", &watch])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        assert!(spawned.is_ok(), "no watchdog for {}: {spawned:?}", self.name);
    }
}

/// Servers that are killed and started again.
pub struct Servers {
    /// One broker.
    pub kafka: Server,
    /// PostgreSQL.
    pub postgres: Server,
    /// Redis.
    pub redis: Server,
}

impl Servers {
    /// Starts them all.
    ///
    /// # Panics
    /// One cannot be had.
    pub fn start() -> Self {
        let kafka = Server::start_with("kafka", QUICK_KAFKA);
        Servers { kafka, postgres: Server::start("postgres"), redis: Server::start("redis") }
    }
}

/// The address of a server that all tests of this process share.
///
/// # Panics
/// It cannot be had.
pub fn shared(name: &str) -> String {
    static SERVERS: Mutex<Option<HashMap<String, Server>>> = Mutex::new(None);
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    let servers = servers.get_or_insert_default();
    servers.entry(name.to_owned()).or_insert_with(|| Server::start(name)).url()
}
