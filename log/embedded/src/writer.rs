//! The one writer of this process: takes all appends that are waiting, writes them in one transaction, and answers them
//! together after the commit (group commit).

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use primal_core::error::LogError;
use primal_core::log::{Appended, partition_of};
use primal_core::record::NewRecord;
use primal_core::{Env, Offset, Partition, Topic};
use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use crate::file::{self, failed};
use crate::{Known, Shared, body};

/// Bytes in one transaction, about.
const GROUP_BYTES: usize = 16 << 20;
/// Bytes in one row, about: what a reader has to take into memory at once.
const ROW_BYTES: usize = 512 << 10;

pub(crate) struct Append {
    pub records: Vec<NewRecord>,
    pub reply: oneshot::Sender<Result<Vec<Appended>, LogError>>,
}

pub(crate) struct Writer {
    path: PathBuf,
    connection: SqliteConnection,
    shared: Arc<Shared>,
    env: Env,
    topics: HashMap<Topic, Known>,
    turn: u32,
}

/// The records of one partition in one transaction.
#[derive(Default)]
struct Part<'a> {
    records: Vec<&'a NewRecord>,
    /// For each record the request and the place in it.
    owners: Vec<(usize, usize)>,
}

impl Writer {
    pub(crate) fn new(path: PathBuf, connection: SqliteConnection, shared: Arc<Shared>, env: Env) -> Self {
        Writer { path, connection, shared, env, topics: HashMap::new(), turn: 0 }
    }

    /// Works until the last handle is dropped.
    pub(crate) async fn run(mut self, mut waiting: mpsc::Receiver<Append>) {
        while let Some(first) = waiting.recv().await {
            let size = |append: &Append| append.records.iter().map(bytes).sum::<usize>();
            let mut total = size(&first);
            let mut group = vec![first];
            while total < GROUP_BYTES
                && let Ok(more) = waiting.try_recv()
            {
                total += size(&more);
                group.push(more);
            }
            self.commit(group).await;
        }
        let _ = self.connection.close().await;
    }

    async fn commit(&mut self, group: Vec<Append>) {
        let mut accepted = Vec::new();
        for append in group {
            match self.look_up(&append.records).await {
                Ok(()) => accepted.push(append),
                // Somebody who no longer waits needs no answer.
                Err(error) => drop(append.reply.send(Err(error))),
            }
        }
        if accepted.is_empty() {
            return;
        }
        let (requests, replies): (Vec<_>, Vec<_>) = accepted.into_iter().map(|a| (a.records, a.reply)).unzip();
        match self.write(&requests).await {
            Ok(answers) => {
                self.shared.ring();
                for (reply, answer) in replies.into_iter().zip(answers) {
                    let _ = reply.send(Ok(answer));
                }
            }
            Err(error) => {
                let message = error.to_string();
                for reply in replies {
                    let again = match &error {
                        LogError::Full(_) => LogError::Full(message.clone()),
                        LogError::Unavailable(_) => LogError::Unavailable(message.clone()),
                        LogError::Damaged(_) => LogError::Damaged(message.clone()),
                        _ => LogError::Internal(message.clone()),
                    };
                    let _ = reply.send(Err(again));
                }
            }
        }
    }

    /// Makes sure that the topics of a request exist.
    async fn look_up(&mut self, records: &[NewRecord]) -> Result<(), LogError> {
        for record in records {
            if !self.topics.contains_key(&record.topic) {
                let row = sqlx::query("SELECT id, partitions, compacted FROM topics WHERE name = ?")
                    .bind(record.topic.as_str())
                    .fetch_optional(&mut self.connection)
                    .await
                    .map_err(failed)?
                    .ok_or_else(|| LogError::NoTopic(record.topic.clone()))?;
                let known = Known { id: row.get(0), partitions: row.get(1), compacted: row.get(2) };
                self.topics.insert(record.topic.clone(), known);
            }
        }
        Ok(())
    }

    async fn write(&mut self, requests: &[Vec<NewRecord>]) -> Result<Vec<Vec<Appended>>, LogError> {
        let mut parts: BTreeMap<(i64, Partition), (Known, Part<'_>)> = BTreeMap::new();
        let mut answers: Vec<Vec<Appended>> = Vec::with_capacity(requests.len());
        for (request, records) in requests.iter().enumerate() {
            answers.push(Vec::with_capacity(records.len()));
            for (place, record) in records.iter().enumerate() {
                let Some(known) = self.topics.get(&record.topic).copied() else { continue };
                let partition = match (record.partition, &record.key) {
                    (Some(partition), _) if (0..known.partitions as i32).contains(&partition) => partition,
                    (Some(partition), _) => {
                        let topic = &record.topic;
                        return Err(LogError::Refused(format!("{topic} has no partition {partition}")));
                    }
                    (None, Some(key)) => partition_of(key, known.partitions),
                    (None, None) => {
                        self.turn = self.turn.wrapping_add(1);
                        (self.turn % known.partitions) as Partition
                    }
                };
                let (_, part) = parts.entry((known.id, partition)).or_insert_with(|| (known, Part::default()));
                part.records.push(record);
                part.owners.push((request, place));
                if let Some(answer) = answers.get_mut(request) {
                    answer.push(Appended { partition, offset: -1 });
                }
            }
        }
        let now = self.env.now().0;
        self.recover().await?;
        let mut tx = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let mut ends = Vec::with_capacity(parts.len());
        for ((topic, partition), (known, part)) in &parts {
            let row = sqlx::query("SELECT next, recorded FROM ends WHERE topic = ? AND partition = ?")
                .bind(topic)
                .bind(partition)
                .fetch_optional(&mut *tx)
                .await
                .map_err(failed)?;
            let (base, last): (Offset, i64) = row.map_or((0, i64::MIN), |row| (row.get(0), row.get(1)));
            let recorded = now.max(last);
            insert(&mut tx, *topic, *partition, known.compacted, base, recorded, &part.records).await?;
            let next = base + part.records.len() as Offset;
            sqlx::query(
                "INSERT INTO ends (topic, partition, next, recorded) VALUES (?, ?, ?, ?) \
                 ON CONFLICT (topic, partition) DO UPDATE SET next = excluded.next, recorded = excluded.recorded",
            )
            .bind(topic)
            .bind(partition)
            .bind(next)
            .bind(recorded)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
            for (offset, (request, place)) in (base..).zip(&part.owners) {
                if let Some(answer) = answers.get_mut(*request).and_then(|a| a.get_mut(*place)) {
                    answer.offset = offset;
                }
            }
            ends.push(((*topic, *partition), next));
        }
        tx.commit().await.map_err(failed)?;
        self.shared.ends().extend(ends);
        Ok(answers)
    }
}

impl Writer {
    /// Opens the file anew if the connection cannot leave its last transaction: where SQLite ended that by itself (a full
    /// disk), sqlx's own rollback fails and it takes the transaction for open ever after.
    async fn recover(&mut self) -> Result<(), LogError> {
        // A rollback may be under way; what is asked next is answered after it.
        let open = |connection: &SqliteConnection| connection.is_in_transaction();
        if open(&self.connection) && (self.connection.ping().await.is_err() || open(&self.connection)) {
            self.connection = file::connect(&self.path).await?;
        }
        Ok(())
    }
}

async fn insert(
    connection: &mut SqliteConnection,
    topic: i64,
    partition: Partition,
    compacted: bool,
    base: Offset,
    recorded: i64,
    records: &[&NewRecord],
) -> Result<(), LogError> {
    let mut start = 0;
    while start < records.len() {
        let (mut data, first) = (Vec::new(), start);
        while let Some(record) = records.get(start)
            && (data.is_empty() || (!compacted && data.len() < ROW_BYTES))
        {
            body::push(&mut data, record);
            start += 1;
        }
        let key = records.get(first).filter(|_| compacted).and_then(|record| record.key.as_deref());
        if let Some(key) = key {
            sqlx::query("DELETE FROM batches WHERE topic = ? AND key = ?")
                .bind(topic)
                .bind(key)
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
        }
        sqlx::query(
            "INSERT INTO batches (topic, partition, base, recorded, checksum, key, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(topic)
        .bind(partition)
        .bind(base + first as Offset)
        .bind(recorded)
        .bind(i64::from(crc32fast::hash(&data)))
        .bind(key)
        .bind(data)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    Ok(())
}

fn bytes(record: &NewRecord) -> usize {
    record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len) + record.headers.len() + 12
}
