//! The time of day in which a replay may write.

use std::fmt;
use std::str::FromStr;

use primal_core::Timestamp;
use serde::{Deserialize, Serialize};

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60;

/// From one time of day to another, UTC; over midnight where the end is the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// Minutes since midnight; the first that belongs to it.
    from: i64,
    /// The first that does not.
    to: i64,
}

impl Window {
    /// Whether a moment lies in it.
    pub fn is_open(self, at: Timestamp) -> bool {
        let minute = at.0.div_euclid(MINUTE).rem_euclid(DAY);
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }

    /// When it opens, such as `22:00 UTC`.
    pub fn opens(self) -> String {
        format!("{} UTC", clock(self.from))
    }
}

fn clock(minutes: i64) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

fn minutes(text: &str) -> Option<i64> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |text: &str, below: i64| {
        let plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| plain && *number < below)
    };
    Some(number(hours, 24)? * 60 + number(minutes, 60)?)
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no time of day; expected such as 22:00-06:00, UTC");
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let (from, to) = (minutes(from).ok_or_else(wrong)?, minutes(to).ok_or_else(wrong)?);
        if from == to {
            return Err(format!("{text:?} begins where it ends; leave --window out for the whole day"));
        }
        Ok(Window { from, to })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", clock(self.from), clock(self.to))
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        // Any day will do, also one before 1970.
        Timestamp((minutes(text).unwrap() - 3 * DAY) * MINUTE + 59_999_999)
    }

    #[test]
    fn a_window_may_go_over_midnight() {
        let night: Window = "22:00-06:00".parse().unwrap();
        let day: Window = "06:00-22:00".parse().unwrap();
        for (time, is_night) in [("21:59", false), ("22:00", true), ("00:00", true), ("05:59", true), ("06:00", false)]
        {
            assert_eq!((night.is_open(at(time)), day.is_open(at(time))), (is_night, !is_night), "{time}");
        }
        assert_eq!((night.to_string().as_str(), night.opens().as_str()), ("22:00-06:00", "22:00 UTC"));
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in ["", "22:00", "22-06", "24:00-06:00", "22:60-06:00", "2:00-06:00", "+1:00-06:00", "06:00-06:00"] {
            assert!(bad.parse::<Window>().is_err(), "{bad}");
        }
    }
}
