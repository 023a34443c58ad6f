//! Load: numbered events, published by several lanes until they are acknowledged however often that fails, and a ledger
//! of what was. Some lanes go through the gateway of a hub that may be killed, others append to the log themselves.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use primal_producer::Producer;
use primal_producer::lines::{self, How};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Puts and deletes of a few hundred keys.
pub const ORDERS: &str = "orders";
/// Appends.
pub const MARKS: &str = "marks";
/// Between two tries of a batch.
const AGAIN: Duration = Duration::from_millis(20);
/// An acknowledgement that takes longer is worth a word.
const LONG: Duration = Duration::from_secs(20);

/// The collections of the load, for a config file; the schema goes into the given folder.
///
/// # Panics
/// The folder cannot be written.
pub fn collections(folder: &std::path::Path, partitions: u32) -> String {
    let schema = folder.join("orders.json");
    let text = r#"{"type":"object","properties":{"n":{"type":"integer"},"text":{"type":"string"}},"required":["n"]}"#;
    std::fs::write(&schema, text).unwrap();
    format!(
        "collections:\n  {ORDERS}: {{ partitions: {partitions}, schema: \"{}\" }}\n  {MARKS}: {{ partitions: {partitions} }}\n",
        schema.display()
    )
}

/// The id of the event of a number.
pub fn id(number: u64) -> String {
    format!("e-{number}")
}

/// The event of a number, as a line.
pub fn line(number: u64) -> String {
    let id = id(number);
    let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    if number.is_multiple_of(4) {
        let key = key % 50;
        return format!(
            r#"{{"collection":"{MARKS}","key":"m{key}","op":"append","id":"{id}","data":{{"n":{number}}}}}"#
        );
    }
    let key = key % 400;
    if number.is_multiple_of(13) {
        return format!(r#"{{"collection":"{ORDERS}","key":"o{key}","op":"delete","id":"{id}"}}"#);
    }
    let text = "x".repeat((number % 97) as usize);
    format!(r#"{{"collection":"{ORDERS}","key":"o{key}","id":"{id}","data":{{"n":{number},"text":"{text}"}}}}"#)
}

/// Which numbers were handed out and how many were acknowledged.
#[derive(Default)]
pub struct Ledger {
    next: AtomicU64,
    acknowledged: AtomicU64,
}

impl Ledger {
    /// How many events there are so far, numbered from 0.
    pub fn events(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// How many of them were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    fn take(&self, count: u64) -> Range<u64> {
        let start = self.next.fetch_add(count, Ordering::AcqRel);
        start..start + count
    }
}

/// A way to publish.
#[derive(Clone)]
pub enum Way {
    /// `POST /v1/events` of the gateway on a port.
    Gateway(reqwest::Client, u16),
    /// Straight into the log, as `primalcore publish` does.
    Direct(Arc<Producer>),
}

impl Way {
    /// The same as [`Way::publish_once`], and says on standard error what is waited for when that takes long.
    #[expect(clippy::print_stderr, reason = "a test that waits tells why")]
    async fn publish(&self, text: &str) -> bool {
        let publishing = self.publish_once(text);
        tokio::pin!(publishing);
        loop {
            match tokio::time::timeout(LONG, &mut publishing).await {
                Ok(acknowledged) => return acknowledged,
                Err(_) => {
                    let way = if matches!(self, Way::Direct(_)) { "the log" } else { "the gateway" };
                    let first = text.lines().next().unwrap_or_default();
                    eprintln!(
                        "{way} has not answered for {} s to a batch that begins with {first:.80}",
                        LONG.as_secs()
                    );
                }
            }
        }
    }

    /// Publishes a text of lines once; whether it was acknowledged.
    async fn publish_once(&self, text: &str) -> bool {
        match self {
            Way::Gateway(client, port) => {
                let url = format!("http://127.0.0.1:{port}/v1/events");
                let request = client.post(url).header("content-type", "application/x-ndjson");
                let answer = request.body(text.to_owned()).send().await;
                answer.is_ok_and(|answer| answer.status().is_success())
            }
            Way::Direct(producer) => {
                let how = How { concurrency: 1, skip_bad: false };
                lines::publish(producer, text.as_bytes(), how, Arc::new(|_| {})).await.is_ok()
            }
        }
    }
}

/// How hard the load is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Events in a batch.
    pub batch: u64,
    /// Between a lane's batches.
    pub pause: Duration,
    /// Events of all lanes together; then they wait to be stopped.
    pub most: u64,
}

/// Lanes at work.
pub struct Load {
    lanes: JoinSet<()>,
    stop: CancellationToken,
    ledger: Arc<Ledger>,
    end: u64,
}

impl Load {
    /// Starts one lane for each way.
    pub fn start(ledger: &Arc<Ledger>, ways: impl IntoIterator<Item = Way>, pace: Pace) -> Self {
        let stop = CancellationToken::new();
        let end = ledger.events().saturating_add(pace.most);
        let mut lanes = JoinSet::new();
        for way in ways {
            lanes.spawn(lane(ledger.clone(), way, pace, end, stop.clone()));
        }
        Load { lanes, stop, ledger: ledger.clone(), end }
    }

    /// Whether all that it may publish was begun.
    pub fn is_spent(&self) -> bool {
        self.ledger.events() >= self.end
    }

    /// Begins no further batch, and waits until those under way are acknowledged.
    pub async fn finish(self) {
        self.stop.cancel();
        self.lanes.join_all().await;
    }
}

async fn lane(ledger: Arc<Ledger>, way: Way, pace: Pace, end: u64, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if ledger.events() >= end {
            stop.cancelled().await;
            return;
        }
        let numbers = ledger.take(pace.batch);
        let text: String = numbers.map(|number| line(number) + "\n").collect();
        while !way.publish(&text).await {
            tokio::time::sleep(AGAIN).await;
        }
        ledger.acknowledged.fetch_add(pace.batch, Ordering::AcqRel);
        stop.run_until_cancelled(tokio::time::sleep(pace.pause)).await;
    }
}

/// Publishes so many events in one go, each until it is acknowledged.
pub async fn publish(ledger: &Ledger, way: &Way, events: u64) {
    let text: String = ledger.take(events).map(|number| line(number) + "\n").collect();
    while !way.publish(&text).await {
        tokio::time::sleep(AGAIN).await;
    }
    ledger.acknowledged.fetch_add(events, Ordering::AcqRel);
}
