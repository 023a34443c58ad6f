//! One store of three is stopped, made a hundred times slower, and swallowed by the network: the other sinks do not notice,
//! neither at a load that leaves room nor when there is more to do than can be done.

use std::time::{Duration, Instant};

use primal_core::Offset;
use primal_tests::checks;
use primal_tests::load::{self, Load, Pace};
use primal_tests::proxy::{Proxy, Weather};

use crate::scene::{FILE, FILE_EVENTS, KAFKA, PG, PG_EVENTS, Scene, servers};

const PHASE: Duration = Duration::from_secs(5);
/// Of a backlog; short and many, so that whatever else the machine does falls on all sorts of phases alike.
const SHORT: Duration = Duration::from_millis(300);
/// How often each trouble comes at least while a backlog is worked off. As long as the figures say less than what is
/// promised and the backlog lasts, it comes again: noise goes out with more of them, a real loss does not.
const TURNS: usize = 3;
/// What the others keep of their throughput in trouble.
const PROMISED: f64 = 0.98;
/// What fails the test where both processors are taken and every phase is as long as chance has it: a sink that waits for
/// another keeps far less.
const NOISE: f64 = 0.9;
/// More events than the phases can take.
const BACKLOG: u64 = 400_000;
/// An offered load, the same in all phases: what is compared is whether it is applied as it comes.
const PACE: Pace = Pace { batch: 25, pause: Duration::from_millis(25), most: u64::MAX };

/// What was measured in a phase.
struct Phase {
    weather: Option<&'static str>,
    /// Events that came for the others.
    came: Offset,
    /// Events applied by the others for each one that came.
    kept: f64,
    per_second: f64,
    resident_kb: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_trouble_holds_back_no_other() {
    let (proxy, cache) = cache_behind_a_proxy().await;
    let scene = Scene::set(KAFKA, 4, &[PG, FILE, &cache]).await;
    let mut hub = scene.hub("one");
    hub.start();
    let load = Load::start(&scene.ledger, [scene.direct.clone(), scene.direct.clone()], PACE);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut phases = vec![phase(&scene, &hub, None, PHASE).await];
    for (name, weather) in bad() {
        proxy.set(weather);
        phases.push(phase(&scene, &hub, Some(name), PHASE).await);
        proxy.set(Weather::Fair);
        phases.push(phase(&scene, &hub, None, PHASE).await);
    }
    load.finish().await;
    scene.is_well(&[&hub]).await;
    assert!(phases.iter().all(|phase| phase.came > 0), "nothing came");
    for Phase { weather, kept, per_second, resident_kb, .. } in &phases {
        let weather = weather.unwrap_or("healthy");
        println!(
            "figure: {weather:<16} the others: {per_second:6.0} events/s, {:.1} % of what came; resident {} MB",
            kept * 100.0,
            resident_kb / 1024
        );
    }
    let mean = |bad: bool| {
        let chosen: Vec<_> = phases.iter().filter(|p| p.weather.is_some() == bad).map(|p| p.kept).collect();
        chosen.iter().sum::<f64>() / chosen.len() as f64
    };
    println!(
        "figure: kept while a store is in trouble: {:.1} % of the healthy phases",
        mean(true) / mean(false) * 100.0
    );
    let worst = phases.iter().filter(|p| p.weather.is_some()).map(|p| p.kept).fold(f64::INFINITY, f64::min);
    assert!(worst >= PROMISED, "the others kept {worst:.3} of what came");
    let (healthy, most) = (phases[0].resident_kb, phases.iter().map(|p| p.resident_kb).max().unwrap());
    assert!(most < healthy * 3 / 2 + 65_536, "resident memory grew from {healthy} to {most} kB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_trouble_slows_no_other_that_works_off_a_backlog() {
    let (proxy, cache) = cache_behind_a_proxy().await;
    // Each event is a row of its own in these: what folds to a few hundred keys would be done in seconds.
    // In small batches: a phase is to see many of them.
    let small = [PG_EVENTS, FILE_EVENTS].map(|sink| sink.replace(" }", ", delivery: { batch_events: 1000 } }"));
    let scene = Scene::set(KAFKA, 4, &[&small[0], &small[1], &cache]).await;
    for _ in 0..BACKLOG / 20_000 {
        load::publish(&scene.ledger, &scene.direct, 20_000).await;
    }
    let mut hub = scene.hub("one");
    hub.start();
    let sinks = &scene.inside.config.sinks;
    while checks::places(&scene.inside, &sinks[0]).await.unwrap_or_default().is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut phases = vec![phase(&scene, &hub, None, SHORT).await];
    let mut turns = 0;
    while lasts(&scene).await && (turns < TURNS || worst(&phases) < PROMISED) {
        for (name, weather) in bad() {
            proxy.set(weather);
            phases.push(phase(&scene, &hub, Some(name), SHORT).await);
            proxy.set(Weather::Fair);
            phases.push(phase(&scene, &hub, None, SHORT).await);
        }
        turns += 1;
    }
    assert!(turns >= TURNS, "the backlog was worked off after {turns} turns");
    scene.is_well(&[&hub]).await;
    println!("figure: backlog, healthy: the others apply {:.0} events/s each", median(&phases, None));
    for (name, _) in bad() {
        let kept = median(&phases, Some(name)) / median(&phases, None);
        println!("figure: backlog, {name}: the others keep {:.1} % of that, {turns} times", kept * 100.0);
    }
    let worst = worst(&phases);
    assert!(worst >= NOISE, "the others kept {worst:.3} of their throughput");
    let (first, most) = (phases[0].resident_kb, phases.iter().map(|p| p.resident_kb).max().unwrap());
    println!("figure: backlog: resident {} MB at first, {} MB at most", first / 1024, most / 1024);
    assert!(most < first * 3 / 2 + 65_536, "resident memory grew from {first} to {most} kB");
}

/// Whether every healthy sink has enough to do for one turn more.
async fn lasts(scene: &Scene) -> bool {
    for sink in scene.inside.config.sinks.iter().filter(|sink| sink.name != "cache") {
        let ends = checks::sum(&checks::ends(&scene.inside, sink).await.unwrap());
        let places = checks::sum(&checks::places(&scene.inside, sink).await.unwrap());
        if places > ends - Offset::try_from(BACKLOG / 5).unwrap() {
            return false;
        }
    }
    true
}

/// Events per second in the phases of a sort; the median, because a disk that is busy stops a phase or two.
fn median(phases: &[Phase], weather: Option<&str>) -> f64 {
    let mut chosen: Vec<_> = phases.iter().filter(|p| p.weather == weather).map(|p| p.per_second).collect();
    chosen.sort_by(f64::total_cmp);
    chosen.swap_remove(chosen.len() / 2)
}

/// What the others keep of their throughput in the worst sort of trouble.
fn worst(phases: &[Phase]) -> f64 {
    let kept = |(name, _)| median(phases, Some(name)) / median(phases, None);
    bad().map(kept).into_iter().fold(f64::INFINITY, f64::min)
}

/// What happens to a store. A write to Redis takes 1 to 2 ms here when nothing does.
fn bad() -> [(&'static str, Weather); 3] {
    let slow = Weather::Slow { latency: Duration::from_millis(100), bytes_per_second: 1 << 20 };
    [("stopped", Weather::Reset), ("100 times slower", slow), ("black hole", Weather::BlackHole)]
}

/// A way to Redis that can be spoilt, and a sink that takes it.
async fn cache_behind_a_proxy() -> (Proxy, String) {
    let server = tokio::task::spawn_blocking(|| servers().redis.url()).await.unwrap();
    let address = server.trim_start_matches("redis://").trim_end_matches('/').to_owned();
    let proxy = Proxy::start(&address).await.unwrap();
    let cache = format!(
        "  cache: {{ type: redis, url: \"redis://127.0.0.1:{}\", prefix: \"{{id}}:\", collections: [orders] }}\n",
        proxy.port()
    );
    (proxy, cache)
}

async fn phase(scene: &Scene, hub: &primal_tests::Hub, weather: Option<&'static str>, lasts: Duration) -> Phase {
    let others: Vec<_> = scene.inside.config.sinks.iter().filter(|sink| sink.name != "cache").collect();
    let (mut before, mut came) = (0, 0);
    for sink in &others {
        before += checks::sum(&checks::places(&scene.inside, sink).await.unwrap());
        came += checks::sum(&checks::ends(&scene.inside, sink).await.unwrap());
    }
    let started = Instant::now();
    tokio::time::sleep(lasts).await;
    let (mut after, mut come) = (0, 0);
    for sink in &others {
        after += checks::sum(&checks::places(&scene.inside, sink).await.unwrap());
        come += checks::sum(&checks::ends(&scene.inside, sink).await.unwrap());
    }
    let seconds = started.elapsed().as_secs_f64();
    let applied: Offset = after - before;
    Phase {
        weather,
        came: come - came,
        kept: applied as f64 / (come - came) as f64,
        per_second: applied as f64 / seconds / others.len() as f64,
        resident_kb: hub.resident_kb(),
    }
}
