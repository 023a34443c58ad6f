//! Several workers of one sink: one frozen past its session in the midst of a write, and all restarted in turn.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use primal_core::{Collection, Offset, Partition};
use primal_tests::checks;
use primal_tests::load::{Load, Pace, Way};
use primal_tests::proxy::{Proxy, Weather};
use sqlx::{Connection, PgConnection, Row};
use tokio_util::sync::CancellationToken;

use crate::scene::{CACHE, KAFKA, PATIENCE, PG, PG_EVENTS, Scene, servers};

const PACE: Pace = Pace { batch: 30, pause: Duration::from_millis(60), most: u64::MAX };

fn ways(direct: &Way) -> [Way; 2] {
    [direct.clone(), direct.clone()]
}

/// How many transactions have been open in PostgreSQL for longer than any that is being worked on.
async fn stuck_transactions() -> i64 {
    let mut connection = PgConnection::connect(&servers().postgres.url()).await.unwrap();
    let ask = "SELECT count(*) FROM pg_stat_activity WHERE xact_start < clock_timestamp() - interval '200 ms' \
               AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    let count = sqlx::query(ask).fetch_one(&mut connection).await.unwrap().get(0);
    connection.close().await.unwrap();
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_in_the_midst_of_a_write_is_harmless_when_it_wakes() {
    // Slow ways to the stores: then a worker is in the midst of a write nearly all the time.
    let (postgres, redis) =
        tokio::task::spawn_blocking(|| (servers().postgres.url(), servers().redis.url())).await.unwrap();
    let slow = Weather::Slow { latency: Duration::from_millis(30), bytes_per_second: 8 << 20 };
    let to_postgres = Proxy::start(postgres.split(['@', '/']).nth(3).unwrap()).await.unwrap();
    let to_redis = Proxy::start(redis.trim_start_matches("redis://").trim_end_matches('/')).await.unwrap();
    [&to_postgres, &to_redis].into_iter().for_each(|proxy| proxy.set(slow));
    let events = PG_EVENTS.replace("{pg}", &format!("postgres://postgres@127.0.0.1:{}/postgres", to_postgres.port()));
    let cache = CACHE.replace("{redis}", &format!("redis://127.0.0.1:{}", to_redis.port()));
    let scene = Scene::set(KAFKA, 4, &[PG, &events, &cache]).await;
    let mut hubs = [scene.hub("one"), scene.hub("two")];
    hubs.iter_mut().for_each(primal_tests::Hub::start);
    let load = Load::start(&scene.ledger, ways(&scene.direct), PACE);
    let sinks = &scene.inside.config.sinks;
    moving(&scene).await;
    // Until the two have shared the partitions.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (mut midst, mut turns) = (0, 0);
    // A late write is not tried when the worker hears first that its partitions are gone: once more then.
    for turn in 0..5 {
        turns += 1;
        // Freeze again and again until a transaction is found open: then it is in the midst of a write.
        for _ in 0..20 {
            hubs[turn % 2].freeze(true);
            tokio::time::sleep(Duration::from_millis(250)).await;
            if stuck_transactions().await > 0 {
                midst += 1;
                break;
            }
            hubs[turn % 2].freeze(false);
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        let frozen = Instant::now();
        // The other takes over and goes on, past everything that was there at the freeze.
        for sink in sinks {
            let ends = checks::ends(&scene.inside, sink).await.unwrap();
            let reached = checks::reached(&scene.inside, sink, &ends, PATIENCE).await;
            reached.with_context(|| hubs[1 - turn % 2].log()).unwrap();
        }
        println!("figure: taken over {:.1} s after the freeze", frozen.elapsed().as_secs_f64());
        assert!(frozen.elapsed() > Duration::from_secs(4), "the session had not ended");
        hubs[turn % 2].freeze(false);
        tokio::time::sleep(Duration::from_secs(2)).await;
        if turns >= 2 && fenced(&hubs, "pg") > 0 && fenced(&hubs, "cache") > 0 {
            break;
        }
    }
    load.finish().await;
    scene.is_well(&hubs.each_ref()).await;
    let (postgres, redis) = (fenced(&hubs, "pg"), fenced(&hubs, "cache"));
    println!(
        "figure: {midst} of {turns} freezes in the midst of a write to PostgreSQL; late writes fenced: {postgres} by PostgreSQL, \
         {redis} by Redis; {} events",
        scene.ledger.events()
    );
    assert!(midst >= 2, "the freezes missed the writes");
    assert!(postgres >= 1 && redis >= 1, "no late write was ever tried: PostgreSQL fenced {postgres}, Redis {redis}");
}

/// How many late writes the stores of sinks whose name begins so have fenced.
fn fenced(hubs: &[primal_tests::Hub], sink: &str) -> usize {
    let name = format!("sink=\"{sink}");
    let count = |hub: &primal_tests::Hub| {
        hub.log().lines().filter(|line| line.contains("fenced") && line.contains(&name)).count()
    };
    hubs.iter().map(count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_stall_nothing_and_double_nothing() {
    let scene = Arc::new(Scene::set(KAFKA, 6, &[PG, PG_EVENTS, CACHE]).await);
    let mut hubs = [scene.hub("one"), scene.hub("two"), scene.hub("three")];
    hubs.iter_mut().for_each(primal_tests::Hub::start);
    let load = Load::start(&scene.ledger, ways(&scene.direct), PACE);
    moving(&scene).await;
    let watch = Watch::start(&scene);
    for kill in [false, true, false, true] {
        for hub in &mut hubs {
            match kill {
                true => hub.kill(),
                false => drop(tokio::task::block_in_place(|| hub.terminate())),
            }
            hub.start();
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }
    let rolling = watch.finish().await;
    // Gone for good: the others take over what it had, after its session.
    let watch = Watch::start(&scene);
    let [_, _, third] = &mut hubs;
    third.kill();
    tokio::time::sleep(Duration::from_secs(9)).await;
    let gone = watch.finish().await;
    load.finish().await;
    scene.is_well(&hubs.each_ref()).await;
    let (rolling, gone) = (rolling.as_secs_f64(), gone.as_secs_f64());
    let events = scene.ledger.events();
    println!(
        "figure: longest stall of a partition: {rolling:.1} s in 12 restarts, {gone:.1} s when one did not come back; {events} events"
    );
    assert!(rolling < 10.0 && gone < 10.0);
}

/// Looks for the longest time that any partition did not move, until it is finished.
struct Watch(CancellationToken, tokio::task::JoinHandle<Duration>);

impl Watch {
    fn start(scene: &Arc<Scene>) -> Self {
        let stop = CancellationToken::new();
        let watching = tokio::spawn(longest_gap(scene.clone(), stop.clone()));
        Watch(stop, watching)
    }

    async fn finish(self) -> Duration {
        self.0.cancel();
        self.1.await.unwrap()
    }
}

/// Waits until every sink applies something.
async fn moving(scene: &Scene) {
    let until = Instant::now() + PATIENCE;
    for sink in &scene.inside.config.sinks {
        while checks::places(&scene.inside, sink).await.unwrap_or_default().is_empty() {
            assert!(Instant::now() < until, "{} applies nothing", sink.name);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Something comes for every partition all the time, so one that does not move is stalled.
async fn longest_gap(scene: Arc<Scene>, stop: CancellationToken) -> Duration {
    let mut longest = Duration::ZERO;
    let mut seen: HashMap<(String, Collection, Partition), (Offset, Instant)> = HashMap::new();
    while !stop.is_cancelled() {
        for sink in &scene.inside.config.sinks {
            let Ok(places) = checks::places(&scene.inside, sink).await else { continue };
            for ((collection, partition), offset) in places {
                let now = Instant::now();
                let (before, since) = seen.entry((sink.name.clone(), collection, partition)).or_insert((offset, now));
                longest = longest.max(since.elapsed());
                if *before != offset {
                    (*before, *since) = (offset, now);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    longest
}
