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

#[cfg(all(test, feature = "archive"))]
mod tests {
    use crate::config::Config;

    #[test]
    fn what_makes_no_sense_is_named_with_its_line() {
        let log = "log: { embedded: { path: a.db } }\n";
        let read = |archive: &str| Config::parse("hub.yaml", &format!("{log}archive: {archive}\n"), &|_| None);
        let good = read("{ url: \"s3://bucket/cold\", s3: { endpoint: \"http://h\" } }").unwrap().archive.unwrap();
        assert_eq!((good.after.to_string(), good.every.to_string(), good.keep), ("7d".into(), "1h".into(), None));
        assert!(!format!("{:?}", good.s3).contains("secret"));
        for (archive, says) in [
            (
                "\n  url: ftp://host/a",
                "hub.yaml:3: archive.url: \"ftp://host/a\" has the unknown scheme \"ftp\"; expected file:///folder or s3://bucket/prefix",
            ),
            (
                "{ url: \"file:///a\", after: soon }",
                "hub.yaml:2: archive.after: \"soon\" is no length of time; expected such as 90s, 12h or 7d",
            ),
            (
                "{ url: \"file:///a\", keep: 1d }",
                "hub.yaml:2: archive: `keep` is 1d, less than `after`, 7d: nothing would be archived by then",
            ),
            ("{ url: \"file:///a\", every: 0s }", "hub.yaml:2: archive: `every` is 0; expected 1s or more"),
            ("{ after: 1d }", "hub.yaml:2: archive: the field `url` is missing"),
            ("{ url: \"file:///a\", afer: 1d }", "hub.yaml:2: archive: unknown field `afer`, did you mean `after`?"),
        ] {
            assert_eq!(read(archive).err().unwrap().to_string(), says);
        }
    }
}
