//! An archive: where it lies, and what it holds of each partition in each life of its topic. The files of one life are a
//! chain: the manifest of each is named after the offset where the one before it ends, the first after the life's beginning.
//! Since a manifest is only ever created, two hubs that archive at a time cannot fork it.

use std::fmt;
use std::sync::Arc;

use primal_core::error::LogError;
use primal_core::{Epochs, Offset, Partition, Topic};
use serde::Serialize;

use crate::file::Opened;
use crate::index::Index;
use crate::manifest::Manifest;
use crate::store::{Location, S3, Store};

/// One partition in one life of its topic, as the archive has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Life {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: Partition,
    /// Which life.
    pub epoch: u64,
    /// The first offset that belongs to it.
    pub start: Offset,
    /// The offset after its last.
    pub end: Offset,
}

impl Life {
    /// The lives of a partition that the topic still has, oldest first.
    pub fn all(topic: &Topic, epochs: &Epochs, partition: Partition) -> Vec<Self> {
        let life = |(epoch, span): (u64, std::ops::Range<Offset>)| Life {
            topic: topic.clone(),
            partition,
            epoch,
            start: span.start,
            end: span.end,
        };
        epochs.spans(partition).into_iter().map(life).collect()
    }
}

/// A range that an archive holds, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The topic, with the log's prefix.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// Which life of the topic.
    pub epoch: u64,
    /// The first offset.
    pub from: Offset,
    /// The offset after the last.
    pub to: Offset,
    /// Files with a manifest.
    pub files: u64,
    /// Records in them.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An archive. Clones share what is known of its files.
#[derive(Clone)]
pub struct Archive {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub store: Store,
    pub location: String,
    /// Stands before the names of topics.
    prefix: String,
    pub index: Index,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Archive").field(&self.inner.location).finish()
    }
}

impl Archive {
    /// No network: it connects when it is first used. `prefix` is that of the log's topics.
    ///
    /// # Errors
    /// The settings make no sense.
    pub fn open(location: &Location, s3: &S3, prefix: &str) -> Result<Self, String> {
        Ok(Archive::over(Store::open(location, s3)?, location.to_string(), prefix))
    }

    pub(crate) fn over(store: Store, location: String, prefix: &str) -> Self {
        Archive { inner: Arc::new(Inner { store, location, prefix: prefix.to_owned(), index: Index::default() }) }
    }

    /// Its address.
    pub fn location(&self) -> &str {
        &self.inner.location
    }

    /// Whether it can be reached; what there is to say of it.
    ///
    /// # Errors
    /// It cannot.
    pub async fn check(&self) -> Result<String, LogError> {
        if !self.inner.store.is_made() {
            return Ok("not there yet; the first archiving makes it".to_owned());
        }
        self.inner.store.list("primalcore").await.map(|_| "reachable".to_owned())
    }

    pub(crate) fn topic(&self, topic: &Topic) -> String {
        format!("{}{topic}", self.inner.prefix)
    }

    /// The folder of a partition's life; partition and epoch are written as Hive's partitions, which many readers know.
    pub(crate) fn folder(&self, life: &Life) -> String {
        folder(&self.topic(&life.topic), life.partition, life.epoch)
    }

    /// Opens the file that holds an offset and says which group of rows does; `None` when the archive ends before it. What
    /// is known of the archive is brought up to date once for that.
    pub(crate) async fn find(&self, life: &Life, offset: Offset) -> Result<Option<(Arc<Manifest>, usize)>, LogError> {
        let mut found = self.inner.index.covering(self, life, offset).await?;
        if found.is_none() {
            self.inner.index.refresh(self, life).await?;
            found = self.inner.index.covering(self, life, offset).await?;
        }
        let Some(manifest) = found else { return Ok(None) };
        let group = manifest.groups.iter().position(|group| group.to > offset).unwrap_or(manifest.groups.len());
        Ok(Some((manifest, group)))
    }

    pub(crate) async fn open_file(&self, life: &Life, manifest: Arc<Manifest>) -> Result<Opened, LogError> {
        let name = format!("{}/{}", self.folder(life), manifest.file);
        Opened::open(&self.inner.store, name, manifest).await
    }

    /// The offset where it ends of a life, as it is now; where the life begins when it holds nothing.
    ///
    /// # Errors
    /// The store cannot be reached, or the last manifest is damaged.
    pub async fn end(&self, life: &Life) -> Result<Offset, LogError> {
        self.inner.index.refresh(self, life).await?;
        Ok(self.inner.index.end(self, life).await?.0)
    }

    /// Everything that it holds of a topic, by partition and life, former lives included.
    ///
    /// # Errors
    /// The store cannot be reached, or a manifest is damaged.
    pub async fn list(&self, topic: &Topic) -> Result<Vec<Kept>, LogError> {
        let mut all = Vec::new();
        for life in self.lives(topic).await? {
            let mut kept: Option<Kept> = None;
            for name in self.inner.index.names(self, &life).await? {
                let manifest = self.inner.index.manifest(self, &life, name).await?;
                let one = kept.get_or_insert_with(|| Kept {
                    topic: manifest.topic.clone(),
                    partition: life.partition,
                    epoch: life.epoch,
                    from: manifest.from,
                    to: manifest.to,
                    files: 0,
                    records: 0,
                    bytes: 0,
                });
                one.to = manifest.to;
                one.files += 1;
                one.records += manifest.records;
                one.bytes += manifest.bytes;
            }
            all.extend(kept);
        }
        Ok(all)
    }

    /// Which partitions and lives of a topic it holds anything of. How far each life goes is not known here.
    pub(crate) async fn lives(&self, topic: &Topic) -> Result<Vec<Life>, LogError> {
        let mut found: Vec<(Partition, u64)> = Vec::new();
        for file in self.inner.store.list(&self.topic(topic)).await? {
            let mut parts = file.rsplit('/').skip(1);
            let mut number = |of: &str| parts.next()?.strip_prefix(of)?.parse::<u64>().ok();
            let (epoch, partition) = (number("epoch="), number("partition="));
            if let (Some(epoch), Some(partition)) = (epoch, partition.and_then(|p| Partition::try_from(p).ok())) {
                found.push((partition, epoch));
            }
        }
        found.sort_unstable();
        found.dedup();
        let life = |(partition, epoch)| Life { topic: topic.clone(), partition, epoch, start: 0, end: Offset::MAX };
        Ok(found.into_iter().map(life).collect())
    }
}

pub(crate) fn folder(topic: &str, partition: Partition, epoch: u64) -> String {
    format!("{topic}/partition={partition}/epoch={epoch}")
}
