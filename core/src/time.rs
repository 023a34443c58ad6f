//! One type for moments: microseconds since 1970-01-01 UTC. Reading and writing of RFC 3339 is here; clocks are in `env`.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Microseconds since 1970-01-01T00:00:00Z. Finer fractions of a second are cut off when text is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The earliest moment that can be named; every record is later.
    pub const MIN: Timestamp = Timestamp(i64::MIN);

    /// From milliseconds since 1970, the unit of Kafka's timestamps.
    pub fn from_millis(millis: i64) -> Self {
        Timestamp(millis.saturating_mul(1000))
    }

    /// Milliseconds since 1970, rounded down.
    pub fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Reads RFC 3339 (`2013-01-01T10:15:00Z`, any offset). `None` when it is not that.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let moment: jiff::Timestamp = text.parse().ok()?;
        Some(Timestamp(moment.as_microsecond()))
    }

    /// The time that has passed since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// As it is displayed: RFC 3339 in UTC.
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with as many digits of the second as are needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(moment) => moment.fmt(f),
            Err(_) => write!(f, "{} µs", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_round_trips_to_the_microsecond() {
        for text in ["2013-01-01T10:15:00Z", "1969-12-31T23:59:59.999999Z", "2026-02-28T01:02:03.5Z"] {
            assert_eq!(Timestamp::parse_rfc3339(text).unwrap().to_string(), text);
        }
        let zoned = Timestamp::parse_rfc3339("2013-01-01T05:15:00-05:00");
        assert_eq!(zoned, Timestamp::parse_rfc3339("2013-01-01T10:15:00Z"));
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
    }
}
