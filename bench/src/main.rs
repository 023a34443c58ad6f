//! Benchmarks: each figure of ours beside a hand-written program that does nothing else, in one run, as a ratio. Servers
//! are started on this machine and ended afterwards.

mod bare;
mod ours;
mod past;
mod replay;
mod stores;
mod writers;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use primal_runtime::Pace;
use primal_tests::Server;

/// Runs the benchmarks over a file of flights (see examples/README.md for the whole year).
#[derive(Parser)]
struct Bench {
    /// NDJSON of collection `flights`
    file: PathBuf,
    /// With `--only stores`: these stores
    #[arg(long, value_delimiter = ',')]
    stores: Vec<String>,
    /// How often each pair is run; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Part::Publish, Part::Memory, Part::Postgres, Part::Embedded, Part::Resident])]
    only: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Publishing to Kafka
    Publish,
    /// Kafka to the memory sink
    Memory,
    /// Kafka to PostgreSQL
    Postgres,
    /// Appending to the embedded log
    Embedded,
    /// Resident memory of a hub with three sinks
    Resident,
    /// Kafka to every other store; only when asked for
    Stores,
    /// Building PostgreSQL anew beside live traffic; only when asked for
    Replay,
    /// States and statements as of moments chosen at random; only when asked for
    Past,
}

fn main() -> Result<()> {
    let bench = Bench::parse();
    let lines = std::fs::read(&bench.file).with_context(|| bench.file.display().to_string())?;
    let events = bare::parse(&lines)?;
    let count = events.len();
    say(&format!("{count} events, {:.1} MB", lines.len() as f64 / 1e6));
    let kafka = Server::start("kafka");
    let bootstrap = kafka.url();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;

    let wanted = |part| bench.only.contains(&part);
    if wanted(Part::Stores) {
        stores::run(&runtime, &bootstrap, &lines, bench.rounds, &bench.stores)?;
    }
    if bench.only == [Part::Stores] {
        return Ok(());
    }
    let (postgres, redis, flights) = (Server::start("postgres"), Server::start("redis"), ours::flights());
    let database = postgres.url();
    let mut pairs = Pairs::new("publish", "bare rdkafka producer", count);
    // The first round's events are what the others read.
    for round in 0..if wanted(Part::Publish) { bench.rounds } else { 1 } {
        pairs.bare(bare::produce(&bootstrap, &format!("bare{round}.flights"), &events)?);
        pairs.ours(runtime.block_on(ours::publish(&bootstrap, &format!("ours{round}."), &flights, &lines))?);
    }
    pairs.tell(0.6);

    if wanted(Part::Memory) {
        let mut pairs = Pairs::new("Kafka -> memory", "bare rdkafka consumer", count);
        let mut reading = Pairs::new("Kafka -> memory", "bare rdkafka consumer that reads the headers", count);
        for round in 0..bench.rounds {
            pairs.bare(bare::consume(&bootstrap, "ours0.flights", count, false)?);
            let store = format!("name: m{round}");
            let ours = runtime.block_on(ours::deliver(
                &bootstrap,
                "ours0.",
                &flights,
                "memory",
                &store,
                round,
                Duration::ZERO,
            ))?;
            pairs.ours(ours);
            reading.ours(ours);
            reading.bare(bare::consume(&bootstrap, "ours0.flights", count, true)?);
        }
        pairs.tell(0.6);
        reading.tell(0.6);
    }

    if wanted(Part::Postgres) {
        let mut pairs = Pairs::new("Kafka -> PostgreSQL document", "hand-written COPY and merge", count);
        for round in 0..bench.rounds {
            pairs.bare(runtime.block_on(bare::merge(&bootstrap, "ours0.flights", &database, round, count))?);
            let store = format!("url: \"{database}\", schema: bench{round}");
            pairs.ours(runtime.block_on(ours::deliver(
                &bootstrap,
                "ours0.",
                &flights,
                "postgres",
                &store,
                round,
                Duration::ZERO,
            ))?);
        }
        pairs.tell(0.7);
    }

    if wanted(Part::Past) {
        runtime.block_on(async { past::run(ours::past(&bootstrap, "ours0.").await?).await })?;
    }
    if wanted(Part::Replay) {
        rebuilds(&runtime, &bootstrap, &format!("url: \"{database}\", schema: rebuilt"), bench.rounds, count)?;
    }
    if wanted(Part::Embedded) {
        let rate = runtime.block_on(ours::embedded(&lines))? as u64;
        say(&format!("embedded log, 10 callers with 1,000 events each at a time: {rate} events/s (wanted: 100,000)"));
    }
    if wanted(Part::Resident) {
        let peak = ours::memory(&bootstrap, "ours0.", &database, &redis.url())?;
        say(&format!("resident memory with three sinks at work, peak: {peak:.0} MB (wanted: at most 200)"));
    }
    Ok(())
}

/// PostgreSQL is filled, and built anew as fast as it goes and with a third of the store's time.
fn rebuilds(runtime: &tokio::runtime::Runtime, bootstrap: &str, store: &str, round: usize, count: usize) -> Result<()> {
    let flights = ours::flights();
    let live = ours::deliver(bootstrap, "ours0.", &flights, "postgres", store, round, Duration::ZERO);
    let live = runtime.block_on(live)?;
    for pace in [Pace::default(), Pace { budget: Some(0.3), ..Pace::default() }] {
        runtime.block_on(async {
            let hub = ours::with_sink(bootstrap, "ours0.", &flights, "postgres", store, round).await?;
            replay::run(hub, live, count, pace).await
        })?;
    }
    Ok(())
}

/// Times of a pair, ours and bare in turn.
struct Pairs {
    what: &'static str,
    than: &'static str,
    count: usize,
    ours: Vec<f64>,
    bare: Vec<f64>,
}

impl Pairs {
    fn new(what: &'static str, than: &'static str, count: usize) -> Self {
        Pairs { what, than, count, ours: Vec::new(), bare: Vec::new() }
    }

    fn ours(&mut self, time: Duration) {
        self.ours.push(time.as_secs_f64());
    }

    fn bare(&mut self, time: Duration) {
        self.bare.push(time.as_secs_f64());
    }

    fn tell(&mut self, wanted: f64) {
        let (ours, bare) = (median(&mut self.ours), median(&mut self.bare));
        let rate = |seconds: f64| (self.count as f64 / seconds) as u64;
        say(&format!(
            "{}: {} events/s; {}: {} events/s; ratio {:.2} (wanted: {wanted})",
            self.what,
            rate(ours),
            self.than,
            rate(bare),
            bare / ours
        ));
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
