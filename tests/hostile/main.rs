//! The gateway of a real hub among hostile clients: ten thousand connections that say nothing or not enough, bodies without
//! end, broken and random bytes, and readers that do not read. Meanwhile healthy requests are answered and memory stays
//! bounded; the last line of the output says how well.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that fails says so by panicking"
)]

mod attacks;
mod hub;
mod parsing;
mod probe;
mod receipts;

use std::time::Duration;

use attacks::Crowd;
use hub::Hub;
use probe::Probe;

/// Connections that are held open; more than the hub's default limit, so that it is reached.
const CONNECTIONS: usize = 11_000;
/// What the hub may use at its worst, in MB: each connection's buffers, and the room for bodies.
const MOST_MB: u64 = 700;

#[test]
fn healthy_requests_are_answered_among_hostile_ones_and_memory_is_bounded() {
    let limit = rlimit::increase_nofile_limit(CONNECTIONS as u64 + 2_000).unwrap();
    let connections = CONNECTIONS.min(limit.saturating_sub(2_000) as usize);
    if connections < CONNECTIONS {
        println!("figure: only {connections} connections: this machine's hard limit is {limit} open files");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(under_attack(connections));
}

async fn under_attack(connections: usize) {
    let hub = Hub::start().await;
    let before = hub.memory().resident;
    let quiet = Probe::start(hub.address).during(Duration::from_secs(2)).await;
    println!("figure: quiet: {quiet}");
    let mut worst = probe::Figures::default();
    let mut attack = async |name: &str, probe: Probe| {
        let figures = probe.finish().await;
        println!("figure: {name}: {figures}; memory {}", hub.memory());
        hub.is_well();
        worst.add(figures);
    };

    let probe = Probe::start(hub.address);
    let crowd = Crowd::open(hub.address, connections).await;
    let (opened, seconds) = (crowd.opened(), crowd.seconds);
    println!(
        "figure: {opened} connections opened in {seconds:.1} s; of the hub's own count: {}",
        hub.connections().await
    );
    tokio::time::sleep(Duration::from_secs(6)).await;
    attack("silent, half-sent, slow", probe).await;
    drop(crowd);

    let probe = Probe::start(hub.address);
    attacks::endless_bodies(hub.address).await;
    attack("bodies without end", probe).await;

    let probe = Probe::start(hub.address);
    attacks::long_lines(hub.address).await;
    attack("lines without end", probe).await;

    let probe = Probe::start(hub.address);
    attacks::gibberish(hub.address).await;
    attack("broken and random bytes, floods of headers", probe).await;

    let probe = Probe::start(hub.address);
    attacks::unread_answers(hub.address).await;
    attack("answers that nobody reads", probe).await;

    let after = hub.memory();
    println!(
        "figure: hostile: {opened} connections, healthy p50 {} ms, p99 {} ms, resident memory {before} -> {} MB",
        worst.percentile(50),
        worst.percentile(99),
        after.peak
    );
    assert_eq!(worst.failed, 0, "healthy requests failed: {worst}");
    assert!(worst.percentile(99) <= 1_000, "{worst}");
    assert!(after.peak <= MOST_MB, "{after}");
}
