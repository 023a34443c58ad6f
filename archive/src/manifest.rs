//! What stands beside each Parquet file: its range, its digests, and those of the groups of rows that it is read by. It is
//! written last and once; a file without one is no part of the archive.

use primal_core::{Offset, Partition, Timestamp};
use serde::{Deserialize, Serialize};

use crate::file::Built;

/// The layout of manifests and files. What is written in another one is refused.
const FORMAT: u32 = 1;
/// Bytes before the first group of rows.
pub(crate) const MAGIC: u64 = 4;

/// A group of rows: what is read at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The first offset of its range.
    pub from: Offset,
    /// The offset after its range.
    pub to: Offset,
    /// Its records; there are fewer than offsets where the log has none (marks of transactions).
    pub records: u64,
    /// No record of the archive's partition up to here was taken later than this.
    #[serde(rename = "recorded_until_us", with = "micros")]
    pub recorded_until: Timestamp,
    /// SHA-256 over its records.
    pub records_sha256: String,
    /// Its bytes in the file: the first.
    pub start: u64,
    /// The one after the last.
    pub end: u64,
    /// SHA-256 of these bytes: nothing is decoded that is not what was written.
    pub sha256: String,
}

/// One file of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The topic, with the log's prefix.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// The life of the topic.
    pub epoch: u64,
    /// Where the file before this one ends; the manifest is named after it.
    pub after: Offset,
    /// The first offset of its range: later than `after` where the log had lost what lies between.
    pub from: Offset,
    /// The offset after its range.
    pub to: Offset,
    /// Its records.
    pub records: u64,
    /// No record of the archive's partition up to its end was taken later than this.
    #[serde(rename = "recorded_until_us", with = "micros")]
    pub recorded_until: Timestamp,
    /// The file, beside the manifest.
    pub file: String,
    /// The file's size.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: String,
    /// SHA-256 of what comes behind the groups of rows.
    pub footer_sha256: String,
    /// Its groups of rows, in order.
    pub groups: Vec<Group>,
}

/// Microseconds since 1970: a foreign producer may have stamped any number, and not each is a time that can be written.
mod micros {
    use primal_core::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(at.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(deserializer).map(Timestamp)
    }
}

/// What a manifest says beside what its file does.
pub(crate) struct Place {
    pub topic: String,
    pub partition: Partition,
    pub epoch: u64,
    pub after: Offset,
    pub from: Offset,
    pub to: Offset,
    /// That of the file before.
    pub recorded_until: Timestamp,
}

impl Manifest {
    pub(crate) fn new(place: Place, file: String, built: &Built) -> Self {
        let Place { topic, partition, epoch, after, from, to, recorded_until } = place;
        let Built { bytes, sha256, footer_sha256, groups } = built;
        let records = groups.iter().map(|group| group.records).sum();
        let recorded_until = groups.last().map_or(recorded_until, |group| group.recorded_until);
        let format = FORMAT;
        Manifest {
            format,
            topic,
            partition,
            epoch,
            after,
            from,
            to,
            records,
            recorded_until,
            file,
            bytes: bytes.len() as u64,
            sha256: sha256.clone(),
            footer_sha256: footer_sha256.clone(),
            groups: groups.clone(),
        }
    }

    /// Reads one, which has to be of this place.
    pub(crate) fn read(bytes: &[u8], partition: Partition, epoch: u64, after: Offset) -> Result<Self, String> {
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| format!("it is no manifest: {e}"))?;
        if manifest.format != FORMAT {
            return Err(format!("it has layout {}; this program reads layout {FORMAT}", manifest.format));
        }
        if (manifest.partition, manifest.epoch, manifest.after) != (partition, epoch, after) {
            return Err("it is the manifest of another range".to_owned());
        }
        let (mut next, mut at) = (manifest.from, 0);
        let follows = manifest.groups.iter().all(|group| {
            let fits = group.from == next && group.to > group.from;
            next = group.to;
            let inside = group.start < group.end && group.end <= manifest.bytes && at <= group.start;
            at = group.end;
            fits && inside
        });
        let records: u64 = manifest.groups.iter().map(|group| group.records).sum();
        let ends = manifest.groups.is_empty() || next == manifest.to;
        if !follows || !ends || after > manifest.from || manifest.from >= manifest.to || records != manifest.records {
            return Err("its ranges do not fit together".to_owned());
        }
        Ok(manifest)
    }
}

impl Manifest {
    /// Where the groups of rows end in the file, and its footer begins.
    pub(crate) fn footer(&self) -> u64 {
        self.groups.last().map_or(MAGIC, |group| group.end).min(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_manifest_of_the_range_that_fits_together_is_believed() {
        let group = |from, to, start| Group {
            from,
            to,
            records: 3,
            recorded_until: Timestamp(7),
            records_sha256: String::new(),
            start,
            end: start + 5,
            sha256: String::new(),
        };
        let place = Place {
            topic: "t".into(),
            partition: 1,
            epoch: 2,
            after: 5,
            from: 6,
            to: 12,
            recorded_until: Timestamp::MIN,
        };
        let groups = vec![group(6, 9, 4), group(9, 12, 9)];
        let (bytes, sha256, footer_sha256) = (vec![0; 20].into(), "00".to_owned(), String::new());
        let good = Manifest::new(place, "f".into(), &Built { bytes, sha256, footer_sha256, groups });
        let read = |manifest: &Manifest| Manifest::read(&serde_json::to_vec(manifest).unwrap(), 1, 2, 5);
        assert_eq!(read(&good), Ok(good.clone()));
        let changes: [fn(&mut Manifest); 8] = [
            |m| m.bytes = 13,
            |m| m.groups[1].start = 8,
            |m| m.after = 4,
            |m| m.to = 13,
            |m| m.from = 4,
            |m| m.records = 5,
            |m| m.groups[1].from = 10,
            |m| m.format = 2,
        ];
        for change in changes {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(read(&bad).is_err(), "{bad:?}");
        }
        assert!(Manifest::read(b"", 1, 2, 5).unwrap_err().contains("no manifest"));
    }
}
