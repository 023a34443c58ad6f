//! What a receipt is worth: the broker, or the hub over the embedded log, is killed right after it, and the event is there.

use std::time::Duration;

use primal_tests::checks::{Books, Tally};
use primal_tests::load::{Load, Pace};

use crate::scene::{EMBEDDED, FILE, FILE_EVENTS, KAFKA, Scene, servers};

const PACE: Pace = Pace { batch: 20, pause: Duration::ZERO, most: u64::MAX };

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_broker_acknowledged_is_there() {
    let scene = Scene::set(KAFKA, 3, &[FILE]).await;
    let mut books = Books::default();
    for round in 0..3 {
        let load = Load::start(&scene.ledger, vec![scene.direct.clone(); 4], PACE);
        // Killed in the midst of receipts: the last one is microseconds old.
        let receipts = scene.ledger.acknowledged() + 200 * (round + 1);
        while scene.ledger.acknowledged() < receipts {
            tokio::task::yield_now().await;
        }
        tokio::task::block_in_place(|| servers().kafka.kill());
        let acknowledged = scene.ledger.acknowledged();
        tokio::task::block_in_place(|| servers().kafka.restart());
        load.finish().await;
        let Tally { lost, doubled } = books.tally(&scene.inside, scene.ledger.events()).await.unwrap();
        assert_eq!((lost, doubled), (0, 0), "{acknowledged} were acknowledged at the kill");
    }
    println!(
        "figure: 3 brokers killed right after receipts: {} events, none lost, none doubled",
        scene.ledger.events()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_embedded_log_acknowledged_is_there() {
    let scene = Scene::set(EMBEDDED, 2, &[FILE, FILE_EVENTS]).await;
    let (mut hub, gateway) = scene.gateway();
    for _ in 0..10 {
        hub.start();
        let load = Load::start(&scene.ledger, vec![gateway.clone(); 4], PACE);
        let receipts = scene.ledger.acknowledged() + 100;
        while scene.ledger.acknowledged() < receipts {
            tokio::task::yield_now().await;
        }
        hub.kill();
        hub.start();
        load.finish().await;
        hub.kill();
    }
    hub.start();
    scene.is_well(&[&hub]).await;
    println!("figure: 20 hubs over the embedded log killed right after receipts: {} events", scene.ledger.events());
}
