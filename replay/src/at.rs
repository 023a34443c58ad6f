//! Moments as an operator writes them: `earliest`, `now`, a date, RFC 3339, or a place in the log.

use std::fmt;
use std::str::FromStr;

use primal_core::{Offset, Partition, Timestamp};

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

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(At::Earliest),
            "now" => return Ok(At::Now),
            _ => {}
        }
        if let Some(place) = text.strip_prefix("offset:") {
            let wrong = || format!("{text:?} is not `offset:PARTITION:OFFSET`, such as `offset:0:1200`");
            let (partition, offset) = place.split_once(':').ok_or_else(wrong)?;
            let partition: Partition = partition.parse().ok().filter(|p| *p >= 0).ok_or_else(wrong)?;
            let offset: Offset = offset.parse().ok().filter(|o| *o >= 0).ok_or_else(wrong)?;
            return Ok(At::Offset(partition, offset));
        }
        if let Some(moment) = Timestamp::parse_rfc3339(text) {
            return Ok(At::Time(moment));
        }
        // Without a zone it is UTC.
        if let Ok(moment) = text.parse::<jiff::civil::DateTime>()
            && let Ok(moment) = jiff::tz::Offset::UTC.to_timestamp(moment)
        {
            return Ok(At::Time(Timestamp(moment.as_microsecond())));
        }
        Err(format!(
            "{text:?} is no moment; expected `earliest`, `now`, a date (2013-06-01), a time (2013-06-01T12:00:00Z, \
             UTC without a zone) or `offset:PARTITION:OFFSET`"
        ))
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
        for text in ["earliest", "now", "offset:3:1200", "2013-06-01T12:00:00Z"] {
            assert_eq!(text.parse::<At>().unwrap().to_string(), text);
        }
        let midnight: At = "2013-06-01T00:00:00Z".parse().unwrap();
        assert_eq!("2013-06-01".parse::<At>().unwrap(), midnight);
        assert_eq!("2013-06-01T02:00:00+02:00".parse::<At>().unwrap(), midnight);
        assert_eq!("2013-06-01T00:00".parse::<At>().unwrap(), midnight);
        for bad in ["", "yesterday", "offset:1", "offset:-1:2", "offset:a:b", "2013-13-01", "1370044800"] {
            assert!(bad.parse::<At>().is_err(), "{bad}");
        }
    }
}
