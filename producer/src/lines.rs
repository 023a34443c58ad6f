//! NDJSON: one event a line, `{"collection","key","op","type","time","id","source","data",…}`. Lines are checked in order
//! and published in parallel lanes; a key always goes through the same lane, so its events keep their order.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use primal_core::log::partition_of;
use primal_core::nearest::hint;
use serde::Deserialize;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::AsyncBufRead;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::line_reader::{Bounds, LineReader, Next};
use crate::room::Held;
use crate::{Checked, Draft, Producer, PublishError, Refused};

/// Events and bytes that one lane appends at once.
const BATCH_EVENTS: usize = 2_000;
const BATCH_BYTES: usize = 1 << 20;
/// After this without a line, what is there is appended.
const PAUSE: Duration = Duration::from_millis(20);
const FIELDS: &[&str] =
    &["collection", "key", "op", "type", "time", "id", "source", "data", "dataschema", "primal", "extensions"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    collection: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    dataschema: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    primal: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    extensions: std::collections::BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

/// What was published.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Events appended.
    pub sent: u64,
    /// Events that an earlier request had published already.
    pub repeated: u64,
    /// Bad lines left out.
    pub skipped: u64,
}

/// Publishing stopped.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct LinesError {
    /// What was published before.
    pub summary: Summary,
    /// Why it stopped.
    pub cause: Cause,
}

/// Why publishing stopped.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A line is no event. Nothing after it was sent.
    #[error("line {line}, column {column}: {message}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// Counted from 1; 1 where the line as a whole is meant.
        column: usize,
        /// What is wrong.
        message: String,
        /// The refusal, when the line was JSON but no good event.
        refused: Option<Box<Refused>>,
    },
    /// The input could not be read.
    #[error("reading the events failed: {0}")]
    Input(#[from] std::io::Error),
    /// The log failed.
    #[error("{0}")]
    Log(#[from] PublishError),
}

/// How lines are published.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Lanes, each with one batch under way.
    pub concurrency: usize,
    /// Leave bad lines out and go on.
    pub skip_bad: bool,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    repeated: AtomicU64,
}

/// Publishes all lines of an input. `progress` is told after each batch how many events are durable.
///
/// # Errors
/// With what was published until then.
pub async fn publish(
    producer: &Arc<Producer>,
    input: impl AsyncBufRead + Unpin,
    how: How,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<Summary, LinesError> {
    publish_within(None, producer, input, how, progress).await
}

/// The same for a client that is not trusted.
pub(crate) async fn publish_within(
    bounds: Option<Bounds>,
    producer: &Arc<Producer>,
    input: impl AsyncBufRead + Unpin,
    how: How,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<Summary, LinesError> {
    let counts = Arc::new(Counts::default());
    let mut lanes = Vec::new();
    let mut running = JoinSet::new();
    for _ in 0..how.concurrency.max(1) {
        let (sender, batches) = mpsc::channel(1);
        lanes.push(Lane { sender, batch: Vec::new(), bytes: 0, held: Held::default() });
        running.spawn(lane(producer.clone(), batches, counts.clone(), progress.clone()));
    }
    let (mut skipped, mut number) = (0, 0);
    let limit = producer.options().max_event_bytes * 2 + (64 << 10);
    let mut reader = LineReader::new(input, limit, bounds);
    let mut cause = loop {
        match tokio::time::timeout(PAUSE, reader.next()).await {
            Ok(Ok(Next::Line)) => {}
            Ok(Ok(Next::End)) => break None,
            Ok(Err(error)) => break Some(Cause::Input(error)),
            // What is there goes to the log, while the input pauses and before memory is waited for.
            Err(_) => {
                if flush_all(&mut lanes).await.is_err() {
                    break None;
                }
                continue;
            }
            Ok(Ok(Next::NoRoom(bytes))) => {
                if flush_all(&mut lanes).await.is_err() {
                    break None;
                }
                match reader.make_room(bytes).await {
                    Ok(()) => continue,
                    Err(error) => break Some(Cause::Input(error)),
                }
            }
        }
        number += 1;
        if reader.line().iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match check(producer, reader.line(), number) {
            Ok(event) => {
                let index = partition_of(event.key(), lanes.len() as u32) as usize;
                if let Some(lane) = lanes.get_mut(index)
                    && lane.push(event, reader.take_held()).await.is_err()
                {
                    break None;
                }
            }
            Err(_) if how.skip_bad => skipped += 1,
            Err(cause) => break Some(cause),
        }
    };
    flush_all(&mut lanes).await.ok();
    drop(lanes);
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => cause = Some(Cause::Log(error)),
            Err(error) => cause = Some(Cause::Input(std::io::Error::other(error))),
        }
    }
    let (sent, repeated) = (counts.sent.load(Ordering::Relaxed), counts.repeated.load(Ordering::Relaxed));
    let summary = Summary { sent, repeated, skipped };
    match cause {
        None => Ok(summary),
        Some(cause) => Err(LinesError { summary, cause }),
    }
}

struct Lane {
    sender: mpsc::Sender<(Vec<Checked>, Held)>,
    batch: Vec<Checked>,
    bytes: usize,
    held: Held,
}

impl Lane {
    async fn push(&mut self, event: Checked, held: Held) -> Result<(), ()> {
        self.bytes += event.bytes();
        self.batch.push(event);
        self.held.add(held);
        if self.batch.len() >= BATCH_EVENTS || self.bytes >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), ()> {
        self.bytes = 0;
        let (batch, held) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.held));
        if batch.is_empty() { Ok(()) } else { self.sender.send((batch, held)).await.map_err(|_| ()) }
    }
}

async fn flush_all(lanes: &mut [Lane]) -> Result<(), ()> {
    for lane in lanes {
        lane.flush().await?;
    }
    Ok(())
}

async fn lane(
    producer: Arc<Producer>,
    mut batches: mpsc::Receiver<(Vec<Checked>, Held)>,
    counts: Arc<Counts>,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<(), PublishError> {
    while let Some((batch, held)) = batches.recv().await {
        let receipts = producer.append(batch).await?;
        drop(held);
        let repeated = receipts.iter().filter(|receipt| receipt.repeated).count() as u64;
        counts.repeated.fetch_add(repeated, Ordering::Relaxed);
        counts.sent.fetch_add(receipts.len() as u64 - repeated, Ordering::Relaxed);
        progress(receipts.len() as u64);
    }
    Ok(())
}

fn check(producer: &Producer, text: &[u8], number: u64) -> Result<Checked, Cause> {
    producer.check(parse(text, number)?).map_err(|refused| Cause::Line {
        line: number,
        column: 1,
        message: refused.to_string(),
        refused: Some(Box::new(refused)),
    })
}

fn parse(text: &[u8], number: u64) -> Result<Draft<'_>, Cause> {
    let at =
        |column: usize, message: String| Cause::Line { line: number, column: column.max(1), message, refused: None };
    let line: Line<'_> = serde_json::from_slice(text).map_err(|error| {
        let message = error.to_string();
        let plain = message.split(" at line ").next().unwrap_or(&message);
        let unknown = plain.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        let message = match unknown {
            Some(field) => format!("unknown field `{field}`{}", hint(field, FIELDS.iter().copied())),
            None => plain.to_owned(),
        };
        at(error.column(), message)
    })?;
    Ok(Draft {
        collection: line.collection,
        key: line.key,
        op: line.op,
        id: line.id,
        kind: line.kind,
        source: line.source,
        time: line.time,
        data: line.data.map(|data| Cow::Borrowed(data.get())),
        is_json: true,
        data_schema: line.dataschema,
        primal: line.primal,
        extensions: line.extensions.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_line_is_read_or_refused_with_its_place(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            members in prop::collection::vec(
                (prop::sample::select(FIELDS), "\"\\PC{0,6}\"|[0-9]{1,3}|null|\\{\\}|\\["),
                0..8,
            ),
        ) {
            let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            for text in [bytes, format!("{{{}}}", members.join(",")).into_bytes()] {
                if let Err(Cause::Line { line, column, message, .. }) = parse(&text, 9).map(drop) {
                    prop_assert!(line == 9 && column >= 1 && !message.is_empty() && !message.contains(" at line "));
                }
            }
        }
    }
}
