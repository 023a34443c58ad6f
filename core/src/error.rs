//! Errors of the log and of sinks. Whether to try again is a property of the error, decided once where the driver's error
//! is read; nothing above it knows vendors.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::{Offset, Partition, Topic};

/// A driver's error, kept for the message.
pub type Source = Box<dyn Error + Send + Sync>;

/// Whether and when to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Never: somebody has to change something first.
    No,
    /// After a growing, jittered pause.
    Backoff,
    /// Not before this has passed.
    After(Duration),
}

/// An event that a sink can never hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its place in the batch's partition.
    pub offset: Offset,
    /// What the store says, for the dead letter.
    pub reason: String,
}

/// What went wrong in a sink. In every case the position did not move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Cannot be reached, timed out, restarting, overloaded.
    Unavailable,
    /// Refused who we are, or what we may do.
    Unauthorized,
    /// No room.
    Full,
    /// The position or the live generation in the store is not the one that the batch came from.
    Fenced,
    /// The batch holds events that the store can never hold. The list is empty when the store did not say which.
    Rejected(Vec<Rejected>),
    /// What stands in the store does not fit the collection's schema or projection.
    Incompatible,
    /// The settings are wrong in a way that only the store could tell.
    Misconfigured,
    /// Anything else.
    Internal,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Unavailable => "unavailable",
            Fault::Unauthorized => "unauthorized",
            Fault::Full => "full",
            Fault::Fenced => "fenced",
            Fault::Rejected(_) => "rejected",
            Fault::Incompatible => "incompatible",
            Fault::Misconfigured => "misconfigured",
            Fault::Internal => "internal error",
        })
    }
}

/// An error of a sink.
#[derive(Debug)]
pub struct SinkError {
    /// What went wrong.
    pub fault: Fault,
    /// Whether to try again.
    pub retry: Retry,
    /// What was being done, and with what, in a few words.
    pub context: String,
    /// The driver's own error.
    pub source: Option<Source>,
}

impl SinkError {
    /// With the retry that fits the fault: back-off for what passes by itself, a slow one for wrong credentials and a
    /// full disk, none for the rest.
    pub fn new(fault: Fault, context: impl Into<String>) -> Self {
        let retry = match fault {
            Fault::Unavailable | Fault::Internal => Retry::Backoff,
            Fault::Unauthorized => Retry::After(Duration::from_secs(30)),
            Fault::Full => Retry::After(Duration::from_secs(5)),
            Fault::Fenced | Fault::Rejected(_) | Fault::Incompatible | Fault::Misconfigured => Retry::No,
        };
        SinkError { fault, retry, context: context.into(), source: None }
    }

    /// Keeps the driver's error.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The store can never hold this event.
    pub fn rejected(offset: Offset, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        SinkError::new(Fault::Rejected(vec![Rejected { offset, reason: reason.clone() }]), reason)
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.fault, self.context)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl Error for SinkError {}

/// An error of the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Cannot be reached now; trying again may help.
    #[error("log unavailable: {0}")]
    Unavailable(String),
    /// No room for more.
    #[error("log full: {0}")]
    Full(String),
    /// The topic does not exist.
    #[error("topic {0} does not exist in the log")]
    NoTopic(Topic),
    /// Reading was asked for at an offset that the log does not have.
    #[error("offset {wanted} of {topic}/{partition} is not in the log, which holds [{start}, {end})")]
    OutOfRange {
        /// The topic.
        topic: Topic,
        /// The partition.
        partition: Partition,
        /// Where reading should have begun.
        wanted: Offset,
        /// The first offset that is there.
        start: Offset,
        /// The offset after the last.
        end: Offset,
    },
    /// A range that was in the log once is neither there nor in its archive.
    #[error("offsets [{from}, {to}) of {topic}/{partition} are neither in the log nor in its archive")]
    Gap {
        /// The topic.
        topic: Topic,
        /// The partition.
        partition: Partition,
        /// The first offset that is missing.
        from: Offset,
        /// The offset after the last.
        to: Offset,
    },
    /// A file of the archive is missing, or is not the one that was written.
    #[error("archive altered: {0}; `primalcore archive verify` compares all files")]
    Altered(String),
    /// Another process has this member's name, or holds the log's lock.
    #[error("{0}")]
    Taken(String),
    /// The record can never be appended (too large, for instance).
    #[error("record refused by the log: {0}")]
    Refused(String),
    /// What was read is damaged.
    #[error("log damaged: {0}")]
    Damaged(String),
    /// Anything else.
    #[error("log error: {0}")]
    Internal(String),
}

impl LogError {
    /// Whether the same call may succeed later by itself.
    pub fn is_passing(&self) -> bool {
        matches!(self, LogError::Unavailable(_) | LogError::Full(_))
    }

    /// Whether the record is not what it was: a part of its archive is missing or was changed.
    pub fn is_altered(&self) -> bool {
        matches!(self, LogError::Gap { .. } | LogError::Altered(_))
    }
}

/// Appending failed for some or all records.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct AppendError {
    /// Per record of the call: where it stands, if it is known to be durable.
    pub appended: Vec<Option<crate::log::Appended>>,
    /// The first error.
    pub error: LogError,
}
