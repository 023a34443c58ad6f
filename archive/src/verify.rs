//! Reading an archive again: every file against its manifest, the manifests against each other, and all of it against the
//! log where that still has the range. And dropping from the log what was found to be safe in the archive.

use std::sync::Arc;

use primal_core::error::LogError;
use primal_core::log::Extent;
use primal_core::{Offset, Records, Timestamp};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::archive::{Archive, Life};
use crate::archiver::{FETCH, Request};
use crate::file::Opened;
use crate::index::manifest_name;
use crate::manifest::Manifest;
use crate::rows::{RecordsDigest, hex};

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// What is wrong.
    pub what: String,
}

/// What was found of one partition in one life of its topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The collection.
    pub collection: String,
    /// The partition.
    pub partition: i32,
    /// Which life of its topic.
    pub epoch: u64,
    /// The first offset that the archive has.
    pub from: Option<Offset>,
    /// The offset after its last.
    pub to: Option<Offset>,
    /// Files that were read.
    pub files: u64,
    /// Records that are as they were archived.
    pub records: u64,
    /// Of these, records that the log still has, and has like this.
    pub in_log: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// What is known of one file after it was read.
struct Checked {
    records: u64,
    in_log: u64,
}

impl Archive {
    /// Reads everything that it holds of a collection again, former lives of its topic included. `progress` is told how many
    /// records were read.
    ///
    /// # Errors
    /// The log's, or the store cannot be reached. What is missing or altered is a finding.
    pub async fn verify(&self, request: &Request, mut progress: impl FnMut(u64)) -> Result<Vec<Report>, LogError> {
        let topic = request.collection.topic();
        let extents = request.log.recent(&topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        let mut lives = Vec::new();
        for (partition, extent) in (0..).zip(extents) {
            lives.extend(Life::all(&topic, &request.epochs, partition).into_iter().map(|life| (life, Some(extent))));
        }
        for former in self.lives(&topic).await? {
            if !lives.iter().any(|(life, _)| (life.partition, life.epoch) == (former.partition, former.epoch)) {
                lives.push((former, None));
            }
        }
        lives.sort_by_key(|(life, _)| (life.partition, life.epoch));
        let mut reports = Vec::new();
        for (life, extent) in lives {
            let report = self.verify_life(request, &life, extent, &mut progress).await?;
            if report.files > 0 || !report.findings.is_empty() {
                reports.push(report);
            }
        }
        Ok(reports)
    }

    async fn verify_life(
        &self,
        request: &Request,
        life: &Life,
        extent: Option<Extent>,
        progress: &mut impl FnMut(u64),
    ) -> Result<Report, LogError> {
        let mut report = Report {
            collection: request.collection.to_string(),
            partition: life.partition,
            epoch: life.epoch,
            from: None,
            to: None,
            files: 0,
            records: 0,
            in_log: 0,
            findings: Vec::new(),
        };
        self.inner.index.forget(self, life);
        // Of a former life it is not on record where it began.
        let mut expected = extent.map(|_| life.start);
        for after in self.inner.index.names(self, life).await? {
            let name = format!("{}/{}", self.folder(life), manifest_name(after));
            let named = self.inner.store.named(&name);
            if let Some(expected) = expected.filter(|expected| *expected < after) {
                let gone = format!("{}/{}", self.folder(life), manifest_name(expected));
                let (file, what) =
                    (self.inner.store.named(&gone), format!("offsets [{expected}, {after}) are missing"));
                report.findings.push(Finding { file, what });
            }
            let manifest = match self.inner.index.manifest(self, life, after).await {
                Err(LogError::Altered(what)) => {
                    let what = what.trim_start_matches(&format!("{named}: ")).to_owned();
                    report.findings.push(Finding { file: named, what });
                    expected = None;
                    continue;
                }
                other => other?,
            };
            if manifest.from > after && report.from.is_some() {
                let what = format!("offsets [{after}, {}) left the log before they were archived", manifest.from);
                report.findings.push(Finding { file: named, what });
            }
            expected = Some(manifest.to);
            report.from = report.from.or(Some(manifest.from));
            report.to = Some(manifest.to);
            report.files += 1;
            match self.check_file(request, life, extent, &manifest).await {
                Ok(checked) => {
                    report.records += checked.records;
                    report.in_log += checked.in_log;
                }
                Err(LogError::Altered(what)) => {
                    let file = self.inner.store.named(&format!("{}/{}", self.folder(life), manifest.file));
                    report.findings.push(Finding { file, what });
                }
                Err(other) => return Err(other),
            }
            progress(manifest.records);
        }
        for (after, bare) in self.inner.index.bare(self, life) {
            let file = self.inner.store.named(&format!("{}/{}", self.folder(life), manifest_name(after)));
            let is_known = report.findings.iter().any(|finding| finding.file == file);
            if !is_known && extent.is_some_and(|extent| after < extent.start) {
                let what = format!("is missing: its file {bare} is there, and the log no longer has the range");
                report.findings.push(Finding { file, what });
            }
        }
        Ok(report)
    }

    /// Reads a file again.
    async fn check_file(
        &self,
        request: &Request,
        life: &Life,
        extent: Option<Extent>,
        manifest: &Arc<Manifest>,
    ) -> Result<Checked, LogError> {
        let name = format!("{}/{}", self.folder(life), manifest.file);
        let wrong = |what: &str| Err(LogError::Altered(what.to_owned()));
        let Some(bytes) = self.inner.store.get(&name).await? else { return wrong("is missing") };
        if bytes.len() as u64 != manifest.bytes || hex(&Sha256::digest(&bytes)) != manifest.sha256 {
            return wrong("is not the file that was written: its SHA-256 is another one");
        }
        let opened = Opened::whole(&self.inner.store, name, manifest.clone(), &bytes)?;
        let mut checked = Checked { records: 0, in_log: 0 };
        for (number, group) in manifest.groups.iter().enumerate() {
            let records = opened.group_of(&bytes, number)?;
            checked.records += records.len() as u64;
            if extent.is_some_and(|extent| extent.start <= group.from && group.to <= extent.end) {
                match self.in_log(request, life, group.from, group.to).await? {
                    None => {}
                    Some(digest) if digest == group.records_sha256 => checked.in_log += records.len() as u64,
                    Some(_) => {
                        let (from, to) = (group.from, group.to);
                        return wrong(&format!("offsets [{from}, {to}) are other records than those in the log"));
                    }
                }
            }
        }
        Ok(checked)
    }

    /// The digest of a range as the log has it; `None` when it has just lost it.
    async fn in_log(
        &self,
        request: &Request,
        life: &Life,
        from: Offset,
        to: Offset,
    ) -> Result<Option<String>, LogError> {
        let mut digest = RecordsDigest::default();
        let mut records = Records::new();
        let read = async {
            let mut reader = request.log.read(&life.topic, life.partition, from..to).await?;
            while reader.fetch(&mut records, FETCH).await? {
                records.iter().for_each(|record| digest.add(record));
                records.clear();
            }
            Ok(())
        };
        match read.await {
            Ok(()) => Ok(Some(digest.finish())),
            Err(LogError::OutOfRange { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Drops from the log what was taken before a moment and is in the archive: each file is read again and compared with the
    /// log first, and nothing behind one that is missing or differs is dropped. The first offset that the log has then, by
    /// partition, where something was dropped.
    ///
    /// # Errors
    /// The log's, the store cannot be reached, or a file is missing or altered.
    pub async fn drop_archived(&self, request: &Request, before: Timestamp) -> Result<Vec<(i32, Offset)>, LogError> {
        let topic = request.collection.topic();
        let extents = request.log.recent(&topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        let mut dropped = Vec::new();
        self.inner.store.make()?;
        for (partition, extent) in (0..).zip(extents) {
            let mut safe = extent.start;
            for life in Life::all(&topic, &request.epochs, partition) {
                self.inner.index.forget(self, &life);
                while safe < life.end.min(extent.end) {
                    let Some((manifest, _)) = self.find(&life, safe).await? else { break };
                    if manifest.recorded_until >= before {
                        break;
                    }
                    self.check_file(request, &life, Some(extent), &manifest).await.map_err(|error| match error {
                        LogError::Altered(what) => {
                            let name = format!("{}/{}", self.folder(&life), manifest.file);
                            crate::file::altered(&self.inner.store.named(&name), &what)
                        }
                        other => other,
                    })?;
                    safe = manifest.to;
                }
                // What is behind a part that is not archived has to wait for it.
                if safe < life.end {
                    break;
                }
            }
            if safe > extent.start {
                let start = request.log.truncate(&topic, partition, safe).await?;
                if start > extent.start {
                    dropped.push((partition, start));
                }
            }
        }
        Ok(dropped)
    }
}
