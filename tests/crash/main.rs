//! The crash test: the hub under load is killed with -9 again and again, stores and broker with it in turn and together;
//! after each round everything acknowledged has to be in the log once and in every store as the log says. A program of
//! its own, because it runs as long as it is told to: `cargo xtask crash --rounds 1000`.

#![expect(clippy::print_stdout, clippy::expect_used, reason = "a test program that prints its findings")]

mod plan;
mod report;
mod round;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use primal_tests::Servers;

use crate::plan::{Log, Plan};
use crate::report::Report;
use crate::world::World;

/// Rounds in one world (topics, tables, files): more would make the checks after each round longer and longer.
const ROUNDS_OF_A_WORLD: u64 = 5;

/// Kill the hub, stores and broker under load, and look for what was lost or doubled
#[derive(Parser)]
struct Arguments {
    /// How many kills
    #[arg(long, default_value_t = 20)]
    rounds: u64,
    /// Repeats the plan of another run; timing decides the rest
    #[arg(long)]
    seed: Option<u64>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A line for each round
    #[arg(long)]
    verbose: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut report = Report::new(seed);
    sqlx::any::install_default_drivers();
    let servers = Arc::new(tokio::task::spawn_blocking(Servers::start).await?);
    let mut world: Option<World> = None;
    let started = Instant::now();
    for number in 0..arguments.rounds {
        if number.is_multiple_of(ROUNDS_OF_A_WORLD) {
            if let Some(old) = world.take() {
                old.close().await?;
            }
            let log = Log::of(number / ROUNDS_OF_A_WORLD);
            world = Some(World::open(&servers, log, number).await?);
        }
        let Some(world) = &mut world else { continue };
        let plan = Plan::draw(number, world.log, &mut random);
        let ended = round::run(&servers, world, &plan, &mut random).await;
        let ended = ended.map_err(|error| error.context(format!("round {number}, seed {seed}: {plan}")))?;
        if arguments.verbose || ended.is_bad() {
            println!("{number:5} {plan:<40} {ended}");
        }
        report.add(&plan, ended);
    }
    if let Some(last) = world.take() {
        last.close().await?;
    }
    report.seconds = started.elapsed().as_secs_f64();
    for line in report.to_string().lines() {
        println!("figure: {line}");
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    ensure!(report.is_clean(), "something was lost, doubled or different; seed {seed}");
    Ok(())
}
