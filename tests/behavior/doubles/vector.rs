//! Doubles that keep vectors wrongly.

use primal_core::sink::{Content, Stored};

use super::double::Wrong;

#[derive(Default)]
pub struct KeepsTheVector;
impl Wrong for KeepsTheVector {
    fn read(&self, mut stored: Stored) -> Option<Stored> {
        if let Content::Document(text) = &mut stored.content {
            let rest = text.strip_prefix('{').unwrap().to_owned();
            *text = format!("{{\"v\":[0.25,-1,1e-3]{}{rest}", if rest == "}" { "" } else { "," });
        }
        Some(stored)
    }
}
