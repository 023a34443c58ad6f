//! Time and chance, as things that can be replaced: nothing in the hub reads a wall clock or draws a random number in
//! any other way, so a test can run the real code on virtual time and one seed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Timestamp;

/// Tells the time of day. Waiting is done with `tokio::time`, which tests can pause.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// Draws random numbers.
pub trait Random: Send + Sync {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}

/// The clock and the source of chance that a component was given.
#[derive(Clone)]
pub struct Env {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Draws numbers.
    pub random: Arc<dyn Random>,
}

impl Env {
    /// The machine's clock, and a generator seeded by the operating system.
    pub fn system() -> Self {
        Env { clock: Arc::new(SystemClock), random: Arc::new(Seeded(Mutex::new(fastrand::Rng::new()))) }
    }

    /// A given clock, and a generator that repeats itself for equal seeds.
    pub fn seeded(clock: Arc<dyn Clock>, seed: u64) -> Self {
        Env { clock, random: Arc::new(Seeded(Mutex::new(fastrand::Rng::with_seed(seed)))) }
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A new time-ordered identifier (UUIDv7, RFC 9562).
    pub fn uuid_v7(&self) -> uuid::Uuid {
        let mut bytes = [0u8; 10];
        let (high, low) = (self.random.next_u64().to_be_bytes(), self.random.next_u64().to_be_bytes());
        for (place, byte) in bytes.iter_mut().zip(high.iter().chain(low.iter())) {
            *place = *byte;
        }
        let millis = u64::try_from(self.now().millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }

    /// `base` doubled `attempt` times up to `limit`, then drawn evenly between its half and its whole ("equal jitter").
    pub fn backoff(&self, base: Duration, limit: Duration, attempt: u32) -> Duration {
        let whole = base.saturating_mul(2u32.saturating_pow(attempt.min(16))).min(limit);
        let half = whole / 2;
        let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_micros(self.random.next_u64() % span)
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

struct Seeded(Mutex<fastrand::Rng>);

impl Random for Seeded {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).u64(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1_700_000_000_000)
        }
    }

    #[test]
    fn equal_seeds_give_equal_ids_and_delays() {
        let (a, b) = (Env::seeded(Arc::new(Fixed), 7), Env::seeded(Arc::new(Fixed), 7));
        assert_eq!(a.uuid_v7(), b.uuid_v7());
        assert_eq!(a.uuid_v7().get_version_num(), 7);
        let delay = a.backoff(Duration::from_millis(100), Duration::from_secs(10), 3);
        assert!((Duration::from_millis(400)..=Duration::from_millis(800)).contains(&delay), "{delay:?}");
        let capped = a.backoff(Duration::from_millis(100), Duration::from_secs(10), 60);
        assert!(capped <= Duration::from_secs(10));
    }
}
