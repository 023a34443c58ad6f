//! One round: load, kill, restart, and everything has to be there.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primal_hub::{Hub, SinkConfig};
use primal_tests::checks::{self, Places, Tally};
use primal_tests::load::{Load, Pace};
use primal_tests::{Server, Servers};

use crate::plan::{Plan, Victim};
use crate::world::World;

/// How long anything may take to be well again.
const PATIENCE: Duration = Duration::from_secs(60);
const PACE: Pace = Pace { batch: 40, pause: Duration::from_millis(25), most: 3_000 };
/// Between two looks at a store.
const LOOK: Duration = Duration::from_millis(3);

/// A store whose positions have not moved for this long has nothing under way.
const REST: Duration = Duration::from_millis(50);

/// What came of a round.
#[derive(Debug, Default)]
pub struct Ended {
    /// From the start of the new process to the first event that a store did not have before: in the first sink, and in
    /// the last of those whose store was not killed.
    pub first: Option<Duration>,
    pub every: Option<Duration>,
    /// Events published in it.
    pub events: u64,
    pub lost: u64,
    pub doubled: u64,
    pub differences: Vec<String>,
    pub took: Duration,
    /// How long its parts took: until the kill, the restart, catching up, the checks.
    pub parts: [Duration; 4],
}

impl Ended {
    pub fn is_bad(&self) -> bool {
        self.lost + self.doubled > 0 || !self.differences.is_empty()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |time: Option<Duration>| time.map_or("-".to_owned(), |t| format!("{}", t.as_millis()));
        let Ended { events, lost, doubled, differences, took, .. } = self;
        let parts: Vec<_> = self.parts.iter().map(|part| format!("{:.1}", part.as_secs_f64())).collect();
        write!(
            f,
            "{events:5} events, lost {lost}, doubled {doubled}, first applied after {} ms, in every sink {} ms; {:.1} s ({})",
            millis(self.first),
            millis(self.every),
            took.as_secs_f64(),
            parts.join(" + ")
        )?;
        differences.iter().try_for_each(|difference| write!(f, "\n      {difference}"))
    }
}

pub async fn run(servers: &Arc<Servers>, world: &mut World, plan: &Plan, random: &mut fastrand::Rng) -> Result<Ended> {
    let started = Instant::now();
    let before = world.ledger.events();
    let load = Load::start(&world.ledger, world.ways.clone(), PACE);
    if plan.aimed {
        after_a_commit(world, random).await?;
    }
    tokio::time::sleep(plan.delay).await;
    for victim in &plan.victims {
        match victim {
            Victim::Hub => world.process.kill(),
            other => server(servers, *other).kill(),
        }
    }
    let mut ended = Ended::default();
    let killed = started.elapsed();
    if plan.kills(Victim::Hub) && !plan.kills(Victim::Broker) {
        (ended.first, ended.every) = restart(servers, world, plan, &load).await?;
    } else {
        revive(servers, plan).await?;
        if plan.kills(Victim::Hub) {
            world.process.start();
        }
    }
    let restarted = started.elapsed();
    tokio::time::sleep(Duration::from_millis(random.u64(0..150))).await;
    let log = || format!("what the hub said:\n{}", world.process.log());
    tokio::time::timeout(PATIENCE, load.finish()).await.context("the load was not acknowledged").with_context(log)?;
    checks::caught_up(&world.inside, PATIENCE).await.with_context(log)?;
    let caught_up = started.elapsed();
    let events = world.ledger.events();
    ensure!(events == world.ledger.acknowledged(), "not everything was acknowledged");
    let Tally { lost, doubled } = world.books.tally(&world.inside, events).await?;
    let rows = world.rows().await?;
    ended.differences = checks::differences(&world.inside).await?;
    ended.events = events - before;
    (ended.lost, ended.doubled) = (lost + rows.0, doubled + rows.1);
    ended.took = started.elapsed();
    ended.parts = [killed, restarted - killed, caught_up - restarted, ended.took - caught_up];
    Ok(ended)
}

/// Waits until a sink has just applied something.
async fn after_a_commit(world: &World, random: &mut fastrand::Rng) -> Result<()> {
    let sinks = &world.inside.config.sinks;
    let sink = sinks.get(random.usize(..sinks.len())).context("no sinks")?;
    let before = checks::places(&world.inside, sink).await?;
    let until = Instant::now() + PATIENCE;
    while checks::places(&world.inside, sink).await? == before {
        ensure!(Instant::now() < until, "{} applies nothing", sink.name);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Starts the hub again, and measures until each sink whose store lives has applied something new.
async fn restart(
    servers: &Arc<Servers>,
    world: &mut World,
    plan: &Plan,
    load: &Load,
) -> Result<(Option<Duration>, Option<Duration>)> {
    let World { process, inside, .. } = world;
    let inside = &*inside;
    let mut living = Vec::new();
    for sink in &inside.config.sinks {
        let store = match sink.spec.name {
            "postgres" => Some(Victim::Postgres),
            "redis" => Some(Victim::Redis),
            _ => None,
        };
        if !store.is_some_and(|store| plan.kills(store)) {
            living.push(async move { Ok::<_, anyhow::Error>((sink, at_rest(inside, sink).await?)) });
        }
    }
    let waiting = futures::future::try_join_all(living).await?;
    // Something new has to be waiting for each. On a machine that is busy the load may have been applied before the kill:
    // then there is nothing to measure.
    for (sink, at) in &waiting {
        while checks::sum(&checks::ends(inside, sink).await?) <= checks::sum(at) {
            if load.is_spent() {
                revive(servers, plan).await?;
                process.start();
                return Ok((None, None));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    let spawned = Instant::now();
    process.start();
    let process = &*process;
    let look = async |(sink, before): (&SinkConfig, Places)| {
        loop {
            tokio::time::sleep(LOOK).await;
            if checks::places(inside, sink).await.is_ok_and(|at| at != before) {
                return Ok(spawned.elapsed());
            }
            ensure!(spawned.elapsed() < PATIENCE, "{} applies nothing:\n{}", sink.name, process.log());
        }
    };
    let looks = futures::future::try_join_all(waiting.into_iter().map(look));
    let (times, ()) = tokio::try_join!(looks, revive(servers, plan))?;
    Ok((times.iter().min().copied(), times.iter().max().copied()))
}

/// Where a sink is once what the killed hub had under way has ended: a server may commit after its client is gone.
async fn at_rest(hub: &Hub, sink: &SinkConfig) -> Result<Places> {
    let mut before = checks::places(hub, sink).await?;
    loop {
        tokio::time::sleep(REST).await;
        let now = checks::places(hub, sink).await?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
}

/// Starts what else was killed.
async fn revive(servers: &Arc<Servers>, plan: &Plan) -> Result<()> {
    let (servers, victims) = (servers.clone(), plan.victims.clone());
    let all = move || victims.into_iter().filter(|v| *v != Victim::Hub).for_each(|v| server(&servers, v).restart());
    Ok(tokio::task::spawn_blocking(all).await?)
}

/// The server of a victim that is one.
fn server(servers: &Servers, victim: Victim) -> &Server {
    match victim {
        Victim::Postgres => &servers.postgres,
        Victim::Redis => &servers.redis,
        Victim::Hub | Victim::Broker => &servers.kafka,
    }
}
