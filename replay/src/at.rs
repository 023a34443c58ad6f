//! The bounds of a replay as an operator writes them: a moment, or a place in the log.

use std::fmt;

use primal_core::{Moment, Offset, Partition, Timestamp};

/// A bound of a replay. Times mean recorded time: when the log took the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The first event that the log has.
    Earliest,
    /// The present end of the log.
    Now,
    /// The first event taken at or after this moment.
    Time(Timestamp),
    /// `offset:P:N`: offset N of partition P; other partitions are left out.
    Offset(Partition, Offset),
}

impl At {
    /// Reads what an operator wrote; `now` is what `2h` (two hours ago) counts from.
    ///
    /// # Errors
    /// A message that says what is expected.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, String> {
        if let Some(place) = text.strip_prefix("offset:") {
            let wrong = || format!("{text:?} is not `offset:PARTITION:OFFSET`, such as `offset:0:1200`");
            let (partition, offset) = place.split_once(':').ok_or_else(wrong)?;
            let partition: Partition = partition.parse().ok().filter(|p| *p >= 0).ok_or_else(wrong)?;
            let offset: Offset = offset.parse().ok().filter(|o| *o >= 0).ok_or_else(wrong)?;
            return Ok(At::Offset(partition, offset));
        }
        match Moment::parse(text, now) {
            Ok(Moment::Earliest) => Ok(At::Earliest),
            Ok(Moment::Latest) => Ok(At::Now),
            Ok(Moment::Time(moment)) => Ok(At::Time(moment)),
            Err(error) => Err(format!("{error}, or a place (offset:PARTITION:OFFSET)")),
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Earliest => f.write_str("earliest"),
            At::Now => f.write_str("now"),
            At::Time(moment) => moment.fmt(f),
            At::Offset(partition, offset) => write!(f, "offset:{partition}:{offset}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_read_and_written_back() {
        let now = Timestamp::parse_rfc3339("2013-06-01T14:00:00Z").unwrap();
        for text in ["earliest", "now", "offset:3:1200", "2013-06-01T12:00:00Z"] {
            assert_eq!(At::parse(text, now).unwrap().to_string(), text);
        }
        let noon = At::parse("2013-06-01T12:00:00Z", now);
        for text in ["2013-06-01T14:00:00+02:00", "2013-06-01T12:00", "2h"] {
            assert_eq!(At::parse(text, now), noon, "{text}");
        }
        for bad in ["", "yesterday", "offset:1", "offset:-1:2", "offset:a:b", "2013-13-01", "1370044800"] {
            assert!(At::parse(bad, now).is_err(), "{bad}");
        }
    }
}
