//! How a config speaks of sealing and of verification.

use std::path::PathBuf;
use std::time::Duration;

use primal_core::{Settings, SettingsError};
use serde::Deserialize;

/// Evidence that the record was not tampered with, and that the stores hold what it says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// The file with the private key that signs checkpoints; without one nothing is sealed.
    pub key: Option<PathBuf>,
    /// Public keys that signed before this one did.
    #[serde(default)]
    pub former_keys: Vec<String>,
    seal_every_s: Option<u32>,
    verify_every_s: Option<u32>,
}

const SEAL_EVERY_S: u32 = 10;

impl AuditConfig {
    /// How often `primalcore run` seals.
    pub fn seal_every(&self) -> Duration {
        Duration::from_secs(self.seal_every_s.unwrap_or(SEAL_EVERY_S).into())
    }

    /// How often `primalcore run` verifies each collection of each sink, if it does.
    pub fn verify_every(&self) -> Option<Duration> {
        self.verify_every_s.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// What cannot be meant.
    pub(crate) fn check(&self, place: &Settings) -> Result<(), SettingsError> {
        for (name, seconds) in [("seal_every_s", self.seal_every_s), ("verify_every_s", self.verify_every_s)] {
            if seconds == Some(0) {
                return Err(place.error(format!("`{name}` is 0; expected 1 or more")));
            }
        }
        let wants_key = match (&self.key, self.seal_every_s, self.former_keys.is_empty()) {
            (Some(_), _, _) => return Ok(()),
            (None, Some(_), _) => "`seal_every_s` is about sealing, which",
            (None, None, false) => "`former_keys` is about sealing, which",
            (None, None, true) if self.verify_every_s.is_some() => return Ok(()),
            (None, None, true) => "sealing",
        };
        Err(place.error(format!(
            "missing field `key`: {wants_key} needs it; `primalcore audit keygen --out hub.key` makes one. \
             `verify_every_s` alone verifies without sealing"
        )))
    }
}
