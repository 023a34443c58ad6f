//! Doubles that keep points wrongly.

use primal_core::sink::{Content, Stored};
use primal_core::table::Cell;

use super::double::Wrong;

#[derive(Default)]
pub struct RoundsIntegers;
impl Wrong for RoundsIntegers {
    fn read(&self, mut stored: Stored) -> Option<Stored> {
        if let Content::Row(cells) = &mut stored.content {
            for cell in cells {
                if let Cell::Integer(n) = cell {
                    *n = *n as f64 as i64;
                }
            }
        }
        Some(stored)
    }
}

fn with_tags(stored: Stored, change: fn(&str) -> String) -> Option<Stored> {
    let parts: Vec<String> = serde_json::from_str(&stored.identity).unwrap();
    let parts: Vec<String> = parts.iter().map(|part| change(part)).collect();
    Some(Stored { identity: serde_json::to_string(&parts).unwrap(), ..stored })
}

#[derive(Default)]
pub struct TrimsTags;
impl Wrong for TrimsTags {
    fn read(&self, stored: Stored) -> Option<Stored> {
        with_tags(stored, |tag| tag.trim().to_owned())
    }
}

#[derive(Default)]
pub struct IgnoresCase;
impl Wrong for IgnoresCase {
    fn read(&self, stored: Stored) -> Option<Stored> {
        with_tags(stored, str::to_lowercase)
    }
}
