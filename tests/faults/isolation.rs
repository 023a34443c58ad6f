//! One store of three is stopped, made a hundred times slower, and swallowed by the network: the other sinks do not notice.

use std::time::{Duration, Instant};

use primal_core::Offset;
use primal_tests::checks;
use primal_tests::load::{Load, Pace};
use primal_tests::proxy::{Proxy, Weather};

use crate::scene::{FILE, KAFKA, PG, Scene, servers};

const PHASE: Duration = Duration::from_secs(5);
/// An offered load, the same in all phases: what is compared is whether it is applied as it comes.
const PACE: Pace = Pace { batch: 25, pause: Duration::from_millis(25), most: u64::MAX };

/// What was measured in a phase.
struct Phase {
    weather: Option<&'static str>,
    /// Events applied by the others for each one that was offered to them.
    kept: f64,
    per_second: f64,
    resident_kb: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_trouble_holds_back_no_other() {
    let server = tokio::task::spawn_blocking(|| servers().redis.url()).await.unwrap();
    let address = server.trim_start_matches("redis://").trim_end_matches('/').to_owned();
    let proxy = Proxy::start(&address).await.unwrap();
    let cache = format!(
        "  cache: {{ type: redis, url: \"redis://127.0.0.1:{}\", prefix: \"{{id}}:\", collections: [orders] }}\n",
        proxy.port()
    );
    let scene = Scene::set(KAFKA, 4, &[PG, FILE, &cache]).await;
    let mut hub = scene.hub("one");
    hub.start();
    let load = Load::start(&scene.ledger, [scene.direct.clone(), scene.direct.clone()], PACE);
    tokio::time::sleep(Duration::from_secs(3)).await;
    // A write to Redis takes 1 to 2 ms here.
    let slow = Weather::Slow { latency: Duration::from_millis(100), bytes_per_second: 1 << 20 };
    let bad = [("stopped", Weather::Reset), ("100 times slower", slow), ("black hole", Weather::BlackHole)];
    let mut phases = vec![phase(&scene, &hub, None).await];
    for (name, weather) in bad {
        proxy.set(weather);
        phases.push(phase(&scene, &hub, Some(name)).await);
        proxy.set(Weather::Fair);
        phases.push(phase(&scene, &hub, None).await);
    }
    load.finish().await;
    scene.is_well(&[&hub]).await;
    for Phase { weather, kept, per_second, resident_kb } in &phases {
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
    assert!(worst >= 0.95, "the others kept {worst:.3} of what came");
    let (healthy, most) = (phases[0].resident_kb, phases.iter().map(|p| p.resident_kb).max().unwrap());
    assert!(most < healthy * 3 / 2 + 65_536, "resident memory grew from {healthy} to {most} kB");
}

async fn phase(scene: &Scene, hub: &primal_tests::Hub, weather: Option<&'static str>) -> Phase {
    let others: Vec<_> = scene.inside.config.sinks.iter().filter(|sink| sink.name != "cache").collect();
    let (mut before, mut came) = (0, 0);
    for sink in &others {
        before += checks::sum(&checks::places(&scene.inside, sink).await.unwrap());
        came += checks::sum(&checks::ends(&scene.inside, sink).await.unwrap());
    }
    let started = Instant::now();
    tokio::time::sleep(PHASE).await;
    let (mut after, mut come) = (0, 0);
    for sink in &others {
        after += checks::sum(&checks::places(&scene.inside, sink).await.unwrap());
        come += checks::sum(&checks::ends(&scene.inside, sink).await.unwrap());
    }
    let seconds = started.elapsed().as_secs_f64();
    let applied: Offset = after - before;
    assert!(come > came, "nothing came");
    Phase {
        weather,
        kept: applied as f64 / (come - came) as f64,
        per_second: applied as f64 / seconds / others.len() as f64,
        resident_kb: hub.resident_kb(),
    }
}
