//! The circuit breaker of one sink: after a failure nobody calls the store before a growing, jittered pause has passed;
//! after several, only one caller at a time tries, and the others go on once it got through.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use primal_core::Env;
use primal_core::error::Retry;
use tokio::sync::Notify;
use tokio::time::Instant;

const BASE: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(15);
/// From this many failures in a row on, one caller at a time probes.
const OPEN_AT: u32 = 3;

pub(crate) struct Breaker {
    env: Env,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    failures: u32,
    not_before: Option<Instant>,
    probing: bool,
}

/// The right to call the store once. Dropped without a verdict (the caller was cancelled), it counts as nothing.
pub(crate) struct Permit<'a> {
    breaker: &'a Breaker,
    probe: bool,
    /// How many failures there had been when it was given.
    failures: u32,
}

impl Breaker {
    pub(crate) fn new(env: Env) -> Self {
        Breaker { env, state: Mutex::default(), changed: Notify::new() }
    }

    /// Waits until the store may be called.
    pub(crate) async fn permit(&self) -> Permit<'_> {
        loop {
            let changed = self.changed.notified();
            let wait = {
                let mut state = self.state();
                let pause = state.not_before.filter(|at| *at > Instant::now());
                match pause {
                    Some(at) => Some(at),
                    None if state.probing => None,
                    None => {
                        let probe = state.failures >= OPEN_AT;
                        state.probing = probe;
                        return Permit { breaker: self, probe, failures: state.failures };
                    }
                }
            };
            match wait {
                Some(at) => tokio::time::sleep_until(at).await,
                None => changed.await,
            }
        }
    }

    /// 0 closed, 1 half open (somebody probes), 2 open: as the metric has it.
    pub(crate) fn gauge(&self) -> f64 {
        let state = self.state();
        if state.failures < OPEN_AT {
            0.0
        } else if state.probing {
            1.0
        } else {
            2.0
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The store answered, whatever it said.
    pub(crate) fn answered(self) {
        let mut state = self.breaker.state();
        state.failures = 0;
        state.not_before = None;
    }

    /// The call failed in a way that may pass; the pause before the next is returned.
    pub(crate) fn failed(self, retry: Retry) -> Duration {
        let mut state = self.breaker.state();
        // What was under way when another failed says nothing new: a store that goes away fails all its callers at once.
        let left = state.not_before.and_then(|at| at.checked_duration_since(Instant::now()));
        if let (Some(left), true) = (left, state.failures > self.failures) {
            return left;
        }
        let pause = match retry {
            Retry::After(pause) => self.breaker.env.backoff(pause * 2, pause * 2, 0),
            Retry::Backoff | Retry::No => self.breaker.env.backoff(BASE, LIMIT, state.failures),
        };
        state.failures = state.failures.saturating_add(1);
        state.not_before = Some(Instant::now() + pause);
        pause
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.state().probing = false;
        }
        self.breaker.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_one_success_ends_them() {
        let breaker = Breaker::new(Env::system());
        for _ in 0..4 {
            breaker.permit().await.failed(Retry::Backoff);
        }
        assert!((breaker.gauge() - 2.0).abs() < 0.1);
        let before = Instant::now();
        let probe = breaker.permit().await;
        assert!(before.elapsed() >= Duration::from_millis(400), "{:?}", before.elapsed());
        assert!(tokio::time::timeout(Duration::from_secs(60), breaker.permit()).await.is_err(), "two probes at once");
        probe.answered();
        let before = Instant::now();
        let (_a, _b) = (breaker.permit().await, breaker.permit().await);
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_fail_together_count_once() {
        let breaker = Breaker::new(Env::system());
        let mut permits = Vec::new();
        for _ in 0..20 {
            permits.push(breaker.permit().await);
        }
        for permit in permits {
            assert!(permit.failed(Retry::Backoff) <= BASE * 2);
        }
        let before = Instant::now();
        breaker.permit().await.answered();
        assert!(before.elapsed() <= BASE * 2, "{:?}", before.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_probe_lets_the_next_one_try() {
        let breaker = Breaker::new(Env::system());
        for _ in 0..4 {
            breaker.permit().await.failed(Retry::Backoff);
        }
        drop(breaker.permit().await);
        assert!(tokio::time::timeout(Duration::from_secs(60), breaker.permit()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_credentials_are_not_tried_often() {
        let breaker = Breaker::new(Env::system());
        let pause = breaker.permit().await.failed(Retry::After(Duration::from_secs(30)));
        assert!(pause >= Duration::from_secs(30), "{pause:?}");
    }
}
