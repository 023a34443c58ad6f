//! TimescaleDB: PostgreSQL whose series are hypertables. All else is PostgreSQL's.

use std::sync::Arc;

use primal_core::Sink;
use primal_core::columns::AT;
use primal_core::sink::{Health, SinkSpec};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};

use crate::postgres::{CAPABILITY, OPTIONS, Postgres};

/// TimescaleDB.
pub static TIMESCALEDB: SinkSpec = SinkSpec {
    name: "timescaledb",
    family: "sql",
    summary: "TimescaleDB 2 on PostgreSQL 13 and later",
    capability: CAPABILITY,
    options: OPTIONS,
    build: |settings| Ok(Arc::new(Postgres::new(settings, true)?) as Arc<dyn Sink>),
};

/// Whether the extension's function is there, and the extension's version if it is the extension's.
const ASKED: &str = "SELECT EXISTS (SELECT 1 FROM pg_proc WHERE proname = 'create_hypertable'), \
                     (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb')";

/// Says in the health of a server what becomes of series.
pub(crate) async fn describe(pool: &PgPool, health: &mut Health) -> Result<(), sqlx::Error> {
    let row = sqlx::query(ASKED).fetch_one(pool).await?;
    match (row.get::<bool, _>(0), row.get::<Option<String>, _>(1)) {
        (_, Some(version)) => health.version = format!("TimescaleDB {version} on {}", health.version),
        (true, None) => {}
        (false, None) => health.notes.push(
            "TimescaleDB is not installed in this database, so series are plain tables; with `CREATE EXTENSION \
             timescaledb` before the first event they are hypertables"
                .to_owned(),
        ),
    }
    Ok(())
}

/// Makes a new, empty table a hypertable by the moment of its points, where the server can
/// (<https://docs.timescale.com/api/latest/hypertable/create_hypertable_old/>).
pub(crate) async fn make_hypertable(connection: &mut PgConnection, table: &str) -> Result<(), sqlx::Error> {
    if !sqlx::query(ASKED).fetch_one(&mut *connection).await?.get::<bool, _>(0) {
        return Ok(());
    }
    let make =
        format!("SELECT create_hypertable($1::regclass, time_column_name => '{AT}'::name, if_not_exists => true)");
    sqlx::query(AssertSqlSafe(make)).bind(table).execute(connection).await.map(drop)
}
