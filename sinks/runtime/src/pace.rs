//! How hard a job may push a store: events per second over all partitions, a share of the store's time, and pauses.
//! Workers have no limits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// What may be made up for after a batch was late.
const BURST: Duration = Duration::from_millis(100);
/// A batch holds at most what the rate allows in this fraction of a second, so that the load is even.
const SLICES: f64 = 10.0;
/// How long a write may take where the store's time is shared: nobody waits behind one for longer.
const SHORT: Duration = Duration::from_millis(5);
/// Records in the first batch of such a job, and the bounds of what later ones are made of.
const FIRST: usize = 1_000;
const FEWEST: usize = 100;
const MOST: usize = 50_000;

/// The limits of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Events per second, over all partitions.
    pub rate: Option<f64>,
    /// The share of the time in which the store works for this job, above 0 and at most 1. One write at a time, of as many
    /// events as the store takes in 5 milliseconds.
    pub budget: Option<f64>,
}

impl Pace {
    /// Reads a rate: `500/s` or `500`.
    ///
    /// # Errors
    /// A message that says what is expected.
    pub fn parse_rate(text: &str) -> Result<f64, String> {
        let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>().ok();
        number
            .filter(|rate| rate.is_finite() && *rate >= 0.001)
            .ok_or_else(|| format!("{text:?} is no rate; expected events per second, such as 500/s"))
    }

    /// Reads a share: `30%`.
    ///
    /// # Errors
    /// A message that says what is expected.
    pub fn parse_budget(text: &str) -> Result<f64, String> {
        let number = text.strip_suffix('%').and_then(|percent| percent.trim_end().parse::<f64>().ok());
        number
            .filter(|percent| (0.1..=100.0).contains(percent))
            .map(|percent| percent / 100.0)
            .ok_or_else(|| format!("{text:?} is no share of the store's time; expected 0.1% to 100%, such as 30%"))
    }
}

/// Where the batches of all partitions of one job pass.
pub(crate) struct Gate {
    pace: Pace,
    /// When the next event may be taken.
    next: Mutex<Option<Instant>>,
    /// One write at a time, where the store's time is shared.
    turn: tokio::sync::Mutex<()>,
    /// How many records make a short write, by those before.
    short: AtomicUsize,
    paused: watch::Sender<bool>,
    /// Whether the limits do not count now; a pause does.
    lifted: AtomicBool,
    stood: Mutex<Stood>,
}

#[derive(Default)]
struct Stood {
    before: Duration,
    since: Option<Instant>,
}

/// The right to write once.
pub(crate) struct Turn<'a>(Option<tokio::sync::MutexGuard<'a, ()>>);

impl Gate {
    pub(crate) fn new(pace: Pace) -> Self {
        Gate {
            pace,
            next: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            short: AtomicUsize::new(FIRST),
            paused: watch::Sender::new(false),
            lifted: AtomicBool::new(false),
            stood: Mutex::default(),
        }
    }

    pub(crate) fn pace(&self) -> Pace {
        self.pace
    }

    pub(crate) fn lift(&self, lifted: bool) {
        self.lifted.store(lifted, Ordering::Relaxed);
    }

    fn is_lifted(&self) -> bool {
        self.lifted.load(Ordering::Relaxed)
    }

    pub(crate) fn batch_limit(&self, most: usize) -> usize {
        let by_rate = self.pace.rate.map_or(most, |rate| (rate / SLICES) as usize);
        let by_budget = self.pace.budget.map_or(most, |_| self.short.load(Ordering::Relaxed));
        most.min(by_rate).min(by_budget).max(1)
    }

    pub(crate) fn pause(&self, paused: bool) {
        let mut stood = lock(&self.stood);
        match (paused, stood.since) {
            (true, None) => stood.since = Some(Instant::now()),
            (false, Some(since)) => {
                stood.before += since.elapsed();
                stood.since = None;
            }
            _ => {}
        }
        self.paused.send_replace(paused);
    }

    pub(crate) fn stood(&self) -> Duration {
        let stood = lock(&self.stood);
        stood.before + stood.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(crate) async fn admit(&self, events: usize) {
        self.until(false).await;
        if let Some(at) = self.slot(events) {
            tokio::time::sleep_until(at).await;
            self.until(false).await;
        }
    }

    pub(crate) async fn closed(&self) {
        self.until(true).await;
    }

    pub(crate) async fn turn(&self) -> Turn<'_> {
        match self.pace.budget.filter(|_| !self.is_lifted()) {
            Some(_) => Turn(Some(self.turn.lock().await)),
            None => Turn(None),
        }
    }

    /// Leaves the store alone in proportion to what a write of so many events took.
    pub(crate) async fn rest(&self, turn: Turn<'_>, took: Duration, events: usize) {
        if let (Some(budget), Some(_one_at_a_time), false) = (self.pace.budget, &turn.0, self.is_lifted()) {
            if events > 0 {
                // In steps: one write may have had to wait for something else.
                let step = (SHORT.as_secs_f64() / took.as_secs_f64()).clamp(0.5, 1.5);
                let next = self.short.load(Ordering::Relaxed) as f64 * step;
                self.short.store((next as usize).clamp(FEWEST, MOST), Ordering::Relaxed);
            }
            tokio::time::sleep(took.mul_f64((1.0 - budget) / budget)).await;
        }
    }

    async fn until(&self, paused: bool) {
        // The sender is here, so it cannot be gone.
        let _ = self.paused.subscribe().wait_for(|now| *now == paused).await;
    }

    /// A place for so many events behind those that have one.
    fn slot(&self, events: usize) -> Option<Instant> {
        let rate = self.pace.rate.filter(|_| !self.is_lifted())?;
        let now = Instant::now();
        let mut next = lock(&self.next);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let at = next.map_or(now, |next| next.max(earliest));
        *next = Some(at + Duration::from_secs_f64(events as f64 / rate));
        Some(at)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_budgets_are_read() {
        assert_eq!((Pace::parse_rate("500/s"), Pace::parse_rate("0.5")), (Ok(500.0), Ok(0.5)));
        assert_eq!((Pace::parse_budget("30%"), Pace::parse_budget("100%")), (Ok(0.3), Ok(1.0)));
        for bad in ["", "0/s", "-1", "500/m", "inf", "NaN"] {
            assert!(Pace::parse_rate(bad).is_err(), "{bad}");
        }
        for bad in ["", "30", "0%", "101%", "x%", "NaN%"] {
            assert!(Pace::parse_budget(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_of_all_partitions_share_one_rate_evenly() {
        let gate = Gate::new(Pace { rate: Some(1_000.0), budget: None });
        assert_eq!((gate.batch_limit(5_000), gate.batch_limit(10)), (100, 10));
        let started = Instant::now();
        let partition = async |count: usize| {
            let mut latest = Duration::ZERO;
            for _ in 0..count {
                gate.admit(100).await;
                latest = started.elapsed();
            }
            latest
        };
        let (one, two) = tokio::join!(partition(10), partition(10));
        // 2,000 events: the last batch begins after 1,900 of them.
        assert!(one.max(two) >= Duration::from_millis(1_890) && one.max(two) < Duration::from_millis(1_950));
        // Neither waits for the other to end.
        assert!(one.min(two) >= Duration::from_millis(1_700), "{one:?} {two:?}");
        // What was not used is lost but for a tenth of a second.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let started = Instant::now();
        for _ in 0..11 {
            gate.admit(100).await;
        }
        assert!(started.elapsed() >= Duration::from_millis(890), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_leaves_the_store_the_rest_of_its_time() {
        let gate = Gate::new(Pace { rate: None, budget: Some(0.25) });
        let started = Instant::now();
        let write = async || {
            let turn = gate.turn().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            gate.rest(turn, Duration::from_millis(100), 1).await;
        };
        // Two partitions: 8 writes of 100 ms at a quarter of the time.
        tokio::join!(
            async {
                for _ in 0..4 {
                    write().await
                }
            },
            async {
                for _ in 0..4 {
                    write().await
                }
            }
        );
        assert_eq!(started.elapsed().as_millis(), 3_200);
    }

    #[tokio::test(start_paused = true)]
    async fn writes_of_a_shared_store_become_as_short_as_they_should_be() {
        let gate = Gate::new(Pace { rate: None, budget: Some(0.5) });
        // A store that takes 100 events in a millisecond, later five.
        for (millis_per_100, wanted) in [(1, 450..=550), (4, 112..=138)] {
            for _ in 0..12 {
                let events = gate.batch_limit(50_000);
                let turn = gate.turn().await;
                gate.rest(turn, Duration::from_millis(millis_per_100) * events as u32 / 100, events).await;
            }
            assert!(wanted.contains(&gate.batch_limit(50_000)), "{}", gate.batch_limit(50_000));
        }
        // A batch of nothing tells nothing.
        let (before, turn) = (gate.batch_limit(50_000), gate.turn().await);
        gate.rest(turn, Duration::from_millis(1), 0).await;
        assert_eq!((gate.batch_limit(50_000), gate.batch_limit(10)), (before, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn lifted_limits_do_not_count() {
        let gate = Gate::new(Pace { rate: Some(1.0), budget: Some(0.01) });
        gate.lift(true);
        let started = Instant::now();
        for _ in 0..10 {
            gate.admit(100).await;
            let turn = gate.turn().await;
            gate.rest(turn, Duration::from_secs(1), 1).await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        gate.lift(false);
        let turn = gate.turn().await;
        gate.rest(turn, Duration::from_secs(1), 1).await;
        assert_eq!(started.elapsed(), Duration::from_secs(99));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_everybody_and_is_counted() {
        let gate = Gate::new(Pace::default());
        gate.pause(true);
        gate.closed().await;
        let waiting = async {
            gate.admit(1).await;
            Instant::now()
        };
        let started = Instant::now();
        let release = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            gate.pause(false);
        };
        let (admitted, ()) = tokio::join!(waiting, release);
        assert_eq!((admitted - started, gate.stood()), (Duration::from_secs(5), Duration::from_secs(5)));
    }
}
