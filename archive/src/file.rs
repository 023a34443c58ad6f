//! One Parquet file: written from records in memory, and read a group of rows at a time, each checked by its digest.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnPath;
use primal_core::error::LogError;
use primal_core::{Offset, RecordRef, Records, Timestamp};
use sha2::{Digest, Sha256};

use crate::manifest::{Group, MAGIC, Manifest};
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
/// Smaller than the standard level's files by a tenth, and written fast enough for a task in the background.
const ZSTD_LEVEL: i32 = 6;

/// A file that is complete.
pub(crate) struct Built {
    pub bytes: Bytes,
    pub sha256: String,
    pub footer_sha256: String,
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
        let written = self.writer.flushed_row_groups().last().and_then(place);
        let (start, end) = written.ok_or_else(|| failed("a group of rows has no place in it"))?;
        self.groups.push(Group {
            from: self.next,
            to,
            records: std::mem::take(&mut self.count),
            recorded_until: self.recorded_until,
            records_sha256: std::mem::take(&mut self.digest).finish(),
            start,
            end,
            sha256: String::new(),
        });
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
        let bytes: Bytes = self.writer.into_inner().map_err(failed)?.into();
        let sha256 = |start: u64, end: u64| {
            let part = bytes.get(start as usize..end as usize).ok_or_else(|| failed("a part lies outside of it"))?;
            Ok::<_, LogError>(hex(&Sha256::digest(part)))
        };
        let (mut groups, mut footer) = (self.groups, 0);
        for group in &mut groups {
            group.sha256 = sha256(group.start, group.end)?;
            footer = group.end;
        }
        let size = bytes.len() as u64;
        let (whole, footer_sha256) = (sha256(0, size)?, sha256(footer.max(MAGIC), size)?);
        Ok(Built { sha256: whole, footer_sha256, bytes, groups })
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
        let footer = store.part(&name, manifest.footer()..manifest.bytes).await?;
        Opened::with(store.named(&name), name, manifest, footer)
    }

    /// Of a file that was read as a whole.
    pub fn whole(store: &Store, name: String, manifest: Arc<Manifest>, bytes: &Bytes) -> Result<Self, LogError> {
        let footer = part(bytes, manifest.footer(), manifest.bytes);
        Opened::with(store.named(&name), name, manifest, footer)
    }

    fn with(named: String, name: String, manifest: Arc<Manifest>, footer: Option<Bytes>) -> Result<Self, LogError> {
        let footer = checked(&named, &manifest, footer, &manifest.footer_sha256)?;
        let mut reader = ParquetMetaDataReader::new();
        let part = Part { start: 0, length: footer.len() as u64, bytes: footer };
        let read = reader.try_parse_sized(&part, manifest.bytes).and_then(|()| reader.finish());
        let read = read.and_then(|read| ArrowReaderMetadata::try_new(Arc::new(read), ArrowReaderOptions::new()));
        let metadata = read.map_err(|error| altered(&named, &error.to_string()))?;
        if metadata.metadata().num_row_groups() != manifest.groups.len() {
            return Err(altered(&named, "it has other groups of rows than its manifest says"));
        }
        Ok(Opened { manifest, named, name, metadata })
    }

    /// Reads the records of a group, and compares them with their digest.
    pub async fn group(&self, store: &Store, number: usize) -> Result<Records, LogError> {
        let group = self.manifest.groups.get(number).ok_or_else(|| self.none(number))?;
        let bytes = store.part(&self.name, group.start..group.end).await?;
        self.decode(number, group, bytes)
    }

    /// The same of a file that was read as a whole.
    pub fn group_of(&self, file: &Bytes, number: usize) -> Result<Records, LogError> {
        let group = self.manifest.groups.get(number).ok_or_else(|| self.none(number))?;
        self.decode(number, group, part(file, group.start, group.end))
    }

    fn none(&self, number: usize) -> LogError {
        LogError::Internal(format!("{} has no group {number}", self.named))
    }

    fn decode(&self, number: usize, group: &Group, bytes: Option<Bytes>) -> Result<Records, LogError> {
        let bytes = checked(&self.named, &self.manifest, bytes, &group.sha256)?;
        let range = format!("offsets [{}, {})", group.from, group.to);
        let wrong = |reason: &str| altered(&self.named, &format!("{range} cannot be read: {reason}"));
        let part = Part { start: group.start, length: self.manifest.bytes, bytes };
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(part, self.metadata.clone());
        let reader = reader.with_row_groups(vec![number]).build().map_err(|e| wrong(&e.to_string()))?;
        let (mut records, mut digest) = (Records::new(), RecordsDigest::default());
        for batch in reader {
            rows::records(&batch.map_err(|e| wrong(&e.to_string()))?, &mut records).map_err(|e| wrong(&e))?;
        }
        records.iter().for_each(|record| digest.add(record));
        if digest.finish() != group.records_sha256 {
            return Err(altered(&self.named, &format!("{range} are not the records that were archived")));
        }
        Ok(records)
    }
}

/// Where the columns of a group of rows lie in the file.
fn place(group: &RowGroupMetaData) -> Option<(u64, u64)> {
    let columns = group.columns().iter().map(|column| {
        let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
        Some((u64::try_from(start).ok()?, u64::try_from(column.compressed_size()).ok()?))
    });
    let columns: Vec<_> = columns.collect::<Option<_>>()?;
    let start = columns.iter().map(|(start, _)| *start).min()?;
    Some((start, columns.iter().map(|(start, length)| start + length).max()?))
}

fn part(file: &Bytes, start: u64, end: u64) -> Option<Bytes> {
    (start <= end && end <= file.len() as u64).then(|| file.slice(start as usize..end as usize))
}

/// Bytes that are what was written.
fn checked(named: &str, manifest: &Manifest, bytes: Option<Bytes>, sha256: &str) -> Result<Bytes, LogError> {
    let bytes = bytes.ok_or_else(|| {
        let (from, to) = (manifest.from, manifest.to);
        LogError::Altered(format!("{named}, which holds offsets [{from}, {to}), is missing or shorter than it was"))
    })?;
    if hex(&Sha256::digest(&bytes)) != sha256 {
        return Err(altered(named, "it is not the file that was written: a SHA-256 is another one"));
    }
    Ok(bytes)
}

pub(crate) fn altered(named: &str, what: &str) -> LogError {
    LogError::Altered(format!("{named}: {what}"))
}
