//! Records as rows of columns, and back, byte for byte. The columns are for any reader of Parquet; what they cannot say of a
//! record (bytes that are no text, a header given twice) is in one more column, `raw`, which is empty for all others.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, Int64Array, Int64Builder, MapArray, MapBuilder, MapFieldNames,
    RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use primal_core::event::EventRef;
use primal_core::{RecordRef, Records, Timestamp, header};
use sha2::{Digest, Sha256};

const UTC: &str = "UTC";

fn moment() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

/// The names that Parquet's specification wants in a map.
fn map_names() -> MapFieldNames {
    MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() }
}

/// The columns of every file.
pub(crate) fn schema() -> SchemaRef {
    let entry = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)]);
    let map = DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry), false)), false);
    Arc::new(Schema::new(vec![
        Field::new("offset", DataType::Int64, false),
        Field::new("key", DataType::Utf8, true),
        Field::new("op", DataType::Utf8, true),
        Field::new("type", DataType::Utf8, true),
        Field::new("time", moment(), true),
        Field::new("recorded", moment(), false),
        Field::new("metadata", map, false),
        Field::new("payload", DataType::Utf8, true),
        Field::new("raw", DataType::Binary, true),
    ]))
}

fn optional(out: &mut Vec<u8>, value: Option<&[u8]>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        out.extend_from_slice(&(value.len() as u32).to_be_bytes());
        out.extend_from_slice(value);
    }
}

/// Key, value and headers in full: each of the first two as a byte 1, its length (u32, big-endian) and its bytes, or a byte
/// 0; then the block of headers.
fn body(out: &mut Vec<u8>, record: RecordRef<'_>) {
    optional(out, record.key);
    optional(out, record.value);
    out.extend_from_slice(record.headers.block());
}

/// A digest of records: SHA-256 over offset and recorded time (i64, big-endian), the length of the rest (u32) and the rest
/// as in the column `raw`, record after record.
#[derive(Clone, Default)]
pub(crate) struct RecordsDigest {
    hash: Sha256,
    room: Vec<u8>,
}

impl RecordsDigest {
    pub fn add(&mut self, record: RecordRef<'_>) {
        self.room.clear();
        body(&mut self.room, record);
        self.hash.update(record.offset.to_be_bytes());
        self.hash.update(record.recorded.0.to_be_bytes());
        self.hash.update((self.room.len() as u32).to_be_bytes());
        self.hash.update(&self.room);
    }

    pub fn finish(self) -> String {
        hex(&self.hash.finalize())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the columns say everything about a record.
fn is_plain(record: RecordRef<'_>) -> bool {
    let text = |bytes: Option<&[u8]>| bytes.is_none_or(|bytes| std::str::from_utf8(bytes).is_ok());
    let mut block = Vec::with_capacity(record.headers.block().len());
    let mut names: Vec<&str> = Vec::new();
    for (name, value) in record.headers {
        if !text(value) || names.contains(&name) {
            return false;
        }
        names.push(name);
        header::push(&mut block, name, value);
    }
    text(record.key) && text(record.value) && block == record.headers.block()
}

/// Rows in the making.
pub(crate) struct Rows {
    offset: Int64Builder,
    key: StringBuilder,
    op: StringBuilder,
    kind: StringBuilder,
    time: TimestampMicrosecondBuilder,
    recorded: TimestampMicrosecondBuilder,
    metadata: MapBuilder<StringBuilder, StringBuilder>,
    payload: StringBuilder,
    raw: BinaryBuilder,
    /// Bytes of keys, values and headers.
    pub bytes: usize,
}

impl Rows {
    pub fn new() -> Self {
        Rows {
            offset: Int64Builder::new(),
            key: StringBuilder::new(),
            op: StringBuilder::new(),
            kind: StringBuilder::new(),
            time: TimestampMicrosecondBuilder::new().with_timezone(UTC),
            recorded: TimestampMicrosecondBuilder::new().with_timezone(UTC),
            metadata: MapBuilder::new(Some(map_names()), StringBuilder::new(), StringBuilder::new()),
            payload: StringBuilder::new(),
            raw: BinaryBuilder::new(),
            bytes: 0,
        }
    }

    pub fn push(&mut self, record: RecordRef<'_>) -> Result<(), String> {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let event = EventRef::decode(record).ok();
        self.offset.append_value(record.offset);
        self.key.append_option(record.key.map(lossy));
        self.op.append_option(event.map(|event| event.op.as_str()));
        self.kind.append_option(record.headers.text(header::TYPE));
        self.time.append_option(event.map(|event| event.time().0));
        self.recorded.append_value(record.recorded.0);
        let plain = is_plain(record);
        let mut names: Vec<&str> = Vec::new();
        for (name, value) in record.headers {
            if !plain && names.contains(&name) {
                continue;
            }
            names.push(name);
            self.metadata.keys().append_value(name);
            // Of a header that is given twice the last one counts.
            let value = if plain { value } else { record.headers.get(name) };
            self.metadata.values().append_option(value.map(lossy));
        }
        self.metadata.append(true).map_err(|e| e.to_string())?;
        self.payload.append_option(record.value.map(lossy));
        self.raw.append_option((!plain).then(|| {
            let mut raw = Vec::new();
            body(&mut raw, record);
            raw
        }));
        let size = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        self.bytes += size(record.key) + size(record.value) + record.headers.block().len();
        Ok(())
    }

    /// The rows so far; the next ones begin anew.
    pub fn finish(&mut self) -> Result<RecordBatch, String> {
        self.bytes = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.offset.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.op.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.time.finish()),
            Arc::new(self.recorded.finish()),
            Arc::new(self.metadata.finish()),
            Arc::new(self.payload.finish()),
            Arc::new(self.raw.finish()),
        ];
        RecordBatch::try_new(schema(), columns).map_err(|e| e.to_string())
    }
}

/// The columns that the records are made of.
struct Columns<'a> {
    offset: &'a Int64Array,
    key: &'a StringArray,
    recorded: &'a TimestampMicrosecondArray,
    metadata: &'a MapArray,
    names: &'a StringArray,
    values: &'a StringArray,
    payload: &'a StringArray,
    raw: &'a BinaryArray,
}

fn column<'a, T: 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a T, String> {
    let found = batch.column_by_name(name).ok_or_else(|| format!("there is no column {name:?}"))?;
    found.as_any().downcast_ref().ok_or_else(|| format!("the column {name:?} is of another type"))
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, String> {
        let metadata: &MapArray = column(batch, "metadata")?;
        let text = |array: &'a ArrayRef| array.as_any().downcast_ref::<StringArray>();
        let other = || "the column \"metadata\" is of another type".to_owned();
        Ok(Columns {
            offset: column(batch, "offset")?,
            key: column(batch, "key")?,
            recorded: column(batch, "recorded")?,
            metadata,
            names: text(metadata.keys()).ok_or_else(other)?,
            values: text(metadata.values()).ok_or_else(other)?,
            payload: column(batch, "payload")?,
            raw: column(batch, "raw")?,
        })
    }

    fn push(&self, row: usize, into: &mut Records) -> Option<()> {
        let (offset, recorded) = (self.offset.value(row), Timestamp(self.recorded.value(row)));
        if self.raw.is_valid(row) {
            let mut rest = self.raw.value(row);
            let (key, value) = (take(&mut rest)?, take(&mut rest)?);
            into.push(offset, recorded, key, value, |block| block.extend_from_slice(rest));
            return Some(());
        }
        let text = |array: &'a StringArray| array.is_valid(row).then(|| array.value(row).as_bytes());
        let offsets = self.metadata.value_offsets();
        let entries = *offsets.get(row)? as usize..*offsets.get(row + 1)? as usize;
        into.push(offset, recorded, text(self.key), text(self.payload), |block| {
            for entry in entries {
                let value = self.values.is_valid(entry).then(|| self.values.value(entry).as_bytes());
                header::push(block, self.names.value(entry), value);
            }
        });
        Some(())
    }
}

/// Takes what [`optional`] wrote.
fn take<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (is_some, tail) = rest.split_first()?;
    *rest = tail;
    if *is_some == 0 {
        return Some(None);
    }
    let (length, tail) = rest.split_first_chunk::<4>()?;
    let (value, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = tail;
    Some(Some(value))
}

/// The records of some rows.
pub(crate) fn records(batch: &RecordBatch, into: &mut Records) -> Result<(), String> {
    let columns = Columns::of(batch)?;
    for row in 0..batch.num_rows() {
        columns.push(row, into).ok_or_else(|| format!("row {row} makes no sense"))?;
    }
    Ok(())
}
