//! A replay as a process of its own, and what other shells are told of it.

#![expect(clippy::indexing_slicing, reason = "JSON that is not as expected fails the test")]

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Hub, program};

/// A replay at work; it is killed when the test ends.
pub struct Replay(Child);

impl Drop for Replay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Replay {
    /// Starts one with these arguments, beside a hub.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(hub: &Hub, arguments: &[&[&str]]) -> Self {
        let said = std::fs::File::create(hub.folder.path().join("replay.err")).unwrap();
        let mut command = Command::new(program("replay"));
        command.args(arguments.concat()).current_dir(&hub.folder).stdout(Stdio::null()).stderr(said);
        Replay(command.spawn().unwrap())
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// It cannot be killed.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end.
    pub fn ended(mut self) -> ExitStatus {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the replay does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What the replay that was started last has said.
pub fn said(hub: &Hub) -> String {
    std::fs::read_to_string(hub.folder.path().join("replay.err")).unwrap_or_default()
}

/// All jobs, the newest first.
///
/// # Panics
/// They cannot be listed.
pub fn list(hub: &Hub) -> Vec<Value> {
    serde_json::from_str(&hub.succeed("replay", &["list", "--json"])).unwrap()
}

/// One job.
///
/// # Panics
/// There is none of that id.
pub fn status(hub: &Hub, id: &str) -> Value {
    let jobs: Value = serde_json::from_str(&hub.succeed("replay", &["status", id, "--json"])).unwrap();
    jobs[0].clone()
}

/// How many events the first part of a job has seen.
///
/// # Panics
/// It does not say.
pub fn done(job: &Value) -> u64 {
    job["parts"][0]["done"].as_u64().unwrap()
}

/// Waits until the newest job has begun to write; its id.
///
/// # Panics
/// It does not.
pub fn at_work(hub: &Hub) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let jobs = list(hub);
        let newest = jobs.first().filter(|job| job["state"] == "running" && done(job) > 0);
        if let Some(job) = newest {
            return job["id"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < until, "{jobs:#?} {}", said(hub));
        std::thread::sleep(Duration::from_millis(100));
    }
}
