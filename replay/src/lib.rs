//! Replay: building a store anew from the log. A plan first; then either a *shadow* generation beside the live one, which
//! is verified and swapped in atomically, or a *repair* in place of a range or of keys, or a copy under another name.

mod at;
mod board;
mod catch_up;
mod diff;
mod error;
mod feed;
mod gc;
mod jobs;
mod passed;
mod patience;
mod plan;
mod redrive;
mod repair;
mod running;
mod scan;
mod shadow;
mod window;

use std::sync::Arc;

use primal_audit::Selection;
use primal_core::log::EventLog;
use primal_core::{Env, Offset, Partition, Sink, SinkSpec};
use primal_runtime::{Feed, Job};
use serde::{Deserialize, Serialize};

pub use at::At;
pub use board::{Board, Claim, Wish};
pub use diff::Diff;
pub use error::ReplayError;
pub use gc::{Garbage, Left};
pub use jobs::{Beat, Here, Job as Listed, Part, PartState, Spec, State};
pub use plan::{Plan, Range};
pub use redrive::Redriven;
pub use running::{Audience, Ended, Lane, run};
pub use shadow::Rebuilt;
pub use window::Window;

/// How a replay writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Which entities; all, or a part that is written again in place.
    pub selection: Selection,
    /// How to write; when absent shadow for the whole collection, else repair.
    pub mode: Option<Mode>,
    /// The name of a copy.
    pub into: Option<String>,
    /// Whether an unfinished rebuild of another selection may be thrown away.
    pub restart: bool,
}

impl Request {
    /// All of a collection, up to now.
    pub fn whole(feed: Feed) -> Self {
        let selection = Selection::default();
        Request { feed, from: At::Earliest, to: None, selection, mode: None, into: None, restart: false }
    }
}

/// Somebody who is told how a job goes.
pub trait Progress: Send + Sync {
    /// A phase begins; `total` is how many events it will see, about.
    fn begin(&self, phase: &str, total: u64);
    /// So many more events have been seen.
    fn advance(&self, events: u64);
    /// So many were seen by an earlier run, and are not seen again.
    fn skip(&self, events: u64);
    /// All before an offset of a partition has been written; only a repair says so, which has no position in the store.
    fn reached(&self, _partition: Partition, _offset: Offset) {}
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

    /// Stops before the next write, or goes on.
    pub fn pause(&self, paused: bool) {
        self.job.pause(paused);
    }
}
