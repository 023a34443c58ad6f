//! Replays as jobs: what one was asked to do, how far it is, and who does it. Written to the log by whoever runs it.

use std::collections::BTreeMap;
use std::path::Path;

use primal_core::{Digest, Offset, Partition, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Mode;
use crate::plan::Range;
use crate::window::Window;

/// More bytes of keys than this are not written to the log with the job: a record holds a megabyte.
const MOST_KEY_BYTES: usize = 256 << 10;

/// What was asked for: enough to do it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The sinks.
    pub sinks: Vec<String>,
    /// The collections.
    pub collections: Vec<String>,
    /// Where it begins; never relative to now.
    pub from: String,
    /// Where it ends.
    pub to: Option<String>,
    /// The keys.
    #[serde(default)]
    pub keys: Vec<String>,
    /// How many keys there are, where they are too many to be recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrecorded_keys: Option<usize>,
    /// CloudEvents types.
    #[serde(default)]
    pub types: Vec<String>,
    /// Correlation ids.
    #[serde(default)]
    pub correlations: Vec<String>,
    /// How it writes, where that was said.
    pub mode: Option<Mode>,
    /// The name of a copy.
    pub into: Option<String>,
    /// Whether it makes the previous generation live again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollback: bool,
    /// Events per second.
    pub rate: Option<f64>,
    /// The share of the store's time.
    pub budget: Option<f64>,
    /// The time of day in which it writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

impl Spec {
    /// The same as it is recorded: without keys that are too many.
    pub(crate) fn recorded(&self) -> Spec {
        let bytes: usize = self.keys.iter().map(|key| key.len() + 4).sum();
        match bytes > MOST_KEY_BYTES {
            true => Spec { unrecorded_keys: Some(self.keys.len()), keys: Vec::new(), ..self.clone() },
            false => self.clone(),
        }
    }

    /// Equal for commands that do the same, however fast and whenever.
    pub(crate) fn digest(&self) -> String {
        let what = Spec { rate: None, budget: None, window: None, ..self.clone() };
        serde_json::to_string(&what).map_or(String::new(), |text| Digest::of_json(&text).to_string())
    }
}

/// What a job or a part of it is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not begun.
    #[default]
    Waiting,
    /// At work.
    Running,
    /// Stands still until it is resumed.
    Paused,
    /// Done.
    Done,
    /// An error ended it; the same command tries again.
    Failed,
    /// Ended by `replay cancel`.
    Cancelled,
    /// Ended by Ctrl-C or SIGTERM; it can be resumed.
    Interrupted,
    /// Its process is gone, or silent; it can be resumed.
    Dead,
}

impl State {
    /// As printed.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Running => "running",
            State::Paused => "paused",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::Interrupted => "interrupted",
            State::Dead => "dead",
        }
    }

    /// Whether a process is at it.
    pub fn is_live(self) -> bool {
        matches!(self, State::Waiting | State::Running | State::Paused)
    }

    /// Whether it can be taken up again.
    pub fn is_resumable(self) -> bool {
        matches!(self, State::Failed | State::Interrupted | State::Dead)
    }
}

/// One collection of one sink in a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The sink.
    pub sink: String,
    /// The collection.
    pub collection: String,
    /// How it writes; absent for a rollback.
    pub mode: Option<Mode>,
    /// The name of a copy.
    pub into: Option<String>,
    /// What it is doing.
    pub state: PartState,
    /// Table, hash or index that it writes to.
    pub place: String,
    /// What it is doing now, in words.
    pub phase: String,
    /// Events seen in this phase.
    pub done: u64,
    /// Events that this phase will see, about; 0 where that is not known.
    pub total: u64,
    /// Events per second, lately.
    pub rate: f64,
    /// Seconds until the end of this phase.
    pub eta_s: Option<u64>,
    /// When it ended, in microseconds since 1970.
    pub ended: Option<i64>,
    /// Why it failed; while it is at work, what it waits for.
    pub error: Option<String>,
    /// What a repair reads, so that it ends where it was to end when it began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Range>,
    /// Up to where a repair has written each partition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reached: BTreeMap<Partition, Offset>,
}

/// The state of a part.
pub type PartState = State;

impl Part {
    /// What nobody else may write to meanwhile.
    pub(crate) fn target(&self) -> (&str, &str) {
        (&self.sink, self.into.as_deref().unwrap_or(&self.collection))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Done
    }
}

/// A process, as it is told apart from others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// The machine's name.
    pub host: String,
    /// What the number is counted in: start of the machine and namespace.
    pub space: String,
    /// Its number.
    pub pid: u32,
}

impl Here {
    /// This process, on a machine of that name.
    pub fn new(host: &str) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let space = format!("{} {}", boot.trim(), namespace.display());
        Here { host: host.to_owned(), space, pid: std::process::id() }
    }

    /// Whether another process is known to be gone, seen from this one.
    pub(crate) fn knows_gone(&self, other: &Here) -> bool {
        let can_tell = Path::new("/proc/self/stat").exists() && !self.space.trim().is_empty();
        can_tell && self.space == other.space && !Path::new(&format!("/proc/{}", other.pid)).exists()
    }
}

/// Who has taken a job, and what it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Another one each time that it is taken.
    pub holder: String,
    /// Who.
    pub here: Here,
    /// When it was begun first, in microseconds since 1970.
    pub started: i64,
    /// What.
    pub spec: Spec,
    /// Equal for equal specs, also where keys were left out.
    pub digest: String,
}

/// What the process of a job last said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// Which claim of the job it belongs to.
    pub holder: String,
    /// When, in microseconds since 1970.
    pub at: i64,
    /// What it is doing.
    pub state: State,
    /// Each collection of each sink.
    pub parts: Vec<Part>,
}

/// A job as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What it is doing.
    pub state: State,
    /// What it said last, where it is silent since.
    pub said: State,
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// When it was begun.
    pub started: Timestamp,
    /// When it was last heard of.
    pub heard: Timestamp,
    /// What was asked for.
    pub spec: Spec,
    /// Each collection of each sink.
    pub parts: Vec<Part>,
}

impl Job {
    /// Whether it can be taken up again; a rollback is given again instead.
    pub fn is_resumable(&self) -> bool {
        self.state.is_resumable() && !self.spec.rollback
    }

    /// The parts that are at work.
    pub fn at_work(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.state.is_live() && part.state != State::Waiting)
    }
}
