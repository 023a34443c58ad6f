//! What is known of an archive's files: the names of all manifests of a life, and the manifests that were looked at. Names
//! are listed once and when something is asked for that lies beyond them; manifests never change.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use primal_core::Offset;
use primal_core::Timestamp;
use primal_core::error::LogError;
use tokio::time::Instant;

use crate::archive::{Archive, Life};
use crate::file::altered;
use crate::manifest::Manifest;

/// Manifests that are kept in memory.
const KEPT: usize = 4_096;
/// An archive that was empty a moment ago is not listed again.
const EMPTY: Duration = Duration::from_secs(5);

/// By the folders of lives.
#[derive(Default)]
pub(crate) struct Index {
    names: Mutex<HashMap<String, Known>>,
    manifests: Mutex<HashMap<(String, Offset), Arc<Manifest>>>,
}

/// What a listing of a life found.
struct Known {
    /// The names of its manifests.
    names: BTreeSet<Offset>,
    /// Its files, by where they go on from.
    files: Vec<(Offset, String)>,
    listed: Instant,
}

/// The name of the manifest of the file that goes on from an offset. Readers of whole folders pass over names that begin
/// with `_`.
pub(crate) fn manifest_name(after: Offset) -> String {
    format!("_{after:020}.json")
}

/// The name of a file: of its range, and of what is in it, so that no two writers can have the same name for two files.
pub(crate) fn file_name(after: Offset, sha256: &str) -> String {
    format!("{after:020}-{}.parquet", sha256.get(..16).unwrap_or(sha256))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Index {
    /// Lists the manifests of a life.
    pub async fn refresh(&self, archive: &Archive, life: &Life) -> Result<(), LogError> {
        let (mut names, mut files) = (BTreeSet::new(), Vec::new());
        let folder = archive.folder(life);
        for file in archive.inner.store.list(&folder).await? {
            let name = file.rsplit('/').next().unwrap_or_default();
            let after = name.strip_prefix('_').and_then(|name| name.strip_suffix(".json"));
            names.extend(after.and_then(|after| after.parse::<Offset>().ok()));
            let after = name.strip_suffix(".parquet").and_then(|name| name.split_once('-'));
            files.extend(after.and_then(|(after, _)| Some((after.parse().ok()?, name.to_owned()))));
        }
        lock(&self.names).insert(folder, Known { names, files, listed: Instant::now() });
        Ok(())
    }

    /// Everything that is asked of a life from now on is read from the store.
    pub fn forget(&self, archive: &Archive, life: &Life) {
        let folder = archive.folder(life);
        lock(&self.names).remove(&folder);
        lock(&self.manifests).retain(|(of, _), _| *of != folder);
    }

    /// Files of the last listing that go on from where another file does that has a manifest: what archivers left that were
    /// interrupted. Each is told once.
    pub async fn strays(&self, archive: &Archive, life: &Life) -> Result<Vec<String>, LogError> {
        let folder = archive.folder(life);
        let (files, names) = match lock(&self.names).get(&folder) {
            Some(known) => (known.files.clone(), known.names.clone()),
            None => return Ok(Vec::new()),
        };
        let mut strays = Vec::new();
        for (after, file) in &files {
            if names.contains(after)
                && files.iter().filter(|(other, _)| other == after).count() > 1
                && self.manifest(archive, life, *after).await?.file != *file
            {
                strays.push(format!("{folder}/{file}"));
            }
        }
        if let Some(known) = lock(&self.names).get_mut(&folder) {
            known.files.retain(|(_, file)| !strays.contains(&format!("{folder}/{file}")));
        }
        Ok(strays)
    }

    /// Files of the last listing that have no manifest, by where they go on from: of an archiver that was interrupted, or
    /// somebody took the manifest away.
    pub fn bare(&self, archive: &Archive, life: &Life) -> Vec<(Offset, String)> {
        let names = lock(&self.names);
        let Some(known) = names.get(&archive.folder(life)) else { return Vec::new() };
        known.files.iter().filter(|(after, _)| !known.names.contains(after)).cloned().collect()
    }

    /// Takes in a manifest that was just written.
    pub fn add(&self, archive: &Archive, life: &Life, manifest: Manifest) {
        let folder = archive.folder(life);
        if let Some(known) = lock(&self.names).get_mut(&folder) {
            known.names.insert(manifest.after);
        }
        self.keep(folder, Arc::new(manifest));
    }

    fn keep(&self, folder: String, manifest: Arc<Manifest>) {
        let mut manifests = lock(&self.manifests);
        if manifests.len() >= KEPT {
            manifests.clear();
        }
        manifests.insert((folder, manifest.after), manifest);
    }

    /// The names of a life's manifests, in order.
    pub async fn names(&self, archive: &Archive, life: &Life) -> Result<BTreeSet<Offset>, LogError> {
        let folder = archive.folder(life);
        let known = |index: &Index| match lock(&index.names).get(&folder) {
            Some(known) if !known.names.is_empty() || known.listed.elapsed() < EMPTY => Some(known.names.clone()),
            _ => None,
        };
        if let Some(names) = known(self) {
            return Ok(names);
        }
        self.refresh(archive, life).await?;
        Ok(known(self).unwrap_or_default())
    }

    /// A manifest that was listed.
    pub async fn manifest(&self, archive: &Archive, life: &Life, after: Offset) -> Result<Arc<Manifest>, LogError> {
        let folder = archive.folder(life);
        let name = format!("{folder}/{}", manifest_name(after));
        let place = (folder, after);
        if let Some(manifest) = lock(&self.manifests).get(&place) {
            return Ok(manifest.clone());
        }
        let named = archive.inner.store.named(&name);
        let bytes = archive.inner.store.get(&name).await?.ok_or_else(|| missing(&named, after))?;
        let manifest = Manifest::read(&bytes, life.partition, life.epoch, after).map_err(|e| altered(&named, &e))?;
        let manifest = Arc::new(manifest);
        self.keep(place.0, manifest.clone());
        Ok(manifest)
    }

    /// The first offset that the archive holds of a life; `None` where it holds nothing.
    pub async fn begin(&self, archive: &Archive, life: &Life) -> Result<Option<Offset>, LogError> {
        match self.names(archive, life).await?.first() {
            // The log has lost what the file without manifest goes on from, or nobody would ask.
            None if self.bare(archive, life).iter().any(|(after, _)| *after == life.start) => {
                Err(self.lost(archive, life, life.start))
            }
            None => Ok(None),
            Some(first) if *first == life.start => {
                self.manifest(archive, life, *first).await.map(|manifest| Some(manifest.from))
            }
            Some(_) => Err(self.lost(archive, life, life.start)),
        }
    }

    /// Where the archive of a life ends: its beginning where it holds nothing.
    pub async fn end(&self, archive: &Archive, life: &Life) -> Result<(Offset, Timestamp), LogError> {
        match self.names(archive, life).await?.last() {
            None => Ok((life.start, Timestamp::MIN)),
            Some(last) => {
                let manifest = self.manifest(archive, life, *last).await?;
                Ok((manifest.to, manifest.recorded_until))
            }
        }
    }

    /// The manifest whose range holds an offset; `None` when the archive, as far as it is known, ends before it.
    pub async fn covering(
        &self,
        archive: &Archive,
        life: &Life,
        offset: Offset,
    ) -> Result<Option<Arc<Manifest>>, LogError> {
        let names = self.names(archive, life).await?;
        let Some(name) = names.range(..=offset).next_back().copied() else {
            return if names.is_empty() { Ok(None) } else { Err(self.lost(archive, life, life.start)) };
        };
        let manifest = self.manifest(archive, life, name).await?;
        if offset < manifest.from {
            let (topic, partition) = (life.topic.clone(), life.partition);
            return Err(LogError::Gap { topic, partition, from: manifest.after, to: manifest.from });
        }
        if offset < manifest.to {
            return Ok(Some(manifest));
        }
        match names.range((Bound::Excluded(name), Bound::Unbounded)).next() {
            Some(_) => Err(self.lost(archive, life, manifest.to)),
            None => Ok(None),
        }
    }

    /// The first manifest of a life up to whose end something was taken at or after a moment.
    pub async fn since(
        &self,
        archive: &Archive,
        life: &Life,
        at: Timestamp,
    ) -> Result<Option<Arc<Manifest>>, LogError> {
        let names: Vec<Offset> = self.names(archive, life).await?.into_iter().collect();
        let (mut low, mut high) = (0, names.len());
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(name) = names.get(middle) else { break };
            let manifest = self.manifest(archive, life, *name).await?;
            if manifest.recorded_until >= at {
                high = middle;
                found = Some(manifest);
            } else {
                low = middle + 1;
            }
        }
        Ok(found)
    }

    fn lost(&self, archive: &Archive, life: &Life, after: Offset) -> LogError {
        let name = format!("{}/{}", archive.folder(life), manifest_name(after));
        missing(&archive.inner.store.named(&name), after)
    }
}

fn missing(named: &str, after: Offset) -> LogError {
    LogError::Altered(format!(
        "the manifest {named}, of the offsets from {after} on, is missing; where the log still has them, `primalcore archive` \
         writes it again"
    ))
}
