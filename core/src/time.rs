//! One type for moments: microseconds since 1970-01-01 UTC. Reading and writing of RFC 3339 is here; clocks are in `env`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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

/// Reads a length of time; a day has 24 hours. Months and years have no fixed length and are refused.
pub(crate) fn duration(text: &str) -> Option<jiff::SignedDuration> {
    let span: jiff::Span = text.parse().ok()?;
    span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()
}

/// A length of time as an operator writes it: `90s`, `1h 30m`, `7d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// Reads it.
    ///
    /// # Errors
    /// A message that says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let read = duration(text).and_then(|duration| Duration::try_from(duration).ok());
        let expected = || format!("{text:?} is no length of time; expected such as 90s, 12h or 7d");
        read.map(Span).ok_or_else(expected)
    }

    /// The moment that lies so far before another.
    pub fn before(self, now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_sub(i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Span {
    /// In days, hours, minutes and seconds, without those that are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let parts =
            [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
        let parts: Vec<_> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
        f.write_str(if parts.is_empty() { "0s" } else { "" })?;
        f.write_str(&parts.join(" "))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SpanText)
    }
}

struct SpanText;

impl de::Visitor<'_> for SpanText {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a length of time such as 90s, 12h or 7d")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        Span::parse(text).map_err(E::custom)
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

    #[test]
    fn lengths_of_time_are_read_and_shown() {
        for text in ["0s", "90m", "1h 30m", "7d", "1d 2h 3m 4s"] {
            let span = Span::parse(text).unwrap();
            assert_eq!(Span::parse(&span.to_string()), Ok(span), "{text}");
        }
        assert_eq!(Span::parse("90m").unwrap().to_string(), "1h 30m");
        for bad in ["", "7", "soon", "1 month", "-1s"] {
            assert!(Span::parse(bad).unwrap_err().contains("such as 90s, 12h or 7d"), "{bad}");
        }
        let now = Timestamp::parse_rfc3339("2013-01-08T00:00:00Z").unwrap();
        assert_eq!(Span::parse("7d").unwrap().before(now).to_string(), "2013-01-01T00:00:00Z");
    }
}
