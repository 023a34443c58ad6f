//! Archiving as the config says it: where to, what, and how often; and the log and its archive as one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use primal_archive::{Archive, ArchivedLog, Kept, Life, Location, Moved, Report, Request};
use primal_core::log::EventLog;
use primal_core::{Collection, Epochs, Offset, Partition, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::archiving::ArchiveConfig;
use crate::config::Config;
use crate::hub::{Hub, HubError};

/// What failed is tried again after this long at the latest.
const AGAIN: Duration = Duration::from_secs(60);

/// A log and what it is read through.
pub(crate) struct Joined {
    /// Log and archive as one.
    pub log: Arc<dyn EventLog>,
    /// The log alone.
    pub alone: Arc<dyn EventLog>,
    pub archive: Option<Archive>,
}

type Lives = BTreeMap<Collection, Result<Arc<Epochs>, String>>;

impl ArchiveConfig {
    fn open(&self, prefix: &str) -> Result<Archive, HubError> {
        let location = Location::parse(&self.url).map_err(|e| HubError::Usage(format!("archive.url: {e}")))?;
        Archive::open(&location, &self.s3, prefix).map_err(|e| HubError::Usage(format!("archive: {e}")))
    }
}

impl Joined {
    /// Puts the archive of the config before the log, if there is one.
    pub fn new(config: &Config, alone: Arc<dyn EventLog>, lives: &Lives) -> Result<Self, HubError> {
        let Some(settings) = &config.archive else { return Ok(Joined { log: alone.clone(), alone, archive: None }) };
        let archive = settings.open(config.log.prefix())?;
        let usable = |(name, epochs): (&Collection, &Result<Arc<Epochs>, String>)| {
            Some((name.topic(), epochs.as_ref().ok()?.clone()))
        };
        let topics: Vec<_> = lives.iter().filter_map(usable).collect();
        let log = Arc::new(ArchivedLog::new(alone.clone(), archive.clone(), topics));
        Ok(Joined { log, alone, archive: Some(archive) })
    }
}

/// What the log no longer has after archived ranges were dropped from it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Dropped {
    /// The collection.
    pub collection: String,
    /// The partition.
    pub partition: Partition,
    /// The first offset that the log still has.
    pub start: Offset,
}

impl Hub {
    fn archive(&self) -> Result<(&Archive, &ArchiveConfig), HubError> {
        let missing = "the config names no archive; `archive: { url: \"file:///var/lib/primalcore/archive\" }` does";
        self.archive.as_ref().zip(self.config.archive.as_ref()).ok_or_else(|| HubError::Usage(missing.to_owned()))
    }

    fn request(&self, name: &str) -> Result<Request, HubError> {
        let source = self.source(name)?;
        Ok(Request { log: self.alone.clone(), collection: source.collection, epochs: source.epochs })
    }

    /// The names of the given collections; those of all when none are given.
    fn names(&self, names: &[String]) -> Result<Vec<String>, HubError> {
        let found = self.sources(names)?.into_iter().map(|source| source.collection.to_string());
        Ok(found.collect())
    }

    /// Archives what collections (all when none are named) got before a moment; without one, what is as old as the config
    /// says.
    ///
    /// # Errors
    /// A name is unknown, no archive is configured, it cannot be reached, or the log's.
    pub async fn archive_now(&self, names: &[String], before: Option<Timestamp>) -> Result<Vec<Moved>, HubError> {
        let (archive, config) = self.archive()?;
        let before = before.unwrap_or_else(|| config.after.before(self.env.now()));
        let mut moved = Vec::new();
        for name in self.names(names)? {
            moved.extend(archive.archive(&self.request(&name)?, before).await?);
        }
        Ok(moved)
    }

    /// Drops from the log what is archived and was taken before a moment; without one, what is as old as the config says,
    /// and nothing where it does not.
    ///
    /// # Errors
    /// As [`Hub::archive_now`]; or the archive is not as it was written.
    pub async fn drop_archived(&self, names: &[String], before: Option<Timestamp>) -> Result<Vec<Dropped>, HubError> {
        let (archive, config) = self.archive()?;
        let Some(before) = before.or_else(|| config.keep.map(|keep| keep.before(self.env.now()))) else {
            return Ok(Vec::new());
        };
        let mut dropped = Vec::new();
        for name in self.names(names)? {
            let starts = archive.drop_archived(&self.request(&name)?, before).await?;
            let one = |(partition, start)| Dropped { collection: name.clone(), partition, start };
            dropped.extend(starts.into_iter().map(one));
        }
        Ok(dropped)
    }

    /// What the archive holds.
    ///
    /// # Errors
    /// As [`Hub::archive_now`].
    pub async fn archived(&self, names: &[String]) -> Result<Vec<Kept>, HubError> {
        let (archive, _) = self.archive()?;
        let mut kept = Vec::new();
        for source in self.sources(names)? {
            kept.extend(archive.list(&source.collection.topic()).await?);
        }
        Ok(kept)
    }

    /// Reads the archive again and compares it with its manifests and with the log.
    ///
    /// # Errors
    /// As [`Hub::archive_now`].
    pub async fn verify_archive(
        &self,
        names: &[String],
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<Report>, HubError> {
        let (archive, _) = self.archive()?;
        let mut reports = Vec::new();
        for name in self.names(names)? {
            reports.extend(archive.verify(&self.request(&name)?, &mut progress).await?);
        }
        Ok(reports)
    }

    /// The archive's address and what there is to say of it; `None` where the config has none.
    pub async fn check_archive(&self) -> Option<(String, Result<String, String>)> {
        let archive = self.archive.as_ref()?;
        Some((archive.location().to_owned(), archive.check().await.map_err(|error| error.to_string())))
    }

    /// How far each partition of a collection is archived; `None` where there is no archive.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(crate) async fn archived_to(&self, collection: &Collection) -> Result<Option<Vec<Offset>>, HubError> {
        let Some(archive) = &self.archive else { return Ok(None) };
        let epochs = self.epochs(collection).map_err(HubError::Usage)?;
        let mut ends = Vec::new();
        for partition in 0..epochs.partitions() as Partition {
            let mut end = 0;
            for life in Life::all(&collection.topic(), &epochs, partition) {
                end = archive.end(&life).await?.max(end);
            }
            ends.push(end);
        }
        Ok(Some(ends))
    }

    /// Archives every so often until the shutdown. What fails is told and tried again: events are taken all the same.
    pub(crate) async fn keep_archived(self: Arc<Self>, shutdown: CancellationToken) {
        let Some(every) = self.config.archive.as_ref().map(|config| config.every.0) else { return };
        loop {
            let mut pause = every;
            for collection in self.config.collections.keys() {
                let name = [collection.to_string()];
                let work = async {
                    for moved in self.archive_now(&name, None).await? {
                        let (partition, from, to) = (moved.partition, moved.from, moved.to);
                        tracing::info!(%collection, partition, from, to, records = moved.records, "archived");
                    }
                    for Dropped { partition, start, .. } in self.drop_archived(&name, None).await? {
                        tracing::info!(%collection, partition, start, "dropped from the log what is archived");
                    }
                    Ok::<_, HubError>(())
                };
                match shutdown.run_until_cancelled(work).await {
                    None => return,
                    Some(Ok(())) => {}
                    Some(Err(error)) => {
                        pause = pause.min(AGAIN);
                        tracing::warn!(%collection, %error, "not archived; trying again");
                    }
                }
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }
}
