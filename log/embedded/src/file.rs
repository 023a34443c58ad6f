//! The file: opening it, its tables, and noticing what other processes append to it.

use std::path::Path;
use std::sync::Weak;
use std::time::Duration;

use primal_core::Topic;
use primal_core::error::LogError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Row, SqliteConnection, SqlitePool};

use crate::{Inner, Known, Shared};

/// Tells our files from other SQLite files ("PrLg").
const APPLICATION: i64 = 0x5072_4c67;
/// Raised when the tables change.
const SCHEMA: i64 = 1;
/// How soon an append of another process is noticed.
const WATCH: Duration = Duration::from_millis(20);

const TABLES: &str = "
    CREATE TABLE topics (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL, compacted INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE ends (
        topic INTEGER NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL, recorded INTEGER NOT NULL,
        PRIMARY KEY (topic, partition)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE batches (
        topic INTEGER NOT NULL, partition INTEGER NOT NULL, base INTEGER NOT NULL, recorded INTEGER NOT NULL,
        checksum INTEGER NOT NULL, key BLOB, body BLOB NOT NULL,
        PRIMARY KEY (topic, partition, base)
    ) STRICT;
    CREATE INDEX batches_recorded ON batches (topic, partition, recorded, base);
    CREATE INDEX batches_key ON batches (topic, key) WHERE key IS NOT NULL;
";

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(10))
        .disable_statement_logging()
}

/// A connection of its own.
pub(crate) async fn connect(path: &Path) -> Result<SqliteConnection, LogError> {
    options(path).connect().await.map_err(failed)
}

/// Opens the file with its tables; connections for reading.
pub(crate) async fn open(path: &Path) -> Result<SqlitePool, LogError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        tokio::fs::create_dir_all(folder)
            .await
            .map_err(|e| LogError::Internal(format!("the folder {} cannot be made: {e}", folder.display())))?;
    }
    let named = |error: LogError| LogError::Internal(format!("{}: {error}", path.display()));
    let pool =
        SqlitePoolOptions::new().max_connections(6).connect_with(options(path)).await.map_err(|e| named(failed(e)))?;
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.map_err(|e| named(failed(e)))?;
    let number = |row: sqlx::sqlite::SqliteRow| row.get::<i64, _>(0);
    let application = sqlx::query("PRAGMA application_id").fetch_one(&mut *tx).await.map(number).map_err(failed)?;
    let version = sqlx::query("PRAGMA user_version").fetch_one(&mut *tx).await.map(number).map_err(failed)?;
    let tables =
        sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *tx).await.map(number).map_err(failed)?;
    match (application, version, tables) {
        (0, 0, 0) => {
            let marks = format!("{TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA};");
            sqlx::raw_sql(sqlx::AssertSqlSafe(marks)).execute(&mut *tx).await.map_err(failed)?;
        }
        (APPLICATION, SCHEMA, _) => {}
        (APPLICATION, other, _) => {
            return Err(LogError::Internal(format!(
                "{} has layout {other}, this program reads layout {SCHEMA}",
                path.display()
            )));
        }
        _ => return Err(LogError::Internal(format!("{} is another program's SQLite file", path.display()))),
    }
    tx.commit().await.map_err(failed)?;
    Ok(pool)
}

/// A topic, if the file has it.
pub(crate) async fn topic(pool: &SqlitePool, topic: &Topic) -> Result<Option<Known>, LogError> {
    let row = sqlx::query("SELECT id, partitions, compacted FROM topics WHERE name = ?")
        .bind(topic.as_str())
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
    Ok(row.map(|row| Known { id: row.get(0), partitions: row.get(1), compacted: row.get(2) }))
}

/// Brings the ends in memory up to the file's.
pub(crate) async fn refresh(pool: &SqlitePool, shared: &Shared) -> Result<(), LogError> {
    let rows = sqlx::query("SELECT topic, partition, next FROM ends").fetch_all(pool).await.map_err(failed)?;
    let mut ends = shared.ends();
    for row in rows {
        let end = ends.entry((row.get(0), row.get(1))).or_insert(0);
        *end = row.get::<i64, _>(2).max(*end);
    }
    Ok(())
}

/// Rings the bell when another process has appended, for as long as the log is open.
pub(crate) async fn watch(log: Weak<Inner>) {
    let Some(mut connection) = (match log.upgrade() {
        Some(inner) => connect(&inner.path).await.ok(),
        None => None,
    }) else {
        return;
    };
    let mut seen = 0;
    loop {
        tokio::time::sleep(WATCH).await;
        let Some(inner) = log.upgrade() else { return };
        let version = sqlx::query("PRAGMA data_version").fetch_one(&mut connection).await;
        let version = version.map(|row| row.get::<i64, _>(0)).unwrap_or(seen);
        if version != seen {
            seen = version;
            if refresh(&inner.pool, &inner.shared).await.is_ok() {
                inner.shared.ring();
            }
        }
    }
}

/// What a driver's error means.
pub(crate) fn failed(error: sqlx::Error) -> LogError {
    let code = error.as_database_error().and_then(|e| e.code()).and_then(|code| code.parse::<i32>().ok());
    match code.map(|code| code & 0xff) {
        Some(13) => LogError::Full(format!("no room for the log's file: {error}")),
        Some(5 | 6) => LogError::Unavailable(format!("the log's file is busy: {error}")),
        Some(11 | 26) => LogError::Damaged(format!("the log's file is damaged or no SQLite file: {error}")),
        Some(10) => LogError::Unavailable(format!("reading or writing the log's file failed: {error}")),
        Some(_) => LogError::Internal(error.to_string()),
        None => match error {
            sqlx::Error::PoolTimedOut => LogError::Unavailable("no connection to the log's file was free".to_owned()),
            other => LogError::Internal(other.to_string()),
        },
    }
}
