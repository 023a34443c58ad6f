//! One Parquet file: written from records in memory, and read a group of rows at a time, each checked by its digest.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnPath;
use primal_core::error::LogError;
use primal_core::{Offset, RecordRef, Records, Timestamp};
use sha2::{Digest, Sha256};

use crate::manifest::{Group, Manifest};
use crate::rows::{self, RecordsDigest, Rows, hex};
use crate::store::Store;

/// Records in a file, at most; in tests few, so that there are several.
pub const FILE_RECORDS: u64 = if cfg!(test) { 1_000 } else { 65_536 };
/// Bytes of keys, values and headers in a file, about: what writing one takes of memory.
pub const FILE_BYTES: usize = 32 << 20;
/// Records in a group of rows, at most.
const GROUP_RECORDS: u64 = if cfg!(test) { 150 } else { 8_192 };
/// Bytes of keys, values and headers in a group, about: what reading takes of memory.
const GROUP_BYTES: usize = 4 << 20;
/// What is read of a file's end at first: the footer, usually.
const FOOTER: u64 = 32 << 10;
/// Smaller than the standard level's files by a tenth, and written fast enough for a task in the background.
const ZSTD_LEVEL: i32 = 6;

/// A file that is complete.
pub(crate) struct Built {
    pub bytes: Bytes,
    pub sha256: String,
    pub groups: Vec<Group>,
}

/// Makes one file.
pub(crate) struct Writer {
    writer: ArrowWriter<Vec<u8>>,
    rows: Rows,
    digest: RecordsDigest,
    groups: Vec<Group>,
    /// The first offset of the next group's range.
    next: Offset,
    /// The offset after the last record.
    end: Offset,
    count: u64,
    recorded_until: Timestamp,
    records: u64,
    bytes: usize,
}

fn failed(error: impl ToString) -> LogError {
    LogError::Internal(format!("a Parquet file was not made: {}", error.to_string()))
}

impl Writer {
    /// For a range that begins at an offset; `recorded_until` is that of what was archived before.
    pub fn new(from: Offset, recorded_until: Timestamp) -> Result<Self, LogError> {
        let zstd = ZstdLevel::try_new(ZSTD_LEVEL).map_err(failed)?;
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(zstd))
            .set_max_row_group_row_count(None)
            .set_max_row_group_bytes(None);
        for rising in ["offset", "recorded"] {
            properties = properties
                .set_column_dictionary_enabled(ColumnPath::from(rising), false)
                .set_column_encoding(ColumnPath::from(rising), Encoding::DELTA_BINARY_PACKED);
        }
        let writer = ArrowWriter::try_new(Vec::new(), rows::schema(), Some(properties.build())).map_err(failed)?;
        Ok(Writer {
            writer,
            rows: Rows::new(),
            digest: RecordsDigest::default(),
            groups: Vec::new(),
            next: from,
            end: from,
            count: 0,
            recorded_until,
            records: 0,
            bytes: 0,
        })
    }

    pub fn push(&mut self, record: RecordRef<'_>) -> Result<(), LogError> {
        if self.count >= GROUP_RECORDS || self.rows.bytes >= GROUP_BYTES {
            self.flush(self.end)?;
        }
        let before = self.rows.bytes;
        self.rows.push(record).map_err(failed)?;
        self.bytes += self.rows.bytes - before;
        self.digest.add(record);
        self.recorded_until = self.recorded_until.max(record.recorded);
        self.count += 1;
        self.records += 1;
        self.end = record.offset + 1;
        Ok(())
    }

    /// Whether the file has reached its size.
    pub fn is_full(&self) -> bool {
        self.records >= FILE_RECORDS || self.bytes >= FILE_BYTES
    }

    /// The offset after the last record.
    pub fn end(&self) -> Offset {
        self.end
    }

    fn flush(&mut self, to: Offset) -> Result<(), LogError> {
        let batch = self.rows.finish().map_err(failed)?;
        self.writer.write(&batch).and_then(|()| self.writer.flush()).map_err(failed)?;
        let digest = std::mem::take(&mut self.digest).finish();
        let (from, records) = (self.next, std::mem::take(&mut self.count));
        self.groups.push(Group { from, to, records, recorded_until: self.recorded_until, digest });
        self.next = to;
        Ok(())
    }

    /// The file, whose range ends at an offset.
    pub fn finish(mut self, to: Offset) -> Result<Built, LogError> {
        if self.count > 0 {
            self.flush(to)?;
        } else if let Some(last) = self.groups.last_mut() {
            last.to = to;
        }
        let bytes = self.writer.into_inner().map_err(failed)?;
        Ok(Built { sha256: hex(&Sha256::digest(&bytes)), bytes: bytes.into(), groups: self.groups })
    }
}

/// A part of a file that was read, at its place in it.
struct Part {
    start: u64,
    length: u64,
    bytes: Bytes,
}

impl Length for Part {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Part {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let end = self.start + self.bytes.len() as u64;
        let length = end.checked_sub(start).ok_or_else(|| ParquetError::EOF("beyond what was read".to_owned()))?;
        self.get_bytes(start, length as usize).map(Buf::reader)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let from = start.checked_sub(self.start).map(|from| from as usize);
        let range = from.and_then(|from| Some(from..from.checked_add(length)?));
        match range.filter(|range| range.end <= self.bytes.len()) {
            Some(range) => Ok(self.bytes.slice(range)),
            None => Err(ParquetError::EOF("beyond what was read".to_owned())),
        }
    }
}

/// A file that is read: its footer is at hand.
#[derive(Clone)]
pub(crate) struct Opened {
    pub manifest: Arc<Manifest>,
    /// Its full name, for messages, and that below the archive.
    named: String,
    name: String,
    metadata: ArrowReaderMetadata,
}

impl Opened {
    /// Reads the footer of the file `name`.
    pub async fn open(store: &Store, name: String, manifest: Arc<Manifest>) -> Result<Self, LogError> {
        let named = store.named(&name);
        let mut length = FOOTER.min(manifest.bytes);
        loop {
            let start = manifest.bytes - length;
            let bytes = store.part(&name, start..manifest.bytes).await?;
            let bytes = bytes.ok_or_else(|| absent(&named, &manifest))?;
            match footer(Part { start: 0, length, bytes }, manifest.bytes) {
                Ok(metadata) if metadata.metadata().num_row_groups() == manifest.groups.len() => {
                    return Ok(Opened { manifest, named, name, metadata });
                }
                Ok(_) => return Err(altered(&named, "it has other groups of rows than its manifest says")),
                Err(ParquetError::NeedMoreData(needed)) if length < manifest.bytes => {
                    length = (needed as u64).max(length.saturating_mul(2)).min(manifest.bytes);
                }
                Err(error) => return Err(altered(&named, &error.to_string())),
            }
        }
    }

    /// Of a file that was read as a whole.
    pub fn whole(store: &Store, name: String, manifest: Arc<Manifest>, bytes: &Bytes) -> Result<Self, LogError> {
        let named = store.named(&name);
        let part = Part { start: 0, length: bytes.len() as u64, bytes: bytes.clone() };
        match footer(part, bytes.len() as u64) {
            Ok(metadata) if metadata.metadata().num_row_groups() == manifest.groups.len() => {
                Ok(Opened { manifest, named, name, metadata })
            }
            Ok(_) => Err(altered(&named, "it has other groups of rows than its manifest says")),
            Err(error) => Err(altered(&named, &error.to_string())),
        }
    }

    /// The bytes of a group of rows.
    fn range(&self, group: usize) -> Option<(u64, u64)> {
        let columns = self.metadata.metadata().row_groups().get(group)?.columns();
        let ranges = columns.iter().map(|column| {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            Some((u64::try_from(start).ok()?, u64::try_from(column.compressed_size()).ok()?))
        });
        let ranges: Vec<_> = ranges.collect::<Option<_>>()?;
        let start = ranges.iter().map(|(start, _)| *start).min()?;
        let end = ranges.iter().map(|(start, length)| start.saturating_add(*length)).max()?;
        (end <= self.manifest.bytes).then_some((start, end))
    }

    /// Reads the records of a group, and compares them with their digest.
    pub async fn group(&self, store: &Store, group: usize) -> Result<Records, LogError> {
        let (start, end) = self.range(group).ok_or_else(|| altered(&self.named, "its footer makes no sense"))?;
        let bytes = store.part(&self.name, start..end).await?.ok_or_else(|| absent(&self.named, &self.manifest))?;
        self.decode(group, start, bytes)
    }

    /// The same of a file that was read as a whole.
    pub fn group_of(&self, file: &Bytes, group: usize) -> Result<Records, LogError> {
        self.decode(group, 0, file.clone())
    }

    fn decode(&self, group: usize, start: u64, bytes: Bytes) -> Result<Records, LogError> {
        let Some(expected) = self.manifest.groups.get(group) else {
            return Err(LogError::Internal(format!("{} has no group {group}", self.named)));
        };
        let range = format!("offsets [{}, {})", expected.from, expected.to);
        let wrong = |reason: &str| altered(&self.named, &format!("{range} cannot be read: {reason}"));
        let part = Part { start, length: self.manifest.bytes, bytes };
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(part, self.metadata.clone());
        let reader = reader.with_row_groups(vec![group]).build().map_err(|e| wrong(&e.to_string()))?;
        let (mut records, mut digest) = (Records::new(), RecordsDigest::default());
        for batch in reader {
            rows::records(&batch.map_err(|e| wrong(&e.to_string()))?, &mut records).map_err(|e| wrong(&e))?;
        }
        records.iter().for_each(|record| digest.add(record));
        if digest.finish() != expected.digest {
            return Err(altered(&self.named, &format!("{range} are not the records that were archived")));
        }
        Ok(records)
    }
}

fn footer(part: Part, size: u64) -> Result<ArrowReaderMetadata, ParquetError> {
    let mut reader = ParquetMetaDataReader::new();
    reader.try_parse_sized(&part, size)?;
    ArrowReaderMetadata::try_new(Arc::new(reader.finish()?), ArrowReaderOptions::new())
}

pub(crate) fn altered(named: &str, what: &str) -> LogError {
    LogError::Altered(format!("{named}: {what}; `primalcore archive verify` compares all files"))
}

fn absent(named: &str, manifest: &Manifest) -> LogError {
    let (from, to) = (manifest.from, manifest.to);
    LogError::Altered(format!("{named}, which holds offsets [{from}, {to}), is missing or shorter than it was"))
}
