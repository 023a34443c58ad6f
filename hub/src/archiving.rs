//! How a config speaks of the archive.

use primal_core::time::Span;
use primal_core::{Settings, SettingsError};
use serde::Deserialize;

/// Where old ranges of the log go, and when.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveConfig {
    /// `file:///folder` or `s3://bucket/prefix`.
    pub url: String,
    /// What was taken this long ago is archived.
    #[serde(default = "after")]
    pub after: Span,
    /// `primalcore run` archives this often.
    #[serde(default = "every")]
    pub every: Span,
    /// What is archived and was taken this long ago is dropped from the log; without it the log is left as it is.
    pub keep: Option<Span>,
    /// Where the bucket is, and the key to it.
    #[cfg(feature = "archive")]
    #[serde(default)]
    pub s3: primal_archive::S3,
}

fn after() -> Span {
    Span(std::time::Duration::from_secs(7 * 86_400))
}

fn every() -> Span {
    Span(std::time::Duration::from_secs(3_600))
}

/// What a config says of it.
#[cfg(feature = "archive")]
pub(crate) fn check(place: &Settings) -> Result<ArchiveConfig, SettingsError> {
    let config: ArchiveConfig = place.read()?;
    let said = place.member("url")?.unwrap_or_else(|| place.clone());
    primal_archive::Location::parse(&config.url).map_err(|message| said.error(message))?;
    if config.every.0.is_zero() {
        return Err(place.error("`every` is 0; expected 1s or more"));
    }
    if let Some(keep) = config.keep.filter(|keep| *keep < config.after) {
        let after = config.after;
        return Err(
            place.error(format!("`keep` is {keep}, less than `after`, {after}: nothing would be archived by then"))
        );
    }
    Ok(config)
}

/// The same in a program that was built without.
#[cfg(not(feature = "archive"))]
pub(crate) fn check(place: &Settings) -> Result<ArchiveConfig, SettingsError> {
    Err(place.error("this program was built without archives; build it with the feature `archive`"))
}
