//! Bugs on purpose. Each wraps a contract (the log, a subscription, the sink) and breaks one promise of those who use it, so
//! that the simulation can be shown to find it. Nothing in the product knows of them.

mod log;
mod sink;

use std::sync::Arc;

use primal_core::{EventLog, Sink};

use crate::sink::SimSink;

/// Something wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The position is saved, then the data is written.
    PositionFirst,
    /// Every write says that it expects what the store has.
    NoFence,
    /// Of several events of a key in a batch only the first is kept, though each is a record.
    DropsAppends,
    /// An append that failed is tried again one record at a time, the last one first.
    RetryReorders,
    /// A partition is given up before its writes are done.
    NoDrain,
    /// Events that wait behind a rejected one get no dead letter.
    LosesParked,
    /// Dead letters are written after the position moved.
    LettersLater,
    /// Which keys are parked is not read from the log.
    ForgetsParked,
    /// Deletes are not written.
    ForgetsDeletes,
    /// A generation is swapped in before it has caught up.
    SwapsEarly,
    /// A failed append is acknowledged.
    AcknowledgesFailures,
    /// After a restart the producer does not know which ids were published.
    ForgetsIds,
    /// A fetch that is given up has taken records.
    FetchLoses,
    /// A repair writes nothing.
    RepairsNothing,
    /// A rollback does nothing.
    IgnoresRollback,
    /// A rebuild that was begun is taken for another one.
    ForgetsRebuild,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 16] = [
        Bug::PositionFirst,
        Bug::NoFence,
        Bug::DropsAppends,
        Bug::RetryReorders,
        Bug::NoDrain,
        Bug::LosesParked,
        Bug::LettersLater,
        Bug::ForgetsParked,
        Bug::ForgetsDeletes,
        Bug::SwapsEarly,
        Bug::AcknowledgesFailures,
        Bug::ForgetsIds,
        Bug::FetchLoses,
        Bug::RepairsNothing,
        Bug::IgnoresRollback,
        Bug::ForgetsRebuild,
    ];

    /// The log that a worker is given.
    pub fn worker_log(bug: Option<Bug>, log: Arc<dyn EventLog>) -> Arc<dyn EventLog> {
        use Bug::{FetchLoses, ForgetsParked, LettersLater, LosesParked, NoDrain};
        match bug {
            Some(bug @ (NoDrain | LosesParked | LettersLater | ForgetsParked | FetchLoses)) => log::wrong(bug, log),
            _ => log,
        }
    }

    /// The log that the producer is given.
    pub fn producer_log(bug: Option<Bug>, log: Arc<dyn EventLog>) -> Arc<dyn EventLog> {
        match bug {
            Some(bug @ (Bug::RetryReorders | Bug::AcknowledgesFailures | Bug::ForgetsIds)) => log::wrong(bug, log),
            _ => log,
        }
    }

    /// The sink that a worker is given.
    pub fn worker_sink(bug: Option<Bug>, sink: Arc<SimSink>) -> Arc<dyn Sink> {
        match bug {
            Some(bug @ (Bug::PositionFirst | Bug::NoFence | Bug::DropsAppends | Bug::ForgetsDeletes)) => {
                sink::wrong(bug, sink)
            }
            _ => sink,
        }
    }

    /// The sink that the operator is given.
    pub fn operator_sink(bug: Option<Bug>, sink: Arc<SimSink>) -> Arc<dyn Sink> {
        use Bug::{ForgetsRebuild, IgnoresRollback, RepairsNothing, SwapsEarly};
        match bug {
            Some(bug @ (SwapsEarly | RepairsNothing | IgnoresRollback | ForgetsRebuild)) => sink::wrong(bug, sink),
            _ => sink,
        }
    }
}
