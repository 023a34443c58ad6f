//! What the log says, and proof that a store holds it: the state of an entity at any moment, who changed what, what led to
//! what, where an event stands in each store, and verification of a store by key, version and digest.

mod by_blocks;
mod diff;
mod nearest;
mod receipts;
mod scan;
mod selection;
mod standing;
mod state;
mod tally;
#[cfg(test)]
mod testing;
mod trace;
mod verify;

pub use diff::{Change, changes};
pub use nearest::{Field, nearest};
pub use receipts::{Checked, Disagreement, check};
pub use scan::{Entry, Part, Scan, ScanError, Source, Span};
pub use selection::{Selection, Within, known};
pub use standing::{AppliedAt, Fate, Question, Standing};
pub use state::{AsOf, Entity, Memory, Remembered, StateError, Versions};
pub use tally::Tally;
pub use trace::{Step, trace};
pub use verify::{Difference, Found, Report, Scope, VerifyError, verify};
