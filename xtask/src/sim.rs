//! `cargo xtask sim`: the deterministic simulation, built with optimisation, since it is worth what its seeds per second are.

use anyhow::{Result, ensure};

use crate::cargo;

/// What is passed on to the runner.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// How many seeds
    #[arg(long)]
    seeds: Option<u64>,
    /// Only this seed, and what it does
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: only the faults at these places, such as worker0:17,operator:4
    #[arg(long)]
    only: Option<String>,
    /// With --seed: print every step
    #[arg(long)]
    trace: bool,
    /// The first seed
    #[arg(long)]
    from: Option<u64>,
    /// Seeds until this many minutes have passed, instead of a number of them
    #[arg(long)]
    minutes: Option<u64>,
    /// Threads; as many as there are cores when absent
    #[arg(long)]
    jobs: Option<u64>,
}

impl Arguments {
    fn list(self) -> Vec<String> {
        let numbers = [
            ("--seeds", self.seeds),
            ("--seed", self.seed),
            ("--from", self.from),
            ("--minutes", self.minutes),
            ("--jobs", self.jobs),
        ];
        let mut list: Vec<String> = Vec::new();
        for (name, number) in numbers {
            list.extend(number.map(|number| [name.to_owned(), number.to_string()]).into_iter().flatten());
        }
        list.extend(self.only.map(|only| ["--only".to_owned(), only]).into_iter().flatten());
        list.extend(self.trace.then(|| "--trace".to_owned()));
        list
    }
}

pub fn run(arguments: Arguments) -> Result<()> {
    let mut command = cargo(&["run", "--quiet", "--release", "--package", "primal-sim", "--"]);
    let status = command.args(arguments.list()).status()?;
    ensure!(status.success(), "the simulation found a broken rule");
    Ok(())
}

/// The seeds of every test run, as one of the tests.
pub fn short() -> Result<()> {
    run(Arguments::default())
}
