//! PostgreSQL: a batch is one transaction: the fence, a COPY into a temporary table, one guarded upsert from there.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use primal_core::batch::{Batch, Mode};
use primal_core::blocks::Blocks;
use primal_core::columns::{Column, Layout, Type, Value, content, rows};
use primal_core::settings::Secret;
use primal_core::sink::{
    BUFFER, Build, Builds, Capability, Class, Health, OptionSpec, Outcome, Page, Positions, Projection, Reader, Sink,
    SinkSpec, Stored, Swap, SwapKind, Target,
};
use primal_core::table::Cell;
use primal_core::{
    Collection, Digest, Fault, Position, Primal, Settings, SettingsError, SinkError, Timestamp, Version,
};
use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, PgPool, Row};

use crate::generation::builds;
use crate::layout::{Statements, quote};
use crate::postgres_copy;
use crate::text::{GENERATIONS, POSITIONS, Text};
use crate::timescaledb;

/// PostgreSQL.
pub static POSTGRES: SinkSpec = SinkSpec {
    name: "postgres",
    family: "sql",
    summary: "PostgreSQL 13 and later",
    capability: CAPABILITY,
    options: OPTIONS,
    build: |settings| Ok(Arc::new(Postgres::new(settings, false)?) as Arc<dyn Sink>),
};

pub(crate) const CAPABILITY: Capability = Capability {
    class: Class::Transactional,
    projections: &[Projection::Document, Projection::Table, Projection::Events, Projection::Series],
    swap: SwapKind::Atomic,
    reads: true,
    max_batch: 50_000,
    // jsonb takes 268,435,455 bytes of strings and of members each (src/include/utils/jsonb.h); this leaves memory alone.
    max_payload: 64 << 20,
    buffer_bytes: BUFFER,
};

pub(crate) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "url",
        default: None,
        help: "`postgres://user:password@host:5432/database?sslmode=verify-full`; the database must exist",
    },
    OptionSpec { name: "schema", default: Some("public"), help: "the schema of all tables; made if it is missing" },
    OptionSpec { name: "pool", default: Some("8"), help: "connections, at most" },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: Secret,
    #[serde(default = "public")]
    schema: String,
    #[serde(default = "pool")]
    pool: u32,
}

fn public() -> String {
    "public".to_owned()
}

fn pool() -> u32 {
    8
}

/// Records in a page of a scan.
pub(crate) const PAGE: i64 = 2_000;
/// How long one call to the store may take.
const CALL: Duration = Duration::from_secs(60);

pub(crate) struct Postgres {
    /// For messages: no password.
    address: String,
    /// Whether series become hypertables, where the server has them.
    hypertables: bool,
    schema: String,
    pub(crate) text: Text,
    pub(crate) pool: PgPool,
}

impl Postgres {
    pub(crate) fn new(settings: &Settings, hypertables: bool) -> Result<Self, SettingsError> {
        let config: Config = settings.read()?;
        let options = PgConnectOptions::from_str(config.url.expose())
            .map_err(|e| settings.error(format!("`url` is no PostgreSQL address: {e}")))?
            .application_name("primalcore")
            .options([
                ("client_min_messages", "warning"),
                // A frozen worker must not keep its successor out by a lock that it still holds.
                ("idle_in_transaction_session_timeout", "10s"),
                ("statement_timeout", "60s"),
                ("lock_timeout", "30s"),
            ])
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(config.pool.max(1))
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(options);
        let text = Text::new(Some(&config.schema));
        let address = config.url.without_password();
        Ok(Postgres { address, hypertables, schema: config.schema, text, pool })
    }

    pub(crate) fn failed(&self, doing: &str, error: sqlx::Error) -> SinkError {
        failed(&self.address, doing, error)
    }

    pub(crate) async fn bounded<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, SinkError> {
        match tokio::time::timeout(CALL, call).await {
            Ok(result) => result.map_err(|e| self.failed(doing, e)),
            Err(_) => Err(SinkError::new(Fault::Unavailable, format!("{doing} {}: no answer", self.address))),
        }
    }

    /// Makes the hub's own tables where they are missing. Asked first, because even `IF NOT EXISTS` wants the right to
    /// create, which a role that only writes need not have.
    async fn own_tables(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let asked =
            "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($2) IS NOT NULL AND to_regclass($3) IS NOT NULL";
        let (positions, generations) = (self.text.table(POSITIONS), self.text.table(GENERATIONS));
        let asked = sqlx::query(asked).bind(quote(&self.schema)).bind(positions).bind(generations);
        let there = asked.fetch_one(&mut *connection).await?;
        if !there.get::<bool, _>(0) {
            let create = format!("CREATE SCHEMA {}", quote(&self.schema));
            sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *connection).await?;
        }
        if !there.get::<bool, _>(1) {
            let own = self.text.own_tables("BIGINT", "TIMESTAMPTZ", "");
            sqlx::raw_sql(AssertSqlSafe(own)).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// Whether one of the hub's own tables is there.
    async fn has(&self, table: &str) -> Result<bool, sqlx::Error> {
        let row = sqlx::query("SELECT to_regclass($1) IS NOT NULL").bind(self.text.table(table));
        row.fetch_one(&self.pool).await.map(|row| row.get(0))
    }
}

/// What a driver's error means. Codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
fn failed(address: &str, doing: &str, error: sqlx::Error) -> SinkError {
    let code = error.as_database_error().and_then(|e| e.code()).map(|code| code.into_owned());
    let fault = match code.as_deref() {
        Some(code) if code.starts_with("28") || code == "42501" => Fault::Unauthorized,
        Some("3D000" | "3F000") => Fault::Misconfigured,
        Some("53100" | "53200") => Fault::Full,
        Some("42804" | "42703" | "42P07" | "42P16") => Fault::Incompatible,
        Some("54000" | "54001") => Fault::Rejected(Vec::new()),
        Some(code) if code.starts_with("22") || code.starts_with("23") => Fault::Rejected(Vec::new()),
        Some(code) if ["08", "53", "55", "57", "58", "40", "25"].iter().any(|class| code.starts_with(class)) => {
            Fault::Unavailable
        }
        Some(_) => Fault::Internal,
        None => match &error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => Fault::Unavailable,
            sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => Fault::Misconfigured,
            _ => Fault::Internal,
        },
    };
    SinkError::new(fault, format!("{doing} {address}")).because(error)
}

fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Text => "text",
        Type::Integer => "bigint",
        Type::Double => "double precision",
        Type::Boolean => "boolean",
        Type::Timestamp => "timestamp with time zone",
        Type::Json => "jsonb",
    }
}

#[async_trait]
impl Sink for Postgres {
    async fn check(&self) -> Result<Health, SinkError> {
        let asked = async {
            let row = sqlx::query("SELECT current_setting('server_version'), current_setting('server_encoding')");
            row.fetch_one(&self.pool).await.map(|row| (row.get::<String, _>(0), row.get::<String, _>(1)))
        };
        let (version, encoding) = self.bounded("connecting to", asked).await?;
        if encoding != "UTF8" {
            let message = format!("{} has server_encoding {encoding}, expected UTF8", self.address);
            return Err(SinkError::new(Fault::Misconfigured, message));
        }
        let mut health = Health { version: format!("PostgreSQL {version}"), notes: Vec::new() };
        if self.hypertables {
            self.bounded("asking for TimescaleDB in", timescaledb::describe(&self.pool, &mut health)).await?;
        }
        Ok(health)
    }

    async fn builds(&self, sink: &str, collection: &Collection) -> Result<Builds, SinkError> {
        let asked = async {
            if !self.has(GENERATIONS).await? {
                return Ok(None);
            }
            let query = sqlx::query(AssertSqlSafe(self.text.builds.as_str())).bind(sink).bind(collection.as_str());
            query.fetch_optional(&self.pool).await
        };
        let row = self.bounded("reading generations of", asked).await?;
        Ok(row.map_or_else(
            || builds(None, None, None, None),
            |row| builds(row.get(0), row.get(1), row.get(2), row.get(3)),
        ))
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        let layout = Layout::of(target);
        let asked = async {
            let mut tx = self.pool.begin().await?;
            // Two processes that make the same table at once would fail in PostgreSQL's own catalog.
            let lock = Digest::of_bytes(b'p', self.schema.as_bytes()).0 as i64;
            sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(lock).execute(&mut *tx).await?;
            self.own_tables(&mut tx).await?;
            let table = self.text.table(&target.place());
            let found: Vec<(String, String)> = sqlx::query(
                "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute \
                 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
            )
            .bind(&table)
            .fetch_all(&mut *tx)
            .await?
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
            // Room in each page lets an update stay on it (HOT), which spares the index.
            let room = if target.projection.keeps_every_event() { "" } else { " WITH (fillfactor = 85)" };
            let statements = match layout.changes(target, &table, &found, type_name, room) {
                Ok(statements) => statements,
                Err(error) => return Ok(Err(error)),
            };
            for statement in statements {
                sqlx::query(AssertSqlSafe(statement)).persistent(false).execute(&mut *tx).await?;
            }
            if self.hypertables && found.is_empty() && target.projection == Projection::Series {
                timescaledb::make_hypertable(&mut tx, &table).await?;
            }
            let known = sqlx::query(AssertSqlSafe(self.text.known.as_str()));
            known.bind(&*target.sink).bind(target.collection.as_str()).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(Ok(()))
        };
        self.bounded("preparing", asked).await?
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        let asked = async {
            if !self.has(POSITIONS).await? {
                return Ok(Vec::new());
            }
            let query = sqlx::query(AssertSqlSafe(self.text.positions.as_str()));
            query.bind(&*target.sink).bind(target.position_name()).fetch_all(&self.pool).await
        };
        let rows = self.bounded("reading positions of", asked).await?;
        Ok(rows.iter().map(|row| (row.get::<i32, _>(0), Position::from_i64(row.get(1)))).collect())
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        let rows = rows(target, batch)?;
        let layout = Layout::of(target);
        // Into a build that nobody reads, records that are new are copied straight; a live one has other writers.
        let is_new = |index: usize| batch.events.get(index).is_some_and(|event| event.fresh);
        let straight = matches!(target.build, Build::Beside(_)) && rows.len() == batch.events.len();
        let (mut new, mut others) = (Vec::new(), Vec::new());
        for (index, row) in rows.into_iter().enumerate() {
            if straight && is_new(index) { new.push(row) } else { others.push(row) }
        }
        sort(&layout, &mut new);
        sort(&layout, &mut others);
        match self.bounded("writing to", self.write_rows(target, batch, &layout, &new, &others)).await {
            Err(error) if !new.is_empty() && is_duplicate(&error) => {
                others.append(&mut new);
                sort(&layout, &mut others);
                self.bounded("writing to", self.write_rows(target, batch, &layout, &[], &others)).await?
            }
            result => result?,
        }
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    fn swap(&self) -> Option<&dyn Swap> {
        Some(self)
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// In the index's order the merge touches each page once, and two writers cannot deadlock.
fn sort(layout: &Layout, rows: &mut [Vec<Value<'_>>]) {
    let identity = layout.columns.iter().position(|c| c.name == layout.identity).unwrap_or(0);
    rows.sort_unstable_by(|a, b| a.get(identity).and_then(Value::text).cmp(&b.get(identity).and_then(Value::text)));
}

/// Whether a record was there already that was taken for new.
fn is_duplicate(error: &SinkError) -> bool {
    let cause = error.source.as_ref().and_then(|cause| cause.downcast_ref::<sqlx::Error>());
    cause.and_then(sqlx::Error::as_database_error).is_some_and(|error| error.is_unique_violation())
}

impl Postgres {
    /// One transaction: `new` rows, of which none may be there, and `others`, which are compared.
    async fn write_rows(
        &self,
        target: &Target,
        batch: &Batch<'_>,
        layout: &Layout,
        new: &[Vec<Value<'_>>],
        others: &[Vec<Value<'_>>],
    ) -> Result<Result<Outcome, SinkError>, sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        // The rows first, the fence after them: the server waits for a COPY's data without limit, so a process that is
        // frozen meanwhile must not hold the lock that its successor needs.
        if !new.is_empty() {
            copy(&mut tx, &self.text.table(&target.place()), layout, new).await?;
        }
        let staged = if others.is_empty() { None } else { Some(stage(&mut tx, layout, others).await?) };
        if let Some(reason) = self.fence(&mut tx, target, batch).await? {
            tx.rollback().await?;
            return Ok(Err(SinkError::new(Fault::Fenced, reason)));
        }
        let merged = match staged {
            Some(staged) => self.merge(&mut tx, target, batch.mode, layout, &staged).await?,
            None => 0,
        };
        tx.commit().await?;
        let applied = new.len() as u64 + merged;
        Ok(Ok(Outcome { applied, stale: batch.events.len() as u64 - applied }))
    }

    /// Moves the position and checks the generation, in one round trip; why not, if it may not be. The shared lock on the
    /// generation makes a swap wait for this transaction, and this transaction for a swap.
    async fn fence(
        &self,
        connection: &mut PgConnection,
        target: &Target,
        batch: &Batch<'_>,
    ) -> Result<Option<String>, sqlx::Error> {
        let moved = match batch.advance.map(|advance| advance.expected) {
            None => "SELECT 1".to_owned(),
            Some(Some(_)) => format!("{} RETURNING 1", renumbered(&self.text.advance)),
            Some(None) => format!("{} RETURNING 1", renumbered(&self.text.insert_position)),
        };
        let statement = format!(
            "WITH live AS ({} FOR SHARE), moved AS ({moved}) SELECT (SELECT live FROM live), (SELECT count(*) FROM moved)",
            self.text.live
        );
        let mut query = sqlx::query(AssertSqlSafe(statement)).bind(&*target.sink).bind(target.collection.as_str());
        if let Some(advance) = batch.advance {
            query = query.bind(target.position_name()).bind(batch.partition).bind(advance.next.as_i64());
            if let Some(expected) = advance.expected {
                query = query.bind(expected.as_i64());
            }
        }
        let row = query.fetch_one(connection).await?;
        let live = row.get::<Option<i64>, _>(0).unwrap_or(1) as u64;
        let stands = || (row.get::<i64, _>(1) == 0).then(|| target.moved_meanwhile(batch));
        Ok(target.wrong_generation(live).or_else(stands))
    }

    /// One guarded upsert from the staged rows; how many records were written.
    async fn merge(
        &self,
        connection: &mut PgConnection,
        target: &Target,
        mode: Mode,
        layout: &Layout,
        staged: &str,
    ) -> Result<u64, sqlx::Error> {
        let (table, names) = (self.text.table(&target.place()), layout.names());
        let conflict = layout.on_conflict("t", mode == Mode::Repair);
        let merge = format!("INSERT INTO {table} AS t ({names}) SELECT {names} FROM {staged} {conflict}");
        Ok(sqlx::query(AssertSqlSafe(merge)).execute(connection).await?.rows_affected())
    }
}

/// Copies rows into a temporary table; its name. There is one per shape and connection, and every commit empties it.
async fn stage(connection: &mut PgConnection, layout: &Layout, rows: &[Vec<Value<'_>>]) -> Result<String, sqlx::Error> {
    let definitions: Vec<String> =
        layout.columns.iter().map(|c| format!("{} {}", quote(&c.name), type_name(c.kind))).collect();
    let definitions = definitions.join(", ");
    let stage = format!("pg_temp.\"stage_{:016x}\"", Digest::of_bytes(b's', definitions.as_bytes()).0 as u64);
    let create = format!("CREATE TEMP TABLE IF NOT EXISTS {stage} ({definitions}) ON COMMIT DELETE ROWS");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *connection).await?;
    copy(connection, &stage, layout, rows).await?;
    Ok(stage)
}

async fn copy(
    connection: &mut PgConnection,
    table: &str,
    layout: &Layout,
    rows: &[Vec<Value<'_>>],
) -> Result<(), sqlx::Error> {
    let names = layout.names();
    let mut copy = connection.copy_in_raw(&format!("COPY {table} ({names}) FROM STDIN (FORMAT binary)")).await?;
    copy.send(postgres_copy::encode(rows)).await?;
    copy.finish().await?;
    Ok(())
}

/// The fence puts the collection's name before the parameters that positions know: `$2` and up move by one.
fn renumbered(statement: &str) -> String {
    statement.replace("$5", "$6").replace("$4", "$5").replace("$3", "$4").replace("$2", "$3")
}

/// Columns as a query gives them back: moments as microseconds, `jsonb` as text.
pub(crate) fn selected(layout: &Layout) -> String {
    let one = |column: &Column| {
        let name = quote(&column.name);
        match column.kind {
            Type::Timestamp => format!("(extract(epoch FROM {name}) * 1000000)::bigint AS {name}"),
            Type::Json => format!("{name}::text AS {name}"),
            _ => name,
        }
    };
    layout.columns.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(crate) fn stored(target: &Target, layout: &Layout, row: &PgRow) -> Result<Stored, sqlx::Error> {
    let mut cells = Vec::new();
    for (index, column) in layout.columns.iter().enumerate().skip(layout.data_from) {
        cells.push(match column.kind {
            Type::Integer => row.try_get::<Option<i64>, _>(index)?.map(Cell::Integer),
            Type::Double => row.try_get::<Option<f64>, _>(index)?.map(Cell::Number),
            Type::Boolean => row.try_get::<Option<bool>, _>(index)?.map(Cell::Boolean),
            Type::Text => row.try_get::<Option<String>, _>(index)?.map(Cell::Text),
            Type::Timestamp => row.try_get::<Option<i64>, _>(index)?.map(|n| Cell::Timestamp(Timestamp(n))),
            Type::Json => row.try_get::<Option<String>, _>(index)?.map(Cell::Json),
        });
    }
    let cells = cells.into_iter().map(|cell| cell.unwrap_or(Cell::Null)).collect();
    Ok(Stored {
        identity: row.try_get(layout.identity)?,
        version: Version::from_i64(row.try_get("_version")?),
        event_id: row.try_get("_event_id")?,
        time: Timestamp(row.try_get("_time")?),
        primal: Primal { alpha: row.try_get("_alpha")?, lambda: row.try_get("_lambda")?, k: row.try_get("_k")? },
        content: content(target, layout.has_tombstones() && row.try_get("_deleted")?, cells),
    })
}

#[async_trait]
impl Reader for Postgres {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        let layout = Layout::of(target);
        let (columns, table, key) = (selected(&layout), self.text.table(&target.place()), quote(layout.identity));
        let statement = format!("SELECT {columns} FROM {table} WHERE {key} = $1");
        let asked = async {
            // Not kept prepared: another generation under this name may have other columns.
            let query = sqlx::query(AssertSqlSafe(statement)).persistent(false).bind(identity);
            let row = query.fetch_optional(&self.pool).await?;
            row.map(|row| stored(target, &layout, &row)).transpose()
        };
        self.bounded("reading", asked).await
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        let layout = Layout::of(target);
        let (columns, table, key) = (selected(&layout), self.text.table(&target.place()), quote(layout.identity));
        let statement = format!("SELECT {columns} FROM {table} WHERE {key} > $1 ORDER BY {key} LIMIT {PAGE}");
        let asked = async {
            let query = sqlx::query(AssertSqlSafe(statement)).persistent(false).bind(cursor.unwrap_or(""));
            let rows = query.fetch_all(&self.pool).await?;
            rows.iter().map(|row| stored(target, &layout, row)).collect::<Result<Vec<_>, _>>()
        };
        let records = self.bounded("reading", asked).await?;
        let more = records.len() == PAGE as usize;
        let next = records.last().filter(|_| more).map(|last| last.identity.clone());
        Ok(Page { records, next })
    }

    /// Of all but points, which have no tombstones and are told by columns of their own.
    fn blocks(&self, target: &Target) -> Option<&dyn Blocks> {
        (target.projection != Projection::Series).then_some(self)
    }
}

#[async_trait]
impl Swap for Postgres {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        let generation = target.beside()?;
        // Makes the hub's own tables where this store was never written to.
        self.prepare(target).await?;
        let asked = async {
            let begin = sqlx::query(AssertSqlSafe(self.text.begin.as_str()));
            let begin = begin.bind(&*target.sink).bind(target.collection.as_str()).bind(generation as i64).bind(plan);
            begin.execute(&self.pool).await.map(|_| ())
        };
        self.bounded("recording a rebuild in", asked).await
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        let generation = to.beside()?;
        let asked = async {
            let mut tx = self.pool.begin().await?;
            let (sink, collection) = (&*to.sink, to.collection.as_str());
            let locked = format!("{} FOR UPDATE", self.text.builds);
            let row = sqlx::query(AssertSqlSafe(locked)).bind(sink).bind(collection).fetch_one(&mut *tx).await?;
            let live = row.get::<i64, _>(0) as u64;
            let previous = row.get::<Option<i64>, _>(1).map(|n| n as u64);
            let from = to.with_build(Build::Live(live));
            let behind = sqlx::query(AssertSqlSafe(self.text.behind.as_str()))
                .bind(sink)
                .bind(from.position_name())
                .bind(to.position_name());
            let behind: i64 = behind.fetch_one(&mut *tx).await?.get(0);
            if live == generation || (caught_up && behind > 0) {
                return Ok(false);
            }
            let old = to.with_build(Build::Beside(live));
            for (a, b) in [(from.place(), old.place()), (to.place(), from.place())] {
                let rename = format!("ALTER TABLE IF EXISTS {} RENAME TO {}", self.text.table(&a), quote(&b));
                sqlx::query(AssertSqlSafe(rename)).persistent(false).execute(&mut *tx).await?;
            }
            if let Some(older) = previous.filter(|older| *older != generation) {
                self.drop_build(&mut tx, &to.with_build(Build::Beside(older))).await?;
            }
            let set = sqlx::query(AssertSqlSafe(self.text.set_live.as_str())).bind(sink).bind(collection);
            set.bind(generation as i64).bind(live as i64).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(true)
        };
        self.bounded("swapping generations in", asked).await
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        let asked = async {
            let mut tx = self.pool.begin().await?;
            self.drop_build(&mut tx, target).await?;
            if let Build::Beside(generation) = target.build {
                let forget = sqlx::query(AssertSqlSafe(self.text.forget_rebuild.as_str()));
                let forget = forget.bind(&*target.sink).bind(target.collection.as_str()).bind(generation as i64);
                forget.execute(&mut *tx).await?;
            }
            tx.commit().await
        };
        self.bounded("dropping a build from", asked).await
    }
}

impl Postgres {
    async fn drop_build(&self, connection: &mut PgConnection, target: &Target) -> Result<(), sqlx::Error> {
        let table = format!("DROP TABLE IF EXISTS {}", self.text.table(&target.place()));
        sqlx::query(AssertSqlSafe(table)).persistent(false).execute(&mut *connection).await?;
        let positions = sqlx::query(AssertSqlSafe(self.text.drop_positions.as_str())).bind(&*target.sink);
        positions.bind(target.position_name()).execute(connection).await?;
        Ok(())
    }
}
