//! The runner: many seeds on several threads, or one seed again. It prints seeds per second, the faults by sort, and for a
//! seed that fails the rule that was broken and the fewest faults that break it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use primal_sim::{Outcome, Setup, run, shrink};

/// Runs the simulation.
#[derive(Parser)]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 5_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this seed, and what it does
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: only the faults at these places, such as worker0:17,operator:4
    #[arg(long, value_delimiter = ',')]
    only: Option<Vec<String>>,
    /// With --seed: print every step
    #[arg(long)]
    trace: bool,
    /// Seeds until this many minutes have passed, instead of a number of them
    #[arg(long)]
    minutes: Option<u64>,
    /// Threads; as many as there are cores when absent
    #[arg(long)]
    jobs: Option<usize>,
    /// End after this many seeds failed
    #[arg(long, default_value_t = 5)]
    failures: usize,
}

#[derive(Default)]
struct Tally {
    runs: u64,
    steps: u64,
    faults: BTreeMap<&'static str, u64>,
    failed: BTreeMap<u64, Outcome>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => one(seed, arguments.only.as_deref(), arguments.trace),
        None => many(&arguments),
    }
}

fn one(seed: u64, only: Option<&[String]>, trace: bool) -> ExitCode {
    let mut setup = Setup::new(seed);
    if let Some(places) = only {
        let place =
            |place: &String| Some((place.split_once(':')?.0.to_owned(), place.split_once(':')?.1.parse().ok()?));
        setup = setup.only(places.iter().filter_map(place).collect::<BTreeSet<_>>());
    }
    setup.plan.told = trace;
    let outcome = run(&setup, None);
    for line in &outcome.lines {
        say(line);
    }
    say(&format!("{setup:?}"));
    for injected in &outcome.injected {
        say(&format!("  {injected}"));
    }
    say(&format!("{} steps, trace {:016x}", outcome.trace.0, outcome.trace.1));
    report(seed, &setup, &outcome)
}

fn report(seed: u64, setup: &Setup, outcome: &Outcome) -> ExitCode {
    let Some(violation) = &outcome.violation else {
        say(&format!("seed {seed}: all rules hold"));
        return ExitCode::SUCCESS;
    };
    say(&format!(
        "seed {seed} ({}, {} faults): {}: {}",
        setup.class.as_str(),
        outcome.injected.len(),
        violation.rule,
        violation.seen
    ));
    let shrunk = shrink(setup, None, outcome);
    if let Some(violation) = &shrunk.violation {
        say(&format!("  with {} faults: {}", shrunk.injected.len(), violation.seen));
    }
    let mut places = Vec::new();
    for injected in &shrunk.injected {
        say(&format!("    {injected}"));
        places.push(format!("{}:{}", injected.process, injected.step));
    }
    let only = if places.is_empty() { "none".to_owned() } else { places.join(",") };
    say(&format!("  again: cargo xtask sim --seed {seed}; with these faults only: --only {only}"));
    ExitCode::FAILURE
}

fn many(arguments: &Arguments) -> ExitCode {
    let (tally, next) = (Mutex::new(Tally::default()), AtomicU64::new(arguments.from));
    let began = Instant::now();
    let jobs = arguments.jobs.or(std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
    let limit = arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let last = arguments.from + arguments.seeds;
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = limit.map_or(seed >= last, |limit| began.elapsed() >= limit);
                    if over || lock(&tally).failed.len() >= arguments.failures {
                        return;
                    }
                    let outcome = run(&Setup::new(seed), None);
                    lock(&tally).add(seed, outcome);
                }
            });
        }
    });
    let tally = lock(&tally);
    let seconds = began.elapsed().as_secs_f64();
    let faults: Vec<_> = tally.faults.iter().map(|(sort, count)| format!("{count} {sort}")).collect();
    say(&format!(
        "figure: {} seeds from {} in {seconds:.1} s: {:.0} seeds/s, {} steps; faults: {}; {} failed",
        tally.runs,
        arguments.from,
        tally.runs as f64 / seconds,
        tally.steps,
        faults.join(", "),
        tally.failed.len()
    ));
    for (seed, outcome) in &tally.failed {
        report(*seed, &Setup::new(*seed), outcome);
    }
    if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Tally {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.runs += 1;
        self.steps += outcome.trace.0;
        for injected in &outcome.injected {
            *self.faults.entry(injected.fault.sort.as_str()).or_default() += 1;
        }
        if outcome.violation.is_some() {
            self.failed.insert(seed, outcome);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
