//! The bulk calls, by hand. Each writes what the hub writes of an event, guarded the same way.

use std::fmt::Write;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use prost::Message;
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tokio::sync::{Mutex, OnceCell};

/// Key, version and payload.
pub type Row = (String, i64, String);

/// Who writes.
#[async_trait]
pub trait Writer: Send + Sync {
    async fn prepare(&self) -> Result<()>;
    async fn write(&self, rows: Vec<Row>) -> Result<()>;

    /// Whether every event counts, rather than the last one of its key.
    fn keeps_every_event(&self) -> bool {
        false
    }
}

const ID: &str = "019abcde-0000-7000-8000-000000000000";
const TIME: &str = "2013-01-01T05:00:00Z";
const MICROS: i64 = 1_357_016_400_000_000;

async fn post(request: reqwest::RequestBuilder) -> Result<String> {
    let answer = request.send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "{status}: {text:.500}");
    Ok(text)
}

pub struct ClickHouse {
    client: Client,
    url: String,
    table: String,
}

impl ClickHouse {
    pub fn new(client: Client, url: &str, round: usize) -> Self {
        ClickHouse { client, url: url.to_owned(), table: format!("hand{round}") }
    }
}

#[async_trait]
impl Writer for ClickHouse {
    async fn prepare(&self) -> Result<()> {
        let create = format!(
            "CREATE TABLE {} (_key String, _version Int64, _deleted Bool, _event_id String, _time DateTime64(6, 'UTC'), \
             _alpha Float64, _lambda Float64, _k Float64, data Nullable(String)) ENGINE = ReplacingMergeTree(_version) \
             ORDER BY _key SETTINGS fsync_after_insert = 1, fsync_part_directory = 1",
            self.table
        );
        post(self.client.post(&self.url).body(create)).await.map(drop)
    }

    async fn write(&self, rows: Vec<Row>) -> Result<()> {
        let mut body = Vec::new();
        for (key, version, data) in rows {
            text(&mut body, &key);
            body.extend_from_slice(&version.to_le_bytes());
            body.push(0);
            text(&mut body, ID);
            body.extend_from_slice(&MICROS.to_le_bytes());
            for number in [0.55f64, 0.115, 1.47] {
                body.extend_from_slice(&number.to_le_bytes());
            }
            body.push(0);
            text(&mut body, &data);
        }
        let query = format!("INSERT INTO {} FORMAT RowBinary", self.table);
        let url =
            format!("{}/?wait_end_of_query=1&query={}", self.url.trim_end_matches('/'), query.replace(' ', "%20"));
        post(self.client.post(url).body(body)).await.map(drop)
    }
}

fn text(body: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    while length >= 0x80 {
        body.push(length as u8 | 0x80);
        length >>= 7;
    }
    body.push(length as u8);
    body.extend_from_slice(text.as_bytes());
}

pub struct Search {
    client: Client,
    url: String,
}

impl Search {
    pub fn new(client: Client, url: &str, round: usize) -> Self {
        Search { client, url: format!("{}/hand{round}", url.trim_end_matches('/')) }
    }
}

#[async_trait]
impl Writer for Search {
    async fn prepare(&self) -> Result<()> {
        let body = json!({ "settings": { "number_of_shards": 1, "number_of_replicas": 0 } });
        post(self.client.put(&self.url).json(&body)).await.map(drop)
    }

    async fn write(&self, rows: Vec<Row>) -> Result<()> {
        let mut body = String::new();
        for (key, version, data) in rows {
            let key = Value::from(key);
            write!(
                body,
                "{{\"index\":{{\"_id\":{key},\"version\":{version},\"version_type\":\"external\"}}}}\n\
                 {{\"_key\":{key},\"_primal_version\":{version},\"_event_id\":\"{ID}\",\"_time\":\"{TIME}\",\
                 \"_alpha\":0.55,\"_lambda\":0.115,\"_k\":1.47,\"data\":{data}}}\n"
            )?;
        }
        let request = self.client.post(format!("{}/_bulk", self.url)).header("content-type", "application/x-ndjson");
        let answer: Value = serde_json::from_str(&post(request.body(body)).await?)?;
        ensure!(answer.get("errors") == Some(&Value::Bool(false)), "{answer:.500}");
        Ok(())
    }
}

/// A point's moment in nanoseconds, its host and what was measured.
fn point(data: &str) -> Result<(i64, String, f64, bool)> {
    let value: Value = serde_json::from_str(data)?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).context("no such member");
    let at = primal_core::Timestamp::parse_rfc3339(text("at")?).context("no moment")?;
    let cpu = value.get("cpu").and_then(Value::as_f64).context("no cpu")?;
    Ok((at.0 * 1_000, text("host")?.to_owned(), cpu, value.get("ok") == Some(&Value::Bool(true))))
}

pub struct Influx {
    client: Client,
    url: String,
    database: String,
}

impl Influx {
    pub fn new(client: Client, url: &str, round: usize) -> Self {
        Influx { client, url: url.trim_end_matches('/').to_owned(), database: format!("hand{round}") }
    }
}

#[async_trait]
impl Writer for Influx {
    fn keeps_every_event(&self) -> bool {
        true
    }

    async fn prepare(&self) -> Result<()> {
        let request = self.client.post(format!("{}/query", self.url));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        post(request.body(format!("q=CREATE DATABASE {}", self.database))).await.map(drop)
    }

    async fn write(&self, rows: Vec<Row>) -> Result<()> {
        let mut body = String::new();
        for (key, version, data) in rows {
            let (at, host, cpu, ok) = point(&data)?;
            writeln!(
                body,
                "points,host={host} _key=\"{key}\",_version={version}i,_event_id=\"{ID}\",_event_time=\"{TIME}\",\
                 _alpha=0.55,_lambda=0.115,_k=1.47,cpu={cpu:?},ok={ok} {at}"
            )?;
        }
        post(self.client.post(format!("{}/write?db={}", self.url, self.database)).body(body)).await.map(drop)
    }
}

pub struct Prometheus {
    client: Client,
    url: String,
    prefix: String,
}

impl Prometheus {
    pub fn new(client: Client, url: &str, round: usize) -> Self {
        let url = format!("{}/api/v1/write", url.trim_end_matches('/'));
        Prometheus { client, url, prefix: format!("hand{round}_") }
    }
}

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[async_trait]
impl Writer for Prometheus {
    fn keeps_every_event(&self) -> bool {
        true
    }

    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    async fn write(&self, rows: Vec<Row>) -> Result<()> {
        let mut series = std::collections::BTreeMap::<(String, &str), Vec<Sample>>::new();
        for (_, version, data) in rows {
            let (at, host, cpu, ok) = point(&data)?;
            let values = [("cpu", cpu), ("ok", f64::from(u8::from(ok))), ("time", 1.0), ("version", version as f64)];
            for (name, value) in values {
                series.entry((host.clone(), name)).or_default().push(Sample { value, timestamp: at / 1_000_000 });
            }
        }
        let one = |((host, name), samples): ((String, &str), Vec<Sample>)| {
            let name = format!("{}{name}", self.prefix);
            let labels =
                [("__name__", &*name), ("_alpha", "0.55"), ("_k", "1.47"), ("_lambda", "0.115"), ("host", &host)];
            let labels = labels.map(|(name, value)| Label { name: name.to_owned(), value: value.to_owned() }).to_vec();
            TimeSeries { labels, samples }
        };
        let request = WriteRequest { timeseries: series.into_iter().map(one).collect() };
        let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec())?;
        let request = self.client.post(&self.url).header("content-encoding", "snappy");
        post(request.header("content-type", "application/x-protobuf").body(body)).await.map(drop)
    }
}

pub struct Mongo {
    url: String,
    database: String,
    client: OnceCell<mongodb::Client>,
}

impl Mongo {
    pub fn new(url: &str, round: usize) -> Self {
        Mongo { url: url.to_owned(), database: format!("hand{round}"), client: OnceCell::new() }
    }
}

#[async_trait]
impl Writer for Mongo {
    async fn prepare(&self) -> Result<()> {
        self.client.get_or_try_init(|| mongodb::Client::with_uri_str(&self.url)).await?;
        Ok(())
    }

    async fn write(&self, rows: Vec<Row>) -> Result<()> {
        let mut updates = Vec::new();
        for (key, version, data) in rows {
            let data = serde_json::from_str::<Document>(&data)?;
            updates.push(doc! {
                "q": { "_id": &key }, "u": { "$setOnInsert": { "_version": 0_i64 } }, "upsert": true,
            });
            let set = doc! {
                "_version": version, "_deleted": false, "_event_id": ID, "_time": mongodb::bson::DateTime::from_millis(MICROS / 1_000),
                "_time_us": MICROS, "_alpha": 0.55, "_lambda": 0.115, "_k": 1.47, "data": data,
            };
            updates.push(doc! { "q": { "_id": &key, "_version": { "$lt": version } }, "u": { "$set": set } });
        }
        let client = self.client.get().context("not prepared")?;
        let command = doc! { "update": "hand", "updates": updates, "ordered": true };
        let answer = client.database(&self.database).run_command(command).await?;
        ensure!(!answer.contains_key("writeErrors"), "{answer:.500}");
        Ok(())
    }
}

pub struct Neo4j {
    client: Client,
    url: String,
    label: String,
}

impl Neo4j {
    pub fn new(client: Client, url: &str, round: usize) -> Self {
        let url = format!("{}/db/neo4j/tx/commit", url.trim_end_matches('/'));
        Neo4j { client, url, label: format!("Hand{round}") }
    }

    async fn run(&self, statements: Value) -> Result<()> {
        // Transactions of partitions that lead to the same airports may lock in a circle; one of them is told to come again.
        for _ in 0..20 {
            let answer: Value = serde_json::from_str(&post(self.client.post(&self.url).json(&statements)).await?)?;
            match answer.pointer("/errors/0/code").and_then(Value::as_str) {
                None => return Ok(()),
                Some(code) if code.contains("TransientError") => {}
                Some(_) => anyhow::bail!("{answer:.500}"),
            }
        }
        anyhow::bail!("locked for too long")
    }
}

#[async_trait]
impl Writer for Neo4j {
    async fn prepare(&self) -> Result<()> {
        for label in [self.label.clone(), format!("{}Airport", self.label)] {
            let create = format!("CREATE CONSTRAINT FOR (n:{label}) REQUIRE n._key IS UNIQUE");
            self.run(json!({ "statements": [{ "statement": create }] })).await?;
        }
        Ok(())
    }

    async fn write(&self, mut rows: Vec<Row>) -> Result<()> {
        rows.sort_unstable();
        let mut list = Vec::new();
        for (key, version, data) in rows {
            let mut members: serde_json::Map<String, Value> = serde_json::from_str(&data)?;
            let (origin, dest) = (members.get("origin").cloned(), members.get("dest").cloned());
            members.retain(|_, value| !value.is_null());
            members.extend([
                ("_key".to_owned(), json!(key)),
                ("_version".to_owned(), json!(version)),
                ("_event_id".to_owned(), json!(ID)),
                ("_alpha".to_owned(), json!(0.55)),
                ("_lambda".to_owned(), json!(0.115)),
                ("_k".to_owned(), json!(1.47)),
                ("_data".to_owned(), json!(data)),
            ]);
            list.push(json!({ "k": key, "v": version, "p": members, "o": origin, "d": dest }));
        }
        let label = &self.label;
        let node = format!(
            "UNWIND $rows AS row MERGE (n:{label} {{_key: row.k}}) WITH n, row WHERE n._version IS NULL OR n._version < row.v \
             SET n = row.p SET n._time = datetime({{epochSeconds: 1357016400, nanosecond: 0}})"
        );
        // As the hub: an edge that a change left behind goes.
        let gone = format!(
            "UNWIND $rows AS row MATCH (n:{label} {{_key: row.k}}) WHERE n._version = row.v MATCH (n)-[r]->(end) \
             WHERE NOT [type(r), end._key] IN [['DEPARTS_FROM', row.o], ['ARRIVES_AT', row.d]] DELETE r"
        );
        let edge = |kind: &str, member: &str| {
            format!(
                "UNWIND $rows AS row MATCH (n:{label} {{_key: row.k}}) WHERE n._version = row.v \
                 WITH n, row ORDER BY row.{member} MERGE (end:{label}Airport {{_key: row.{member}}}) MERGE (n)-[:{kind}]->(end)"
            )
        };
        let all = [node, gone, edge("DEPARTS_FROM", "o"), edge("ARRIVES_AT", "d")];
        let statements: Vec<_> =
            all.iter().map(|s| json!({ "statement": s, "parameters": { "rows": list } })).collect();
        self.run(json!({ "statements": statements })).await
    }
}

pub struct Qdrant {
    client: Client,
    url: String,
}

impl Qdrant {
    pub fn new(client: Client, url: &str, round: usize) -> Self {
        Qdrant { client, url: format!("{}/collections/hand{round}", url.trim_end_matches('/')) }
    }

    fn put(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.put(format!("{}{path}", self.url)).header("api-key", "primalcore")
    }
}

#[async_trait]
impl Writer for Qdrant {
    async fn prepare(&self) -> Result<()> {
        let create = json!({ "vectors": { "size": 64, "distance": "Cosine" } });
        post(self.put("").json(&create)).await?;
        for (name, schema) in [("_key", "keyword"), ("_version", "integer"), ("_deleted", "bool")] {
            let index = json!({ "field_name": name, "field_schema": schema });
            post(self.put("/index?wait=true").json(&index)).await?;
        }
        Ok(())
    }

    async fn write(&self, rows: Vec<Row>) -> Result<()> {
        let (mut points, mut highest) = (Vec::with_capacity(rows.len()), 0);
        for (key, version, data) in rows {
            let mut data: serde_json::Map<String, Value> = serde_json::from_str(&data)?;
            let vector = data.remove("v").context("no vector")?;
            let number: u64 = key.trim_start_matches('v').parse()?;
            highest = highest.max(version);
            let payload = json!({
                "_key": key, "_version": version, "_deleted": false, "_event_id": ID, "_time": TIME,
                "_alpha": 0.55, "_lambda": 0.115, "_k": 1.47, "data": data,
            });
            points.push(json!({ "id": number, "vector": vector, "payload": payload }));
        }
        let filter = json!({ "must": [{ "key": "_version", "range": { "lte": highest } }] });
        let body = json!({ "points": points, "update_filter": filter });
        post(self.put("/points?wait=true").json(&body)).await.map(drop)
    }
}

pub struct Redis {
    client: redis::Client,
    script: redis::Script,
    key: String,
}

impl Redis {
    pub fn new(url: &str, round: usize) -> Result<Self> {
        let script = redis::Script::new(
            "for i = 1, #ARGV, 3 do local old = redis.call('HGET', KEYS[1], ARGV[i]) \
             if not old or tonumber(string.match(old, '\"_version\":(%d+)')) < tonumber(ARGV[i + 1]) then \
             redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2]) end end",
        );
        Ok(Redis { client: redis::Client::open(url)?, script, key: format!("hand{round}") })
    }
}

#[async_trait]
impl Writer for Redis {
    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    async fn write(&self, rows: Vec<Row>) -> Result<()> {
        let mut connection = self.client.get_multiplexed_async_connection().await?;
        let mut call = self.script.prepare_invoke();
        call.key(&self.key);
        for (key, version, data) in rows {
            let value = format!(
                "{{\"_version\":{version},\"_event_id\":\"{ID}\",\"_time\":\"{TIME}\",\"_alpha\":0.55,\"_lambda\":0.115,\
                 \"_k\":1.47,\"data\":{data}}}"
            );
            call.arg(key).arg(version).arg(value);
        }
        let () = call.invoke_async(&mut connection).await?;
        Ok(())
    }
}

pub struct Sqlite {
    path: String,
    connection: Mutex<Option<SqliteConnection>>,
}

impl Sqlite {
    pub fn new(folder: &str, round: usize) -> Self {
        Sqlite { path: format!("{folder}/hand{round}.sqlite"), connection: Mutex::new(None) }
    }
}

#[async_trait]
impl Writer for Sqlite {
    async fn prepare(&self) -> Result<()> {
        let options = SqliteConnectOptions::from_str(&self.path)?.create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let create = "CREATE TABLE hand (_key TEXT PRIMARY KEY, _version INTEGER NOT NULL, _deleted INTEGER, _event_id TEXT, \
                      _time TEXT, _alpha REAL, _lambda REAL, _k REAL, data TEXT) WITHOUT ROWID";
        sqlx::query(create).execute(&mut connection).await?;
        *self.connection.lock().await = Some(connection);
        Ok(())
    }

    async fn write(&self, mut rows: Vec<Row>) -> Result<()> {
        rows.sort_unstable();
        let mut held = self.connection.lock().await;
        let mut tx = held.as_mut().context("not prepared")?.begin().await?;
        for (key, version, data) in rows {
            let upsert = "INSERT INTO hand VALUES (?, ?, 0, ?, ?, 0.55, 0.115, 1.47, ?) ON CONFLICT (_key) DO UPDATE SET \
                          _version = excluded._version, _deleted = 0, _event_id = excluded._event_id, \
                          _time = excluded._time, data = excluded.data WHERE excluded._version > _version";
            sqlx::query(upsert).bind(key).bind(version).bind(ID).bind(TIME).bind(data).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

pub struct Postgres {
    url: String,
    table: String,
}

impl Postgres {
    pub fn new(url: &str, round: usize) -> Self {
        Postgres { url: url.to_owned(), table: format!("hand{round}") }
    }
}

#[async_trait]
impl Writer for Postgres {
    fn keeps_every_event(&self) -> bool {
        true
    }

    async fn prepare(&self) -> Result<()> {
        let mut connection = PgConnection::connect(&self.url).await?;
        let create = format!(
            "CREATE TABLE {} (_at timestamptz, host text, _key text, _version bigint, _event_id text, _time timestamptz, \
             _alpha float8, _lambda float8, _k float8, cpu float8, ok boolean, PRIMARY KEY (host, _at))",
            self.table
        );
        sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await?;
        Ok(())
    }

    async fn write(&self, rows: Vec<Row>) -> Result<()> {
        let mut connection = PgConnection::connect(&self.url).await?;
        let mut data = String::new();
        for (key, version, payload) in rows {
            let (_, host, cpu, ok) = point(&payload)?;
            let value: Value = serde_json::from_str(&payload)?;
            let at = value.get("at").and_then(Value::as_str).context("no moment")?;
            writeln!(data, "{at}\t{host}\t{key}\t{version}\t{ID}\t{TIME}\t0.55\t0.115\t1.47\t{cpu}\t{ok}")?;
        }
        let mut tx = connection.begin().await?;
        let stage = format!("CREATE TEMP TABLE st (LIKE {}) ON COMMIT DROP", self.table);
        sqlx::query(AssertSqlSafe(stage)).execute(&mut *tx).await?;
        let mut copy = tx.copy_in_raw("COPY st FROM STDIN").await?;
        copy.send(data.into_bytes()).await?;
        copy.finish().await?;
        let merge = format!(
            "INSERT INTO {} AS t SELECT * FROM st ON CONFLICT (host, _at) DO UPDATE SET _key = excluded._key, \
             _version = excluded._version, _event_id = excluded._event_id, _time = excluded._time, cpu = excluded.cpu, \
             ok = excluded.ok WHERE excluded._version > t._version",
            self.table
        );
        sqlx::query(AssertSqlSafe(merge)).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }
}
