//! Why a replay did not do what was asked.

use primal_audit::{Report, ScanError, VerifyError};
use primal_core::error::LogError;
use primal_core::lives::LivesError;
use primal_core::{Fault, Retry, SinkError};
use primal_runtime::JobError;

/// An error of a replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The request makes no sense; nothing was done.
    #[error("{0}")]
    Usage(String),
    /// The new build does not hold what the log says; the live one was left as it is.
    #[error("verification found differences; the live generation was left as it is, the new one is kept as {}", .0.place)]
    Different(Box<Report>),
    /// Stopped half-way; the same command goes on from there.
    #[error("{0}")]
    Interrupted(String),
    /// The store cannot be asked what it holds.
    #[error("sink {0} cannot be asked what it holds: {1}; `primalcore check` looks at every store")]
    Store(String, SinkError),
    /// Somebody else is at it.
    #[error("{0}")]
    Taken(String),
    /// A write did not come from where the build is.
    #[error("{}", JobError::Fenced)]
    Fenced,
    /// The store failed.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The collection's epochs cannot be had.
    #[error(transparent)]
    Lives(#[from] LivesError),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl ReplayError {
    /// Whether the store or the log is away, or has no room. That is waited for, however long it takes.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            ReplayError::Sink(error) => matches!(error.fault, Fault::Unavailable | Fault::Unauthorized | Fault::Full),
            ReplayError::Log(error) => error.is_passing(),
            _ => false,
        }
    }

    /// Whether the same may succeed a moment later: also a write that was fenced, since the next one goes by what the
    /// store says.
    pub fn is_passing(&self) -> bool {
        match self {
            ReplayError::Fenced => true,
            ReplayError::Sink(error) => error.retry != Retry::No || error.fault == Fault::Fenced,
            ReplayError::Log(error) => error.is_passing(),
            _ => false,
        }
    }
}

impl From<VerifyError> for ReplayError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Sink(error) => ReplayError::Sink(error),
            VerifyError::Log(error) => ReplayError::Log(error),
            VerifyError::Unreadable(_) => ReplayError::Failed(error.to_string()),
        }
    }
}

impl From<ScanError> for ReplayError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Usage(message) => ReplayError::Usage(message),
            ScanError::Log(error) => ReplayError::Log(error),
        }
    }
}

impl From<JobError> for ReplayError {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Cancelled => ReplayError::Interrupted(error.to_string()),
            JobError::Fenced => ReplayError::Fenced,
            JobError::Failed(_) => ReplayError::Failed(error.to_string()),
        }
    }
}
