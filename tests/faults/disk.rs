//! Full disks: a small file system of its own under the embedded log, and under the SQLite sink. Whoever writes is told,
//! what was acknowledged stays, and it goes on by itself when there is room.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use primal_tests::checks::{self, Books, Tally};
use primal_tests::load::{self, Way};
use serde_json::Value;

use crate::scene::{EMBEDDED, FILE, Scene};

/// A file system in memory, with ballast in it that can be thrown out.
pub struct Disk(PathBuf);

impl Disk {
    pub fn mount(at: &Path, megabytes: u32) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output().unwrap();
        assert!(mounted.status.success(), "a full disk needs root: {}", String::from_utf8_lossy(&mounted.stderr));
        Disk(at.to_path_buf())
    }

    /// Leaves so many bytes of room.
    pub fn fill(&self, but: u64) {
        let asked = Command::new("df").args(["--output=avail", "-B1"]).arg(&self.0).output().unwrap();
        let text = String::from_utf8(asked.stdout).unwrap();
        let room: u64 = text.lines().last().unwrap().trim().parse().unwrap();
        let ballast = vec![0; usize::try_from(room.saturating_sub(but)).unwrap()];
        let written = std::fs::write(self.0.join("ballast"), ballast);
        // Whoever else writes may take the rest meanwhile.
        assert!(written.is_ok() || written.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull));
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what is still open goes with its last user.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn put(port: u16, key: &str) -> (u16, Value) {
    let url = format!("http://127.0.0.1:{port}/v1/collections/orders/entities/{key}");
    let body = format!("{{\"n\":1,\"text\":\"{}\"}}", "x".repeat(20_000));
    let answer = primal_tests::http().put(url).body(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_embedded_log_is_told_and_passes() {
    let log = EMBEDDED.replace("log.db", "disk/log.db");
    let scene = Scene::set_with(&log, 2, &[FILE], |folder| Disk::mount(&folder.join("disk"), 16)).await;
    let (mut hub, gateway) = scene.gateway();
    hub.start();
    load::publish(&scene.ledger, &gateway, 200).await;
    let Way::Gateway(_, port) = gateway else { unreachable!("it is one") };
    scene.held.fill(600_000);
    let (mut kept, mut refused) = (0, Value::Null);
    for n in 0..200 {
        match put(port, &format!("full-{n}")).await {
            (201, _) => kept += 1,
            (507, problem) => {
                refused = problem;
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused["detail"].as_str().unwrap_or_default().contains("no room"), "after {kept}: {refused}");
    // It goes on answering that, and what was acknowledged is applied meanwhile.
    assert_eq!(put(port, "full-again").await.0, 507);
    scene.held.make_room();
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while put(port, "room").await.0 != 201 {
        assert!(std::time::Instant::now() < until, "it does not recover: {}", hub.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    load::publish(&scene.ledger, &Way::Gateway(primal_tests::http(), port), 200).await;
    checks::caught_up(&scene.inside, Duration::from_secs(30)).await.unwrap();
    let ends = checks::ends(&scene.inside, &scene.inside.config.sinks[0]).await.unwrap();
    assert!(checks::sum(&ends) > 300 + kept, "{ends:?} with {kept} acknowledged before it was full");
    assert_eq!(Books::default().tally(&scene.inside, scene.ledger.events()).await.unwrap(), Tally::default());
    assert_eq!(checks::differences(&scene.inside).await.unwrap(), Vec::<String>::new());
    println!("figure: {kept} events were acknowledged before the disk was full, then 507; all are there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_a_sqlite_sink_holds_back_only_that_sink() {
    let full = FILE.replace("file:", "full:").replace("file.sqlite", "disk/full.sqlite");
    let scene = Scene::set_with(EMBEDDED, 2, &[FILE, &full], |folder| Disk::mount(&folder.join("disk"), 8)).await;
    let mut hub = scene.hub("one");
    hub.start();
    load::publish(&scene.ledger, &scene.direct, 200).await;
    checks::caught_up(&scene.inside, Duration::from_secs(30)).await.unwrap();
    scene.held.fill(100_000);
    load::publish(&scene.ledger, &scene.direct, 8_000).await;
    let told = |rows: &[Value]| {
        let full = |row: &Value| {
            row["sink"] == "full" && row["state"] == "retrying" && row["error"].to_string().contains("full")
        };
        rows.iter().any(full) && rows.iter().any(|row| row["sink"] == "file" && row["lag_events"] == 0)
    };
    tokio::task::block_in_place(|| hub.wait("telling that the disk is full", Duration::from_secs(30), told));
    scene.held.make_room();
    scene.is_well(&[&hub]).await;
}
