//! The limits: what rdkafka and sqlx do when nothing else is asked of them. Written without any of this project's code.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::value::RawValue;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Partitions of every topic.
pub const PARTITIONS: i32 = 4;

/// An event, ready to be produced.
pub struct Event {
    key: String,
    id: String,
    kind: String,
    time: String,
    data: String,
}

/// Reads the lines, so that producing has nothing to parse.
pub fn parse(lines: &[u8]) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for (number, line) in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let mut members: HashMap<&str, &RawValue> = serde_json::from_slice(line)?;
        let mut text = |name: &str| -> Result<String> {
            let raw = members.remove(name).with_context(|| format!("line {number} has no {name}"))?;
            Ok(serde_json::from_str(raw.get())?)
        };
        let (key, kind, time) = (text("key")?, text("type")?, text("time")?);
        let data = members.get("data").context("no data")?.get().to_owned();
        let id = format!("019abcde-0000-7000-8000-{number:012}");
        events.push(Event { key, id, kind, time, data });
    }
    Ok(events)
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

/// Produces all events with the same headers and settings as the hub does.
pub fn produce(bootstrap: &str, topic: &str, events: &[Event]) -> Result<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin: AdminClient<DefaultClientContext> = client(bootstrap).create()?;
    let new =
        NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1)).set("message.timestamp.type", "LogAppendTime");
    runtime.block_on(admin.create_topics([&new], &AdminOptions::new()))?;
    let producer: ThreadedProducer<DefaultProducerContext> = client(bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "2")
        .set("batch.num.messages", "10000")
        .set("queue.buffering.max.kbytes", "65536")
        .create()?;
    let started = Instant::now();
    for event in events {
        let header = |key, value| Header { key, value: Some(value) };
        let headers = OwnedHeaders::new_with_capacity(5)
            .insert(header("ce_specversion", "1.0"))
            .insert(header("ce_id", event.id.as_str()))
            .insert(header("ce_source", "/primalcore"))
            .insert(header("ce_type", event.kind.as_str()))
            .insert(header("ce_time", event.time.as_str()));
        let mut record = BaseRecord::to(topic).key(&event.key).payload(&event.data).headers(headers);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(started.elapsed())
}

fn consumer(bootstrap: &str, topic: &str) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = client(bootstrap)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

/// Polls all messages and looks at nothing but their lengths; with `headers`, where CloudEvents has an event's id, type and
/// time, at those too. librdkafka does not even read them otherwise.
pub fn consume(bootstrap: &str, topic: &str, count: usize, headers: bool) -> Result<Duration> {
    let started = Instant::now();
    let consumer = consumer(bootstrap, topic)?;
    let (mut seen, mut bytes) = (0, 0);
    while seen < count {
        if let Some(message) = consumer.poll(Duration::from_secs(20)) {
            let message = message?;
            bytes += message.payload_len();
            if headers {
                let length = |header: Header<'_, &[u8]>| header.key.len() + header.value.map_or(0, <[u8]>::len);
                bytes += message.headers().into_iter().flat_map(|all| all.iter()).map(length).sum::<usize>();
            }
            seen += 1;
        }
    }
    ensure!(bytes > 0);
    Ok(started.elapsed())
}

/// Messages of one partition for one batch: the last of each key.
pub type Batch = HashMap<String, (i64, String)>;

/// Consumes, folds, COPYs and merges; partitions side by side, with the offset in the same transaction.
pub async fn merge(bootstrap: &str, topic: &str, database: &str, round: usize, count: usize) -> Result<Duration> {
    let pool = PgPoolOptions::new().max_connections(8).connect(database).await?;
    let table = format!("hand{round}");
    let create = format!(
        "CREATE TABLE {table} (_key text PRIMARY KEY, _version bigint NOT NULL, data jsonb) WITH (fillfactor = 85); \
         CREATE TABLE {table}_offsets (part int PRIMARY KEY, next bigint NOT NULL)"
    );
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&pool).await?;
    let started = Instant::now();
    let mut senders = Vec::new();
    let mut writers = tokio::task::JoinSet::new();
    for partition in 0..PARTITIONS {
        let (sender, mut batches) = tokio::sync::mpsc::channel::<(Batch, i64)>(1);
        senders.push(sender);
        let (mut connection, table) = (pool.acquire().await?.detach(), table.clone());
        writers.spawn(async move {
            let stage = "CREATE TEMP TABLE st (_key text, _version bigint, data jsonb) ON COMMIT DELETE ROWS";
            sqlx::raw_sql(stage).execute(&mut connection).await?;
            while let Some((batch, next)) = batches.recv().await {
                write(&mut connection, &table, partition, &batch, next).await?;
            }
            anyhow::Ok(())
        });
    }
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    let reading = tokio::task::spawn_blocking(move || read(&bootstrap, &topic, count, usize::MAX, false, &senders));
    reading.await??;
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(started.elapsed())
}

/// Reads a topic and sends batches of at most `most` events per partition; with `each` no event takes the place of another.
pub fn read(
    bootstrap: &str,
    topic: &str,
    count: usize,
    most: usize,
    each: bool,
    senders: &[tokio::sync::mpsc::Sender<(Batch, i64)>],
) -> Result<()> {
    let consumer = consumer(bootstrap, topic)?;
    let mut pending: Vec<(Batch, usize, i64)> = (0..PARTITIONS).map(|_| (HashMap::new(), 0, 0)).collect();
    for _ in 0..count {
        let message = consumer.poll(Duration::from_secs(20)).context("no message within 20 s")??;
        let partition = message.partition() as usize;
        let slot = pending.get_mut(partition).context("an unknown partition")?;
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        slot.1 += message.payload_len() + 120;
        slot.2 = message.offset() + 1;
        let key = if each { format!("{}", message.offset()) } else { text(message.key()) };
        slot.0.insert(key, (message.offset() + 1, text(message.payload())));
        // The hub's batches end at four megabytes of keys, payloads and headers.
        if slot.1 >= 4 << 20 || slot.0.len() >= most {
            let batch = std::mem::take(&mut slot.0);
            slot.1 = 0;
            senders.get(partition).context("no writer")?.blocking_send((batch, slot.2))?;
        }
    }
    for (sender, (batch, _, next)) in senders.iter().zip(pending) {
        sender.blocking_send((batch, next))?;
    }
    Ok(())
}

async fn write(connection: &mut PgConnection, table: &str, partition: i32, batch: &Batch, next: i64) -> Result<()> {
    let mut rows: Vec<_> = batch.iter().collect();
    rows.sort_unstable_by_key(|(key, _)| *key);
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for (key, (version, payload)) in rows {
        data.extend_from_slice(&3i16.to_be_bytes());
        data.extend_from_slice(&(key.len() as i32).to_be_bytes());
        data.extend_from_slice(key.as_bytes());
        data.extend_from_slice(&8i32.to_be_bytes());
        data.extend_from_slice(&version.to_be_bytes());
        data.extend_from_slice(&(payload.len() as i32 + 1).to_be_bytes());
        data.push(1);
        data.extend_from_slice(payload.as_bytes());
    }
    data.extend_from_slice(&(-1i16).to_be_bytes());
    let mut tx = connection.begin().await?;
    let mut copy = tx.copy_in_raw("COPY st FROM STDIN (FORMAT binary)").await?;
    copy.send(data).await?;
    copy.finish().await?;
    let merge = format!(
        "INSERT INTO {table} AS t SELECT * FROM st ON CONFLICT (_key) DO UPDATE SET _version = excluded._version, \
         data = excluded.data WHERE excluded._version > t._version"
    );
    sqlx::query(AssertSqlSafe(merge)).execute(&mut *tx).await?;
    let offset =
        format!("INSERT INTO {table}_offsets VALUES ($1, $2) ON CONFLICT (part) DO UPDATE SET next = excluded.next");
    sqlx::query(AssertSqlSafe(offset)).bind(partition).bind(next).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

impl Event {
    /// The same event as the hub's log takes it.
    pub fn record(&self, topic: &primal_core::Topic) -> primal_core::record::NewRecord {
        let mut headers = Vec::new();
        let all = [
            ("ce_specversion", "1.0"),
            ("ce_id", &self.id),
            ("ce_source", "/primalcore"),
            ("ce_type", &self.kind),
            ("ce_time", &self.time),
        ];
        for (name, value) in all {
            primal_core::header::push(&mut headers, name, Some(value.as_bytes()));
        }
        primal_core::record::NewRecord {
            topic: topic.clone(),
            partition: None,
            key: Some(self.key.clone().into_bytes()),
            value: Some(self.data.clone().into_bytes()),
            headers,
        }
    }
}
