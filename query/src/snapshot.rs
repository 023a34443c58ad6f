//! Snapshots: the state of a partition at an offset, in Parquet, by key. One is only a cache: without it the same answer is
//! folded from the log. Its name holds the position, which no other life of the topic has; inside it says which event came
//! last before it and which schema its columns are of, and where either is not so it is not used.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::metadata::KeyValue;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::parquet::file::statistics::Statistics;
use primal_core::{Collection, Offset, Partition, Position, Primal, Table, Timestamp, Version};

use crate::QueryError;
use crate::fold::{Row, State};
use crate::rows::{self, DATA, DELETED, KEY};

/// Rows of a group, which is what a search for a key reads.
const GROUP: usize = 20_000;
/// Rows of a batch.
const BATCH: usize = 8_192;

/// The snapshots of a collection's partition.
#[derive(Clone, Debug)]
pub struct Shelf {
    folder: PathBuf,
    partition: Partition,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The file.
    pub path: PathBuf,
    /// The position that it is the state at.
    pub at: Position,
}

impl Shelf {
    /// Below the folder of all snapshots.
    pub fn new(folder: &Path, collection: &Collection, partition: Partition) -> Self {
        Shelf { folder: folder.join(collection.as_str()), partition }
    }

    /// What is there, oldest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<Snapshot>, QueryError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(QueryError::Files(format!("{}: {error}", self.folder.display()))),
        };
        let mut found: Vec<Snapshot> = entries.flatten().filter_map(|entry| self.named(entry.path())).collect();
        found.sort_by_key(|snapshot| snapshot.at);
        Ok(found)
    }

    fn named(&self, path: PathBuf) -> Option<Snapshot> {
        let name = path.file_name()?.to_str()?.strip_suffix(".parquet")?;
        let (partition, at) = name.split_once('-')?;
        (partition.parse() == Ok(self.partition)).then_some(())?;
        Some(Snapshot { at: Position(at.parse().ok()?), path })
    }

    /// Writes one; it is there whole or not at all. `last` is the id of the event before `at`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(
        &self,
        at: Position,
        last: &str,
        table: Option<&Table>,
        state: &State,
    ) -> Result<Snapshot, QueryError> {
        let path = self.folder.join(format!("{}-{}.parquet", self.partition, at.0));
        let failed = |error: &dyn std::fmt::Display| QueryError::Files(format!("{}: {error}", path.display()));
        fs::create_dir_all(&self.folder).map_err(|e| failed(&e))?;
        let draft = path.with_extension(format!("draft{}", std::process::id()));
        let schema = rows::schema(table);
        let notes = [("last", last.to_owned()), ("schema", digest(table))];
        let notes = notes.map(|(name, value)| KeyValue::new(format!("primal.{name}"), value)).to_vec();
        let level = ZstdLevel::try_new(1).map_err(|e| failed(&e))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(GROUP))
            .set_key_value_metadata(Some(notes))
            .build();
        let file = File::create(&draft).map_err(|e| failed(&e))?;
        let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(|e| failed(&e))?;
        let mut keys: Vec<&str> = state.keys().map(String::as_str).collect();
        keys.sort_unstable();
        for part in keys.chunks(BATCH) {
            let part = part.iter().filter_map(|key| Some((*key, state.get(*key)?)));
            let batch = rows::batch(table, &schema, part).map_err(|e| failed(&e))?;
            writer.write(&batch).map_err(|e| failed(&e))?;
        }
        let file = writer.into_inner().map_err(|e| failed(&e))?;
        file.sync_all().and_then(|()| fs::rename(&draft, &path)).map_err(|e| failed(&e))?;
        Ok(Snapshot { path, at })
    }
}

fn digest(table: Option<&Table>) -> String {
    primal_core::Digest::of_bytes(b's', format!("{table:?}").as_bytes()).to_string()
}

/// What a snapshot says of itself.
pub struct Opened {
    builder: ParquetRecordBatchReaderBuilder<File>,
    /// The id of the last event before it.
    pub last: String,
    typed: bool,
}

impl Snapshot {
    /// The offset that it is the state at.
    pub fn offset(&self) -> Offset {
        self.at.offset()
    }

    /// Opens it.
    ///
    /// # Errors
    /// It is no such file, or damaged.
    pub fn open(&self, table: Option<&Table>) -> Result<Opened, QueryError> {
        let failed = |error: &dyn std::fmt::Display| self.failed(error);
        let file = File::open(&self.path).map_err(|e| failed(&e))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| failed(&e))?;
        let notes = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
        let note = |name: &str| notes.iter().find(|note| note.key == name).and_then(|note| note.value.clone());
        let last = note("primal.last").ok_or_else(|| failed(&"it is no snapshot"))?;
        Ok(Opened { typed: note("primal.schema") == Some(digest(table)), builder, last })
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> QueryError {
        QueryError::Files(format!("snapshot {}: {error}; it is only a cache, delete it", self.path.display()))
    }

    /// Its rows that are no tombstones, in the given columns. `keys`: only these; `but`: not these.
    ///
    /// # Errors
    /// It is damaged.
    pub fn batches(
        &self,
        opened: Opened,
        table: Option<&Table>,
        columns: &datafusion::arrow::datatypes::SchemaRef,
        keys: Option<&[String]>,
        but: &State,
    ) -> Result<Vec<RecordBatch>, QueryError> {
        if !opened.typed {
            // Another schema: the columns come from the payloads.
            let mut state = self.state(opened, keys)?;
            state.retain(|key, row| row.data.is_some() && !but.contains_key(key));
            let all = state.iter().map(|(key, row)| (key.as_str(), row));
            return Ok(vec![rows::batch(table, columns, all).map_err(|e| self.failed(&e))?]);
        }
        let mut found = Vec::new();
        let mut wanted: Vec<&str> = vec![KEY, DELETED];
        wanted.extend(columns.fields().iter().map(|field| field.name().as_str()));
        for batch in self.read(opened.builder, &wanted, keys)? {
            let batch = batch?;
            let key = batch.column_by_name(KEY).and_then(|c| c.as_string_opt::<i32>());
            let deleted = batch.column_by_name(DELETED).and_then(|c| c.as_boolean_opt());
            let (Some(key), Some(deleted)) = (key, deleted) else { return Err(self.failed(&"a column is missing")) };
            let stays = |index: usize| {
                let key = key.value(index);
                !deleted.value(index)
                    && !but.contains_key(key)
                    && keys.is_none_or(|keys| keys.iter().any(|wanted| wanted == key))
            };
            let mask: BooleanArray = (0..batch.num_rows()).map(|index| Some(stays(index))).collect();
            let kept = filter_record_batch(&batch, &mask).map_err(|e| self.failed(&e))?;
            let places: Option<Vec<usize>> =
                columns.fields().iter().map(|field| kept.schema().index_of(field.name()).ok()).collect();
            let places = places.ok_or_else(|| self.failed(&"a column is missing"))?;
            found.push(kept.project(&places).map_err(|e| self.failed(&e))?);
        }
        Ok(found)
    }

    /// The state that it holds, tombstones included.
    ///
    /// # Errors
    /// It is damaged.
    pub fn state(&self, opened: Opened, keys: Option<&[String]>) -> Result<State, QueryError> {
        let mut state = State::new();
        let names = [KEY, "_version", "_event_id", "_type", "_time", "_recorded", "_alpha", "_lambda", "_k", DATA];
        for batch in self.read(opened.builder, &names, keys)? {
            let batch = batch?;
            self.take(&batch, keys, &mut state).ok_or_else(|| self.failed(&"a column is missing"))?;
        }
        Ok(state)
    }

    /// The version of a key's last event.
    ///
    /// # Errors
    /// It is damaged.
    pub fn version(&self, key: &str) -> Result<Option<Version>, QueryError> {
        let keys = [key.to_owned()];
        for batch in self.read(self.open(None)?.builder, &[KEY, "_version"], Some(&keys))? {
            let batch = batch?;
            let found = batch.column_by_name(KEY).and_then(|c| c.as_string_opt::<i32>());
            let version = batch.column_by_name("_version").and_then(|c| c.as_primitive_opt::<Int64Type>());
            let (Some(found), Some(version)) = (found, version) else {
                return Err(self.failed(&"a column is missing"));
            };
            if let Some(index) = (0..batch.num_rows()).find(|index| found.value(*index) == key) {
                return Ok(Some(Version::from_i64(version.value(index))));
            }
        }
        Ok(None)
    }

    fn take(&self, batch: &RecordBatch, keys: Option<&[String]>, state: &mut State) -> Option<()> {
        let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
        let moment = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>();
        let number = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Float64Type>();
        let version = batch.column_by_name("_version")?.as_primitive_opt::<Int64Type>()?;
        let (key, id, kind, data) = (text(KEY)?, text("_event_id")?, text("_type")?, text(DATA)?);
        let (time, recorded) = (moment("_time")?, moment("_recorded")?);
        let (alpha, lambda, k) = (number("_alpha")?, number("_lambda")?, number("_k")?);
        for index in 0..batch.num_rows() {
            let key = key.value(index);
            if keys.is_some_and(|keys| keys.iter().all(|wanted| wanted != key)) {
                continue;
            }
            let row = Row {
                version: Version(u64::try_from(version.value(index)).unwrap_or(0)),
                id: id.value(index).to_owned(),
                kind: kind.value(index).to_owned(),
                time: Timestamp(time.value(index)),
                recorded: Timestamp(recorded.value(index)),
                primal: Primal { alpha: alpha.value(index), lambda: lambda.value(index), k: k.value(index) },
                data: data.is_valid(index).then(|| data.value(index).to_owned()),
            };
            state.insert(key.to_owned(), row);
        }
        Some(())
    }

    /// Reads columns, and of the groups those that may have a key.
    fn read(
        &self,
        builder: ParquetRecordBatchReaderBuilder<File>,
        names: &[&str],
        keys: Option<&[String]>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, QueryError>> + use<'_>, QueryError> {
        let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
        let groups = builder.metadata().row_groups().iter().enumerate().filter(|(_, group)| {
            let statistics = group.columns().first().and_then(|column| column.statistics());
            let (Some(keys), Some(Statistics::ByteArray(range))) = (keys, statistics) else { return true };
            let (Some(low), Some(high)) = (range.min_bytes_opt(), range.max_bytes_opt()) else { return true };
            keys.iter().any(|key| low <= key.as_bytes() && key.as_bytes() <= high)
        });
        let groups = groups.map(|(index, _)| index).collect();
        let reader = builder.with_projection(mask).with_row_groups(groups).with_batch_size(BATCH).build();
        let reader = reader.map_err(|e| self.failed(&e))?;
        Ok(reader.map(|batch| batch.map_err(|e| self.failed(&e))))
    }
}
