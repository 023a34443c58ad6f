//! SQLite: one file. A batch is one transaction of multi-row upserts, with the position in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use primal_core::batch::{Batch, Mode};
use primal_core::columns::{Layout, Type, Value, content, rows};
use primal_core::sink::{
    BUFFER, Build, Builds, Capability, Class, Health, OptionSpec, Outcome, Page, Positions, Projection, Reader, Sink,
    SinkSpec, Stored, Swap, SwapKind, Target,
};
use primal_core::table::Cell;
use primal_core::{Collection, Fault, Position, Primal, SinkError, Timestamp, Version};
use serde::Deserialize;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};
use tokio::sync::Mutex;

use crate::generation::builds;
use crate::layout::{Statements, quote};
use crate::text::Text;

/// SQLite, in a file.
pub static SQLITE: SinkSpec = SinkSpec {
    name: "sqlite",
    family: "sql",
    summary: "a SQLite file on this machine",
    capability: Capability {
        class: Class::Transactional,
        projections: &[Projection::Document, Projection::Table, Projection::Events, Projection::Series],
        swap: SwapKind::Atomic,
        reads: true,
        max_batch: 20_000,
        // SQLite's default limit is 1,000,000,000 bytes (https://sqlite.org/limits.html); this leaves memory alone.
        max_payload: 64 << 20,
        buffer_bytes: BUFFER,
    },
    options: &[OptionSpec { name: "path", default: None, help: "the file; its folder is made if it is missing" }],
    build: |settings| {
        let config: Config = settings.read()?;
        Ok(Arc::new(Sqlite::new(config)) as Arc<dyn Sink>)
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    path: PathBuf,
}

/// Records in a page of a scan.
const PAGE: i64 = 1_000;
/// Rows in one statement; few different sizes, so that few statements have to be kept prepared.
const CHUNKS: [usize; 5] = [256, 64, 16, 4, 1];
/// SQLite takes 32,766 parameters in a statement (https://sqlite.org/limits.html).
const PARAMETERS: usize = 32_000;

struct Sqlite {
    path: PathBuf,
    text: Text,
    /// SQLite has one writer at a time, so this process has one too.
    writer: Mutex<Option<SqliteConnection>>,
    readers: SqlitePool,
}

impl Sqlite {
    fn new(config: Config) -> Self {
        let readers = SqlitePoolOptions::new()
            .max_connections(2)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(options(&config.path));
        Sqlite { path: config.path, text: Text::new(None), writer: Mutex::new(None), readers }
    }

    /// The writing connection, with the hub's own tables in place.
    async fn writer(&self) -> Result<tokio::sync::MappedMutexGuard<'_, SqliteConnection>, SinkError> {
        let mut writer = self.writer.lock().await;
        if let Some(connection) = writer.as_mut()
            && is_stuck(connection).await
        {
            *writer = None;
        }
        if writer.is_none() {
            if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                tokio::fs::create_dir_all(folder).await.map_err(|e| {
                    let message = format!("the folder {} cannot be made", folder.display());
                    SinkError::new(Fault::Misconfigured, message).because(e)
                })?;
            }
            let mut connection = options(&self.path).connect().await.map_err(|e| self.failed("opening", e))?;
            let own = self.text.own_tables("INTEGER", "TEXT", " STRICT");
            sqlx::raw_sql(AssertSqlSafe(own))
                .execute(&mut connection)
                .await
                .map_err(|e| self.failed("preparing", e))?;
            *writer = Some(connection);
        }
        tokio::sync::MutexGuard::try_map(writer, Option::as_mut)
            .map_err(|_| SinkError::new(Fault::Internal, "the writing connection is gone"))
    }

    async fn exists(&self) -> bool {
        tokio::fs::try_exists(&self.path).await.unwrap_or(false)
    }

    fn failed(&self, doing: &str, error: sqlx::Error) -> SinkError {
        failed(&self.path, doing, error)
    }
}

/// Whether a connection cannot leave its last transaction: where SQLite ended that by itself (a full disk), sqlx's own
/// rollback fails and it takes the transaction for open ever after.
async fn is_stuck(connection: &mut SqliteConnection) -> bool {
    // A rollback may be under way; what is asked next is answered after it.
    connection.is_in_transaction() && (connection.ping().await.is_err() || connection.is_in_transaction())
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A crash of the machine may take the last commits, but each takes its position with it, and the log heals that.
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(10))
        .disable_statement_logging()
}

/// What a driver's error means. Result codes: https://sqlite.org/rescode.html
fn failed(path: &Path, doing: &str, error: sqlx::Error) -> SinkError {
    let code = error.as_database_error().and_then(|e| e.code()).and_then(|code| code.parse::<i32>().ok());
    let fault = match code.map(|code| code & 0xff) {
        Some(5 | 6 | 10) => Fault::Unavailable,
        Some(13) => Fault::Full,
        Some(8 | 14 | 26 | 11) => Fault::Misconfigured,
        Some(3 | 23) => Fault::Unauthorized,
        Some(18..=20) => Fault::Rejected(Vec::new()),
        Some(_) => Fault::Internal,
        None => match error {
            sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) => Fault::Unavailable,
            _ => Fault::Internal,
        },
    };
    SinkError::new(fault, format!("{doing} {}", path.display())).because(error)
}

fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Text | Type::Timestamp | Type::Json => "TEXT",
        Type::Integer | Type::Boolean => "INTEGER",
        Type::Double => "REAL",
    }
}

#[async_trait]
impl Sink for Sqlite {
    async fn check(&self) -> Result<Health, SinkError> {
        let mut writer = self.writer().await?;
        let row = sqlx::query("SELECT sqlite_version()").fetch_one(&mut *writer).await;
        let version: String = row.map_err(|e| self.failed("asking", e))?.get(0);
        Ok(Health { version: format!("SQLite {version}"), notes: Vec::new() })
    }

    async fn builds(&self, sink: &str, collection: &Collection) -> Result<Builds, SinkError> {
        if !self.exists().await {
            return Ok(builds(None, None, None, None));
        }
        let mut writer = self.writer().await?;
        let row = sqlx::query(AssertSqlSafe(self.text.builds.as_str()))
            .bind(sink)
            .bind(collection.as_str())
            .fetch_optional(&mut *writer)
            .await
            .map_err(|e| self.failed("reading generations of", e))?;
        Ok(row.map_or_else(
            || builds(None, None, None, None),
            |row| builds(row.get(0), row.get(1), row.get(2), row.get(3)),
        ))
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        let layout = Layout::of(target);
        let mut writer = self.writer().await?;
        let result = async {
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let found: Vec<(String, String)> = sqlx::query("SELECT name, type FROM pragma_table_info($1)")
                .bind(target.place())
                .fetch_all(&mut *tx)
                .await?
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect();
            let table = self.text.table(&target.place());
            let statements = match layout.changes(target, &table, &found, type_name, " STRICT") {
                Ok(statements) => statements,
                Err(error) => return Ok(Err(error)),
            };
            for statement in statements {
                sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await?;
            }
            let known = sqlx::query(AssertSqlSafe(self.text.known.as_str()));
            known.bind(&*target.sink).bind(target.collection.as_str()).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(Ok(()))
        };
        result.await.map_err(|e| self.failed("preparing", e))?
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        if !self.exists().await {
            return Ok(Positions::new());
        }
        let mut writer = self.writer().await?;
        let rows = sqlx::query(AssertSqlSafe(self.text.positions.as_str()))
            .bind(&*target.sink)
            .bind(target.position_name())
            .fetch_all(&mut *writer)
            .await
            .map_err(|e| self.failed("reading positions of", e))?;
        Ok(rows.iter().map(|row| (row.get::<i32, _>(0), Position::from_i64(row.get(1)))).collect())
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        let rows = rows(target, batch)?;
        let layout = Layout::of(target);
        let mut writer = self.writer().await?;
        let mut tx = writer.begin_with("BEGIN IMMEDIATE").await.map_err(|e| self.failed("locking", e))?;
        if let Some(reason) = fence(&mut tx, &self.text, target, batch).await.map_err(|e| self.failed("writing", e))? {
            return Err(SinkError::new(Fault::Fenced, reason));
        }
        let mut applied = 0;
        let mut rest = rows.as_slice();
        let table = self.text.table(&target.place());
        let conflict = layout.on_conflict(&table, batch.mode == Mode::Repair);
        let names = layout.names();
        let most = (PARAMETERS / layout.columns.len()).max(1);
        while !rest.is_empty() {
            let size = CHUNKS.into_iter().find(|size| *size <= rest.len().min(most)).unwrap_or(1);
            let (chunk, others) = rest.split_at(size);
            rest = others;
            let one = format!("({})", vec!["?"; layout.columns.len()].join(", "));
            let values = vec![one.as_str(); size].join(", ");
            let statement = format!("INSERT INTO {table} ({names}) VALUES {values} {conflict}");
            let arguments = bind(chunk).map_err(|e| SinkError::new(Fault::Internal, "binding values").because(e))?;
            let done = sqlx::query_with(AssertSqlSafe(statement), arguments).execute(&mut *tx).await;
            applied += done.map_err(|e| self.failed("writing", e))?.rows_affected();
        }
        tx.commit().await.map_err(|e| self.failed("committing to", e))?;
        Ok(Outcome { applied, stale: batch.events.len() as u64 - applied })
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    fn swap(&self) -> Option<&dyn Swap> {
        Some(self)
    }

    async fn close(&self) {
        if let Some(connection) = self.writer.lock().await.take() {
            let _ = connection.close().await;
        }
        self.readers.close().await;
    }
}

/// Moves the position and checks the generation; why not, if it may not be.
async fn fence(
    connection: &mut SqliteConnection,
    text: &Text,
    target: &Target,
    batch: &Batch<'_>,
) -> Result<Option<String>, sqlx::Error> {
    let live = sqlx::query(AssertSqlSafe(text.live.as_str()))
        .bind(&*target.sink)
        .bind(target.collection.as_str())
        .fetch_optional(&mut *connection)
        .await?
        .map_or(1, |row| row.get::<i64, _>(0) as u64);
    if let Some(reason) = target.wrong_generation(live) {
        return Ok(Some(reason));
    }
    let Some(advance) = batch.advance else { return Ok(None) };
    let statement = if advance.expected.is_some() { &text.advance } else { &text.insert_position };
    let mut query = sqlx::query(AssertSqlSafe(statement.as_str()))
        .bind(&*target.sink)
        .bind(target.position_name())
        .bind(batch.partition)
        .bind(advance.next.as_i64());
    if let Some(expected) = advance.expected {
        query = query.bind(expected.as_i64());
    }
    let moved = query.execute(connection).await?.rows_affected();
    Ok((moved == 0).then(|| target.moved_meanwhile(batch)))
}

fn bind(rows: &[Vec<Value<'_>>]) -> Result<SqliteArguments, sqlx::error::BoxDynError> {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(rows.iter().map(Vec::len).sum(), 0);
    for value in rows.iter().flatten() {
        match value {
            Value::Null => arguments.add(None::<i64>),
            Value::Text(text) | Value::Json(text) => arguments.add(*text),
            Value::Owned(text) | Value::OwnedJson(text) => arguments.add(text.as_str()),
            Value::Integer(n) => arguments.add(*n),
            Value::Double(n) => arguments.add(*n),
            Value::Boolean(b) => arguments.add(i64::from(*b)),
            Value::Timestamp(at) => arguments.add(at.to_string()),
        }?;
    }
    Ok(arguments)
}

fn stored(target: &Target, layout: &Layout, row: &SqliteRow) -> Result<Stored, sqlx::Error> {
    let moment = |text: &str| Timestamp::parse_rfc3339(text).unwrap_or(Timestamp::MIN);
    let mut cells = Vec::new();
    for (index, column) in layout.columns.iter().enumerate().skip(layout.data_from) {
        cells.push(match column.kind {
            Type::Integer => row.try_get::<Option<i64>, _>(index)?.map(Cell::Integer),
            Type::Double => row.try_get::<Option<f64>, _>(index)?.map(Cell::Number),
            Type::Boolean => row.try_get::<Option<i64>, _>(index)?.map(|n| Cell::Boolean(n != 0)),
            Type::Text => row.try_get::<Option<String>, _>(index)?.map(Cell::Text),
            Type::Timestamp => row.try_get::<Option<String>, _>(index)?.map(|t| Cell::Timestamp(moment(&t))),
            Type::Json => row.try_get::<Option<String>, _>(index)?.map(Cell::Json),
        });
    }
    let cells = cells.into_iter().map(|cell| cell.unwrap_or(Cell::Null)).collect();
    Ok(Stored {
        identity: row.try_get(layout.identity)?,
        version: Version::from_i64(row.try_get("_version")?),
        event_id: row.try_get("_event_id")?,
        time: moment(&row.try_get::<String, _>("_time")?),
        primal: Primal { alpha: row.try_get("_alpha")?, lambda: row.try_get("_lambda")?, k: row.try_get("_k")? },
        content: content(target, layout.has_tombstones() && row.try_get::<i64, _>("_deleted")? != 0, cells),
    })
}

#[async_trait]
impl Reader for Sqlite {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        let layout = Layout::of(target);
        let (names, table, key) = (layout.names(), self.text.table(&target.place()), quote(layout.identity));
        let statement = format!("SELECT {names} FROM {table} WHERE {key} = ?");
        let row = sqlx::query(AssertSqlSafe(statement)).bind(identity).fetch_optional(&self.readers).await;
        row.and_then(|row| row.map(|row| stored(target, &layout, &row)).transpose())
            .map_err(|e| self.failed("reading", e))
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        let layout = Layout::of(target);
        let (names, table, key) = (layout.names(), self.text.table(&target.place()), quote(layout.identity));
        let statement = format!("SELECT {names} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {PAGE}");
        let rows = sqlx::query(AssertSqlSafe(statement)).bind(cursor.unwrap_or("")).fetch_all(&self.readers).await;
        let rows = rows.map_err(|e| self.failed("reading", e))?;
        let records: Result<Vec<_>, _> = rows.iter().map(|row| stored(target, &layout, row)).collect();
        let records = records.map_err(|e| self.failed("reading", e))?;
        let more = records.len() == PAGE as usize;
        let next = records.last().filter(|_| more).map(|last| last.identity.clone());
        Ok(Page { records, next })
    }
}

#[async_trait]
impl Swap for Sqlite {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        let generation = target.beside()?;
        let mut writer = self.writer().await?;
        let result = async {
            let (sink, collection) = (&*target.sink, target.collection.as_str());
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let known = sqlx::query(AssertSqlSafe(self.text.known.as_str())).bind(sink).bind(collection);
            known.execute(&mut *tx).await?;
            let begin = sqlx::query(AssertSqlSafe(self.text.begin.as_str())).bind(sink).bind(collection);
            begin.bind(generation as i64).bind(plan).execute(&mut *tx).await?;
            tx.commit().await
        };
        result.await.map_err(|e| self.failed("recording a rebuild in", e))
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        let generation = to.beside()?;
        let builds = self.builds(&to.sink, &to.collection).await?;
        let from = to.with_build(Build::Live(builds.live));
        let mut writer = self.writer().await?;
        let result = async {
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let (sink, collection) = (&*to.sink, to.collection.as_str());
            let live = sqlx::query(AssertSqlSafe(self.text.live.as_str())).bind(sink).bind(collection);
            let live = live.fetch_optional(&mut *tx).await?.map_or(1, |row| row.get::<i64, _>(0) as u64);
            let behind = sqlx::query(AssertSqlSafe(self.text.behind.as_str()))
                .bind(sink)
                .bind(from.position_name())
                .bind(to.position_name());
            let behind: i64 = behind.fetch_one(&mut *tx).await?.get(0);
            if live != builds.live || (caught_up && behind > 0) {
                return Ok(false);
            }
            let old = to.with_build(Build::Beside(live));
            for (a, b) in [(from.place(), old.place()), (to.place(), from.place())] {
                let there = sqlx::query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?").bind(&a);
                if there.fetch_optional(&mut *tx).await?.is_some() {
                    let rename = format!("ALTER TABLE {} RENAME TO {}", quote(&a), quote(&b));
                    sqlx::query(AssertSqlSafe(rename)).execute(&mut *tx).await?;
                }
            }
            if let Some(older) = builds.previous.filter(|older| *older != generation) {
                drop_build(&mut tx, &self.text, &to.with_build(Build::Beside(older))).await?;
            }
            let set = sqlx::query(AssertSqlSafe(self.text.set_live.as_str())).bind(sink).bind(collection);
            set.bind(generation as i64).bind(live as i64).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(true)
        };
        result.await.map_err(|e| self.failed("swapping generations in", e))
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        let mut writer = self.writer().await?;
        let result = async {
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            drop_build(&mut tx, &self.text, target).await?;
            if let Build::Beside(generation) = target.build {
                let forget = sqlx::query(AssertSqlSafe(self.text.forget_rebuild.as_str()));
                let forget = forget.bind(&*target.sink).bind(target.collection.as_str()).bind(generation as i64);
                forget.execute(&mut *tx).await?;
            }
            tx.commit().await
        };
        result.await.map_err(|e| self.failed("dropping a build from", e))
    }
}

async fn drop_build(connection: &mut SqliteConnection, text: &Text, target: &Target) -> Result<(), sqlx::Error> {
    let table = format!("DROP TABLE IF EXISTS {}", text.table(&target.place()));
    sqlx::query(AssertSqlSafe(table)).execute(&mut *connection).await?;
    let positions = sqlx::query(AssertSqlSafe(text.drop_positions.as_str())).bind(&*target.sink);
    positions.bind(target.position_name()).execute(connection).await?;
    Ok(())
}
