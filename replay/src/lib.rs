//! Replay: building a store anew from the log. A plan first; then either a *shadow* generation beside the live one, which
//! is verified and swapped in atomically, or a *repair* in place of a range or of keys, or a copy under another name.

mod at;
mod error;
mod feed;
mod passed;
mod plan;
mod redrive;
mod repair;
mod shadow;

use std::collections::BTreeSet;
use std::sync::Arc;

use primal_core::log::EventLog;
use primal_core::{Env, Sink, SinkSpec};
use primal_runtime::{Feed, Job};
use serde::Serialize;

pub use at::At;
pub use error::ReplayError;
pub use plan::{Plan, Range};
pub use redrive::Redriven;
pub use shadow::Rebuilt;

/// How a replay writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Builds a generation beside the live one, verifies it and swaps it in.
    Shadow,
    /// Writes in place; versions equal to the stored one are written too, newer ones stay.
    Repair,
    /// Builds a copy under another name and leaves it there.
    Copy,
}

/// What is to be replayed: one collection of one sink.
#[derive(Clone, Debug)]
pub struct Request {
    /// The collection and how it appears in the sink.
    pub feed: Feed,
    /// Where to begin.
    pub from: At,
    /// Where to end; the present end when absent.
    pub to: Option<At>,
    /// Only these keys; all when empty.
    pub keys: BTreeSet<String>,
    /// How to write; when absent shadow for the whole collection, else repair.
    pub mode: Option<Mode>,
    /// The name of a copy.
    pub into: Option<String>,
    /// Whether an unfinished rebuild of another selection may be thrown away.
    pub restart: bool,
}

/// Somebody who is told how a job goes.
pub trait Progress: Send + Sync {
    /// A phase begins; `total` is how many events it will see, about.
    fn begin(&self, phase: &str, total: u64);
    /// So many more events have been seen.
    fn advance(&self, events: u64);
}

/// Replays into one sink.
pub struct Replay {
    name: String,
    sink: Arc<dyn Sink>,
    spec: SinkSpec,
    log: Arc<dyn EventLog>,
    job: Job,
    env: Env,
}

impl Replay {
    /// For a sink of a given name.
    pub fn new(name: &str, spec: &SinkSpec, sink: Arc<dyn Sink>, log: Arc<dyn EventLog>, job: Job, env: Env) -> Self {
        Replay { name: name.to_owned(), sink, spec: *spec, log, job, env }
    }
}
