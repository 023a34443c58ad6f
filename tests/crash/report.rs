//! The figures of a run: for people, and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use primal_core::Env;
use serde::Serialize;

use crate::plan::Plan;
use crate::round::Ended;

/// What a run found.
#[derive(Serialize)]
pub struct Report {
    pub date: String,
    pub commit: String,
    pub machine: String,
    pub build: &'static str,
    pub seed: u64,
    pub rounds: u64,
    /// How often each combination was killed.
    pub kills: BTreeMap<String, u64>,
    pub events: u64,
    pub lost: u64,
    pub doubled: u64,
    pub differing_collections: u64,
    /// Rounds in which only the hub was killed: from the start of its process to the first event newly applied.
    pub first_applied: Spread,
    /// The same, until every sink has applied one.
    pub applied_in_every_sink: Spread,
    pub seconds: f64,
    #[serde(skip)]
    firsts: Vec<Duration>,
    #[serde(skip)]
    everys: Vec<Duration>,
}

/// Times, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    pub times: usize,
    pub median_ms: u64,
    pub p99_ms: u64,
    pub max_ms: u64,
}

impl Spread {
    fn of(times: &mut [Duration]) -> Self {
        times.sort_unstable();
        let at = |part: usize| {
            let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
            times.get(index).map_or(0, |time| time.as_millis() as u64)
        };
        Spread { times: times.len(), median_ms: at(50), p99_ms: at(99), max_ms: at(100) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { times, median_ms, p99_ms, max_ms } = self;
        write!(f, "median {median_ms} ms, 99 % within {p99_ms} ms, longest {max_ms} ms ({times} restarts)")
    }
}

impl Report {
    pub fn new(seed: u64) -> Self {
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        Report {
            date: Env::system().now().to_string().chars().take(10).collect(),
            commit: commit(),
            machine: format!("{} {}, {cpus} CPUs", std::env::consts::OS, std::env::consts::ARCH),
            build,
            seed,
            rounds: 0,
            kills: BTreeMap::new(),
            events: 0,
            lost: 0,
            doubled: 0,
            differing_collections: 0,
            first_applied: Spread::default(),
            applied_in_every_sink: Spread::default(),
            seconds: 0.0,
            firsts: Vec::new(),
            everys: Vec::new(),
        }
    }

    pub fn add(&mut self, plan: &Plan, ended: Ended) {
        self.rounds += 1;
        *self.kills.entry(plan.sort()).or_insert(0) += 1;
        self.events += ended.events;
        self.lost += ended.lost;
        self.doubled += ended.doubled;
        self.differing_collections += ended.differences.len() as u64;
        if plan.only_the_hub() {
            self.firsts.extend(ended.first);
            self.everys.extend(ended.every);
            self.first_applied = Spread::of(&mut self.firsts);
            self.applied_in_every_sink = Spread::of(&mut self.everys);
        }
    }

    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.differing_collections == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { rounds, events, lost, doubled, differing_collections, seconds, seed, commit, build, .. } = self;
        let kills: Vec<_> = self.kills.iter().map(|(sort, times)| format!("{sort} {times}")).collect();
        writeln!(f, "killed: {}", kills.join(", "))?;
        writeln!(f, "restart to first event applied: {}", self.first_applied)?;
        writeln!(f, "restart to an event applied in every sink: {}", self.applied_in_every_sink)?;
        write!(
            f,
            "{rounds} crash rounds, {events} events, {lost} lost, {doubled} doubled, {differing_collections} differing; \
             {seconds:.0} s, seed {seed}, commit {commit}, {build} build"
        )
    }
}

fn commit() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let asked = std::process::Command::new("git").args(["-C", folder, "describe", "--always", "--dirty"]).output();
    asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
