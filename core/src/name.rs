//! Names: of collections, of the topics that hold them, of the hub's own topics, and the limits of keys.

use std::fmt;
use std::sync::Arc;

/// The longest collection name, in bytes: with a generation's suffix it stays below PostgreSQL's 63-byte identifiers.
pub const MAX_COLLECTION_BYTES: usize = 48;
/// The longest key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 512;

/// A named stream of events, such as `flights`. ASCII letters, digits, `_` and `-`; begins with a letter; no `__`,
/// which marks generations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collection(Arc<str>);

impl Collection {
    /// Checks the name.
    ///
    /// # Errors
    /// A message that says which rule was broken.
    pub fn new(name: &str) -> Result<Self, String> {
        check_name("collection", name)?;
        Ok(Collection(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The topic that holds this collection's events.
    pub fn topic(&self) -> Topic {
        Topic(self.0.clone())
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks a name that ends up as a topic, a table or a sink: `what` says which, for the message.
///
/// # Errors
/// A message that says which rule was broken.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_COLLECTION_BYTES {
        format!("has {} bytes, the limit is {MAX_COLLECTION_BYTES}", name.len())
    } else if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        "must begin with a letter".to_owned()
    } else if let Some(c) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))) {
        format!("has the character {c:?}; letters, digits, `_` and `-` are allowed")
    } else if name.contains("__") {
        "contains `__`, which is kept for generations".to_owned()
    } else {
        return Ok(());
    };
    Err(format!("{what} name {name:?} {problem}"))
}

/// Checks an entity's key: 1 to 512 bytes, no NUL.
///
/// # Errors
/// A message that says which rule was broken.
pub fn check_key(key: &str) -> Result<(), String> {
    match key.len() {
        0 => Err("key is empty; expected 1 to 512 bytes".to_owned()),
        n if n > MAX_KEY_BYTES => Err(format!("key has {n} bytes; expected 1 to {MAX_KEY_BYTES}")),
        _ if key.contains('\0') => Err("key contains a NUL character".to_owned()),
        _ => Ok(()),
    }
}

/// A topic of the log, without the configured prefix (the log adds it). Either a collection's, or one of the hub's own,
/// whose names contain a dot so that no collection can collide with them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Dead letters of one sink.
    pub fn dead_letters(sink: &str) -> Self {
        Topic(format!("dlq.{sink}").into())
    }

    /// Which keys are parked, per sink (compacted).
    pub fn parked() -> Self {
        Topic("primal.parked".into())
    }

    /// The lives (epochs) and partition counts of all collections (compacted).
    pub fn epochs() -> Self {
        Topic("primal.epochs".into())
    }

    /// What each worker last said about itself (compacted).
    pub fn status() -> Self {
        Topic("primal.status".into())
    }

    /// Where the sealing of each partition stands (compacted).
    pub fn seals() -> Self {
        Topic("primal.seals".into())
    }

    /// All signed checkpoints, with the hashes of the records that each one covers.
    pub fn checkpoints() -> Self {
        Topic("primal.checkpoints".into())
    }

    /// What each worker did with which offsets, a row per block of them (compacted).
    pub fn receipts() -> Self {
        Topic("primal.receipts".into())
    }

    /// How far each sink was verified in the background, and with what result (compacted).
    pub fn verified() -> Self {
        Topic("primal.verified".into())
    }

    /// The replays that run or ran, and what is asked of them (compacted).
    pub fn replays() -> Self {
        Topic("primal.replays".into())
    }

    /// The name, without prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_held_to_their_limits() {
        assert!(Collection::new("flights-2013_a").is_ok());
        for bad in ["", "9a", "_a", "a.b", "a b", "a__g1", "ä", &"x".repeat(49)] {
            assert!(Collection::new(bad).is_err(), "{bad}");
        }
        assert!(check_key("é").is_ok());
        assert!(check_key(&"k".repeat(512)).is_ok());
        for bad in ["", "a\0b", &"k".repeat(513)] {
            assert!(check_key(bad).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn a_good_name_is_plain_whatever_becomes_of_it(name in "[a-zA-Z0-9_.\"'` ;é-]{0,60}|[a-z][a-z0-9_-]{0,50}") {
            if Collection::new(&name).is_ok() {
                proptest::prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
                let longest = format!("{name}__g{}", u32::MAX);
                proptest::prop_assert!(longest.len() <= 63 && !name.contains("__"));
            }
        }
    }
}
