//! The example events that come with the program: a week of flights, weather, airports, planes and airlines.

use std::io::Read;

use crate::Failure;

/// The collections of the examples.
pub(crate) const COLLECTIONS: &[&str] = &["airlines", "airports", "flights", "planes", "weather"];

const WEEK: &[u8] = include_bytes!("../../examples/week.ndjson.gz");

/// The week as NDJSON. Each event has an id of its own, so that a second run finds them in the log already.
pub(crate) fn week() -> Result<String, Failure> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(WEEK).read_to_string(&mut text).map_err(Failure::failed)?;
    let mut lines = String::with_capacity(text.len() + 32 * 24_000);
    for (number, line) in text.lines().enumerate() {
        let rest = line.strip_prefix('{').unwrap_or(line);
        lines.push_str(&format!("{{\"id\":\"week-{}\",{rest}\n", number + 1));
    }
    Ok(lines)
}
