//! What a replay does while the store or the log fails: it waits, says what for, and goes on from where the store is.

use std::time::Duration;

use primal_core::{Retry, SinkError};

use crate::{Replay, ReplayError};

/// How often something is done again that fails although neither the store nor the log is away.
const AGAIN: u32 = 5;

impl Replay {
    /// Does a step, again for as long as the store or the log is away or has no room.
    pub(crate) async fn patiently<T, F>(&self, mut step: impl FnMut() -> F) -> Result<T, ReplayError>
    where
        F: Future<Output = Result<T, ReplayError>>,
    {
        let (mut attempt, mut again) = (0, 0);
        loop {
            match step().await {
                Err(error) if error.is_outage() => self.wait(&error, attempt).await?,
                Err(error) if error.is_passing() && again < AGAIN => {
                    self.wait(&error, attempt).await?;
                    again += 1;
                }
                done => {
                    if attempt > 0 {
                        self.job.well();
                    }
                    return done;
                }
            }
            attempt += 1;
        }
    }

    /// Waits before what failed is tried again.
    pub(crate) async fn wait(&self, error: &ReplayError, attempt: u32) -> Result<(), ReplayError> {
        let pause = match error {
            ReplayError::Sink(SinkError { retry: Retry::After(pause), .. }) => *pause,
            _ => self.env.backoff(Duration::from_millis(200), Duration::from_secs(5), attempt),
        };
        Ok(self.job.wait(error.to_string(), pause).await?)
    }

    /// What it waits for, while the store or the log fails and it tries again.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.job.trouble()
    }
}
