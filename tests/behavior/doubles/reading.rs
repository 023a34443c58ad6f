//! Doubles that keep something else than they were given, seen when it is read back.

use std::collections::HashMap;
use std::sync::Mutex;

use primal_core::sink::{Content, Stored};
use primal_core::table::Cell;
use primal_core::{Primal, Timestamp};

use super::double::Wrong;

fn changed(stored: Stored, change: impl Fn(&str) -> String) -> Option<Stored> {
    let content = match stored.content {
        Content::Document(text) => Content::Document(change(&text)),
        other => other,
    };
    Some(Stored { content, ..stored })
}

#[derive(Default)]
pub struct NotUnicode;
impl Wrong for NotUnicode {
    fn read(&self, stored: Stored) -> Option<Stored> {
        changed(stored, |text| text.replace(|c: char| !c.is_ascii(), "?"))
    }
}

#[derive(Default)]
pub struct Doubles;
impl Wrong for Doubles {
    fn read(&self, stored: Stored) -> Option<Stored> {
        changed(stored, |text| serde_json::from_str::<serde_json::Value>(text).unwrap().to_string())
    }
}

#[derive(Default)]
pub struct TrimsKeys;
impl Wrong for TrimsKeys {
    fn read(&self, stored: Stored) -> Option<Stored> {
        Some(Stored { identity: stored.identity.trim().to_owned(), ..stored })
    }
}

#[derive(Default)]
pub struct CutsText;
impl Wrong for CutsText {
    fn read(&self, stored: Stored) -> Option<Stored> {
        changed(stored, |text| if text.len() > 65_535 { r#"{"s":"xxx"}"#.to_owned() } else { text.to_owned() })
    }
}

#[derive(Default)]
pub struct DropsUnknown;
impl Wrong for DropsUnknown {
    fn read(&self, mut stored: Stored) -> Option<Stored> {
        if let Content::Row(cells) = &mut stored.content {
            *cells.last_mut().unwrap() = Cell::Null;
        }
        Some(stored)
    }
}

#[derive(Default)]
pub struct DropsPrimal;
impl Wrong for DropsPrimal {
    fn read(&self, stored: Stored) -> Option<Stored> {
        Some(Stored { primal: Primal::STANDARD, ..stored })
    }
}

#[derive(Default)]
pub struct DropsId;
impl Wrong for DropsId {
    fn read(&self, stored: Stored) -> Option<Stored> {
        Some(Stored { event_id: String::new(), ..stored })
    }
}

#[derive(Default)]
pub struct RoundsTime;
impl Wrong for RoundsTime {
    fn read(&self, stored: Stored) -> Option<Stored> {
        Some(Stored { time: Timestamp(stored.time.0 / 1_000_000 * 1_000_000), ..stored })
    }
}

/// A cache that nothing invalidates.
#[derive(Default)]
pub struct ReadsOnce(Mutex<HashMap<String, Stored>>);
impl Wrong for ReadsOnce {
    fn read(&self, stored: Stored) -> Option<Stored> {
        Some(self.0.lock().unwrap().entry(stored.identity.clone()).or_insert(stored).clone())
    }
}
