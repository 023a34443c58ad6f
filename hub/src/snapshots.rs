//! How a config speaks of snapshots.

use std::path::PathBuf;

use primal_core::{Settings, SettingsError};
use serde::Deserialize;

/// Snapshots: a cache, so that a question about the past reads the log from the nearest one and not from its start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotConfig {
    /// The folder.
    #[serde(default = "snapshots")]
    pub path: PathBuf,
    /// Events of a partition between two.
    #[serde(default = "every")]
    pub every: u64,
    /// Whether `run` makes them: where the config has the group.
    #[serde(skip, default = "yes")]
    pub asked: bool,
}

fn snapshots() -> PathBuf {
    PathBuf::from("primalcore-snapshots")
}

fn every() -> u64 {
    25_000
}

fn yes() -> bool {
    true
}

impl SnapshotConfig {
    /// What a config says, or what is the case where it says nothing.
    pub(crate) fn check(said: Option<Self>, place: &Settings) -> Result<Self, SettingsError> {
        match said {
            Some(SnapshotConfig { every: 0, .. }) => Err(place.error("`every` is 0; expected 1 or more")),
            Some(snapshots) => Ok(snapshots),
            None => Ok(SnapshotConfig { path: snapshots(), every: every(), asked: false }),
        }
    }
}
