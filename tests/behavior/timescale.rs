//! What TimescaleDB does beyond PostgreSQL: a series becomes a hypertable where the server has such. The extension itself
//! cannot be had here, so a function of its name and arguments stands in for it, in a database of its own.

use primal_core::sink::Projection;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::stores::{Store, server, settings};

const STAND_IN: &str = "CREATE TABLE made (relation text, dimension text); \
    CREATE FUNCTION create_hypertable(relation regclass, time_column_name name, if_not_exists boolean DEFAULT false) \
    RETURNS void LANGUAGE sql AS 'INSERT INTO public.made VALUES (relation::text, time_column_name)'";

/// The notes of a check, and what was made hypertables once a series and a document were prepared.
async fn seen(url: &str, stand_in: bool) -> (Vec<String>, Vec<(String, String)>) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    if stand_in {
        sqlx::raw_sql(STAND_IN).execute(&mut connection).await.unwrap();
    }
    let spec = primal_registry::find("timescaledb").unwrap();
    let sink = (spec.build)(&settings(&[("url", url.to_owned())])).unwrap();
    let notes = sink.check().await.unwrap().notes;
    let store = Store::new(spec).await;
    for projection in [Projection::Series, Projection::Document] {
        let target = store.target(projection);
        let collection = primal_core::Collection::new(projection.as_str()).unwrap();
        let target = primal_core::Target { collection, ..target };
        sink.prepare(&target).await.unwrap();
        sink.prepare(&target).await.unwrap();
    }
    sink.close().await;
    if !stand_in {
        return (notes, Vec::new());
    }
    let made = sqlx::query("SELECT relation, dimension FROM made").fetch_all(&mut connection).await.unwrap();
    (notes, made.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_is_a_hypertable_where_the_server_has_such_and_a_table_elsewhere() {
    let server = server("postgres").await;
    for (name, stand_in) in [("without_timescale", false), ("with_timescale", true)] {
        let mut connection = PgConnection::connect(&server).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
        let url = server.rsplit_once('/').map(|(base, _)| format!("{base}/{name}")).unwrap();
        let (notes, made) = seen(&url, stand_in).await;
        assert_eq!(notes.iter().any(|note| note.contains("CREATE EXTENSION timescaledb")), !stand_in, "{notes:?}");
        let expected = if stand_in { vec![("series".to_owned(), "_at".to_owned())] } else { Vec::new() };
        assert_eq!(made, expected);
    }
}
