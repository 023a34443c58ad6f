//! Several workers of one sink: one frozen past its session in the midst of a write, and all restarted in turn.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use primal_core::{Collection, Offset, Partition};
use primal_tests::Hub;
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

/// How many transactions have been open in PostgreSQL for so many milliseconds.
async fn open_transactions(for_ms: i32) -> i64 {
    let mut connection = PgConnection::connect(&servers().postgres.url()).await.unwrap();
    let ask = "SELECT count(*) FROM pg_stat_activity WHERE xact_start < clock_timestamp() - $1 * interval '1 ms' \
               AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    let count = sqlx::query(ask).bind(for_ms).fetch_one(&mut connection).await.unwrap().get(0);
    connection.close().await.unwrap();
    count
}

/// How many writes Redis has fenced since it runs, by its own count of errors.
async fn fenced_by_redis() -> u64 {
    let client = redis::Client::open(servers().redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let text: String = redis::cmd("INFO").arg("errorstats").query_async(&mut connection).await.unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("errorstat_FENCED:count="));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

/// How many late writes PostgreSQL has fenced, as their worker says; none if it heard first that its partitions are gone.
fn fenced_by_postgres(log: &str) -> usize {
    log.lines().filter(|line| line.contains("fenced") && line.contains("sink=\"pg")).count()
}

/// A worker process with ways to the stores of its own.
struct Worker {
    hub: Hub,
    to_postgres: Proxy,
    to_redis: Proxy,
}

impl Worker {
    async fn start(scene: &Scene, instance: &str) -> Self {
        let server = |url: String| url.split(['@', '/']).rfind(|part| part.contains(':')).unwrap().to_owned();
        let (postgres, redis) = (server(servers().postgres.url()), server(servers().redis.url()));
        let (to_postgres, to_redis) = (Proxy::start(&postgres).await.unwrap(), Proxy::start(&redis).await.unwrap());
        let mut hub = scene.hub_by(instance, |config| {
            let local = |proxy: &Proxy| format!("127.0.0.1:{}", proxy.port());
            config.replace(&postgres, &local(&to_postgres)).replace(&redis, &local(&to_redis))
        });
        hub.start();
        Worker { hub, to_postgres, to_redis }
    }

    /// Freezes it while it has a transaction open in PostgreSQL and a write on its way to Redis.
    async fn freeze_in_the_midst(&self) {
        // A slow way: then a transaction is open nearly all the time.
        self.to_postgres.set(Weather::Slow { latency: Duration::from_millis(30), bytes_per_second: 8 << 20 });
        for _ in 0..20 {
            self.to_redis.set(Weather::BlackHole);
            tokio::time::sleep(Duration::from_millis(250)).await;
            self.hub.freeze(true);
            tokio::time::sleep(Duration::from_millis(250)).await;
            if open_transactions(200).await > 0 {
                return;
            }
            self.hub.freeze(false);
            self.to_redis.set(Weather::Fair);
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        panic!("the freezes missed the writes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_in_the_midst_of_a_write_is_harmless_when_it_wakes() {
    let scene = Scene::set(KAFKA, 4, &[PG, PG_EVENTS, CACHE]).await;
    let workers = [Worker::start(&scene, "one").await, Worker::start(&scene, "two").await];
    let load = Load::start(&scene.ledger, ways(&scene.direct), PACE);
    moving(&scene).await;
    // Until the two have shared the partitions.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (mut late, mut half) = (0, 0);
    for (worker, other) in [(0, 1), (1, 0)].map(|(worker, other)| (&workers[worker], &workers[other])) {
        worker.freeze_in_the_midst().await;
        let frozen = Instant::now();
        // The other takes over and goes on, past everything that was there at the freeze.
        for sink in &scene.inside.config.sinks {
            let ends = checks::ends(&scene.inside, sink).await.unwrap();
            let reached = checks::reached(&scene.inside, sink, &ends, PATIENCE).await;
            reached.with_context(|| other.hub.log()).unwrap();
        }
        println!("figure: taken over {:.1} s after the freeze", frozen.elapsed().as_secs_f64());
        assert!(frozen.elapsed() > Duration::from_secs(4), "the session had not ended");
        // What was on its way arrives now, and what was half written is gone on with.
        let before = fenced_by_redis().await;
        worker.to_redis.set(Weather::Fair);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let fenced = fenced_by_redis().await - before;
        assert!(fenced > 0, "no late write came to Redis");
        late += fenced;
        half += open_transactions(4000).await;
        worker.to_postgres.set(Weather::Fair);
        worker.hub.freeze(false);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(open_transactions(4000).await, 0, "a transaction of the frozen worker is still open");
    }
    load.finish().await;
    let hubs = workers.each_ref().map(|worker| &worker.hub);
    scene.is_well(&hubs).await;
    println!(
        "figure: frozen 2 times in the midst of a write: Redis fenced {late} late writes, PostgreSQL had {half} transactions \
         open when the worker woke and fenced {} of its writes; {} events",
        hubs.map(|hub| fenced_by_postgres(&hub.log())).iter().sum::<usize>(),
        scene.ledger.events()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_stall_nothing_and_double_nothing() {
    let scene = Arc::new(Scene::set(KAFKA, 6, &[PG, PG_EVENTS, CACHE]).await);
    let mut hubs = [scene.hub("one"), scene.hub("two"), scene.hub("three")];
    hubs.iter_mut().for_each(Hub::start);
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
