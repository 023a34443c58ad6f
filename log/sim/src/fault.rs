//! What can go wrong at a fault point, and the plan that says where: chance and rates, or a list of places.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::chance::mix;

/// Sorts of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// A step takes long.
    Delay,
    /// A step fails: before its effect, or after it as an answer that is lost.
    Error,
    /// The process ends at once and is started again later.
    Crash,
    /// The process stands still, perhaps longer than its session in the group lasts.
    Freeze,
    /// The process is asked to end in good order, and is started again.
    Restart,
    /// The partitions of all groups are shared out in another way.
    Rebalance,
}

impl Sort {
    /// All of them.
    pub const ALL: [Sort; 6] = [Sort::Delay, Sort::Error, Sort::Crash, Sort::Freeze, Sort::Restart, Sort::Rebalance];

    /// As printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Sort::Delay => "delay",
            Sort::Error => "error",
            Sort::Crash => "crash",
            Sort::Freeze => "freeze",
            Sort::Restart => "restart",
            Sort::Rebalance => "rebalance",
        }
    }
}

/// A fault at one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it is.
    pub sort: Sort,
    /// How long, for those that last.
    pub lasts: Duration,
}

/// A fault that was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// The process.
    pub process: String,
    /// Which of its steps.
    pub step: u64,
    /// What it was about to do.
    pub what: &'static str,
    /// The fault.
    pub fault: Fault,
}

impl Injected {
    /// The place as it is given to [`Plan::only`].
    pub fn place(&self) -> (String, u64) {
        (self.process.clone(), self.step)
    }
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {} at {:?}", self.process, self.step, self.fault.sort.as_str(), self.what)?;
        if self.fault.lasts.is_zero() { Ok(()) } else { write!(f, " for {:?}", self.fault.lasts) }
    }
}

/// Where faults happen.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// How many in ten thousand steps have a fault of a sort.
    pub rates: BTreeMap<Sort, u64>,
    /// When given, only these places of the plan have their fault.
    pub only: Option<BTreeSet<(String, u64)>>,
    /// Whether each step is kept as a line, for a person who wants to see what happened.
    pub told: bool,
}

impl Plan {
    /// The number drawn for a step of a process.
    pub(crate) fn draw(&self, process: u64, step: u64) -> u64 {
        mix(mix(self.seed, process), step)
    }

    /// The fault that the plan has for a drawn number, if it has one.
    pub(crate) fn fault(&self, drawn: u64) -> Option<Fault> {
        let mut roll = mix(drawn, 1) % 10_000;
        for (sort, rate) in &self.rates {
            if roll < *rate {
                return Some(Fault { sort: *sort, lasts: lasts(*sort, mix(drawn, 2)) });
            }
            roll -= rate;
        }
        None
    }
}

fn lasts(sort: Sort, drawn: u64) -> Duration {
    match sort {
        // Half of them short, half beyond what a worker waits for when it gives up a partition.
        Sort::Delay if drawn & 1 == 0 => Duration::from_millis(20 + drawn % 400),
        Sort::Delay => Duration::from_millis(500 + drawn % 6_000),
        Sort::Freeze => Duration::from_millis(500 + drawn % 9_000),
        _ => Duration::ZERO,
    }
}
