//! Moments as an operator writes them: `earliest`, `latest`, a date, RFC 3339, or so long ago.

use std::fmt;

use crate::Timestamp;
use crate::time::duration;

/// A moment of the log, by recorded time. The order is that of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The first event that the log has.
    Earliest,
    /// This moment.
    Time(Timestamp),
    /// The present end of the log.
    Latest,
}

impl Moment {
    /// Reads what an operator wrote; `now` is what `2h` (two hours ago) counts from. Without a zone a time is UTC.
    ///
    /// # Errors
    /// A message that says what is expected.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Moment::Earliest),
            "latest" | "now" => return Ok(Moment::Latest),
            _ => {}
        }
        if let Some(moment) = Timestamp::parse_rfc3339(text) {
            return Ok(Moment::Time(moment));
        }
        if let Ok(moment) = text.parse::<jiff::civil::DateTime>()
            && let Ok(moment) = jiff::tz::Offset::UTC.to_timestamp(moment)
        {
            return Ok(Moment::Time(Timestamp(moment.as_microsecond())));
        }
        if let Some(moment) = ago(text, now) {
            return Ok(Moment::Time(moment));
        }
        Err(format!(
            "{text:?} is no moment; expected `earliest`, `latest` or `now`, a date (2013-06-01), a time \
             (2013-06-01T12:00:00Z, UTC without a zone), or how long ago (90s, 2h, 7d)"
        ))
    }

    /// The same, refused when it lies in the future: the log cannot say yet what will be then.
    ///
    /// # Errors
    /// A message that says what is expected.
    pub fn parse_past(text: &str, now: Timestamp) -> Result<Self, String> {
        match Moment::parse(text, now)? {
            Moment::Time(moment) if moment > now => Err(format!("{moment} is in the future; it is {now} now")),
            moment => Ok(moment),
        }
    }
}

/// `2h`, `1h 30m` or `7d` before now.
fn ago(text: &str, now: Timestamp) -> Option<Timestamp> {
    let duration = duration(text)?;
    let now = jiff::Timestamp::from_microsecond(now.0).ok()?;
    now.checked_sub(duration.abs()).ok().map(|moment| Timestamp(moment.as_microsecond()))
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moment::Earliest => f.write_str("earliest"),
            Moment::Latest => f.write_str("latest"),
            Moment::Time(moment) => moment.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn all_forms_are_read() {
        let now = time("2013-06-08T00:00:00Z");
        for text in ["2013-06-01", "2013-06-01T00:00", "2013-06-01T02:00:00+02:00", "7d", "168h", "1w", "7 days ago"] {
            let expected = Moment::Time(time("2013-06-01T00:00:00Z"));
            assert_eq!(Moment::parse(text, now), Ok(expected), "{text}");
        }
        assert_eq!(Moment::parse("1h 30m", now), Ok(Moment::Time(time("2013-06-07T22:30:00Z"))));
        assert_eq!(Moment::parse("now", now), Ok(Moment::Latest));
        for text in ["earliest", "latest", "2013-06-01T12:00:00Z"] {
            assert_eq!(Moment::parse(text, now).unwrap().to_string(), text);
        }
    }

    #[test]
    fn nonsense_and_the_future_are_refused() {
        let now = time("2013-06-08T00:00:00Z");
        for bad in ["", "yesterday", "2013-13-01", "1370044800", "2", "1 month", "1y"] {
            assert!(Moment::parse(bad, now).is_err(), "{bad}");
        }
        let refused = Moment::parse_past("2013-06-08T00:00:01Z", now).unwrap_err();
        assert!(refused.contains("is in the future"), "{refused}");
        assert!(Moment::parse_past("2013-06-08", now).is_ok());
    }

    #[test]
    fn moments_are_ordered_by_time() {
        let (early, late) = (Moment::Time(Timestamp(1)), Moment::Time(Timestamp(2)));
        assert!(Moment::Earliest < early && early < late && late < Moment::Latest);
    }
}
