//! Appending: one idempotent producer, `acks=all`. The records of one call share one state that their delivery reports
//! fill in, so that a call costs one wait however many records it has.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use primal_core::error::{AppendError, LogError};
use primal_core::header::Headers;
use primal_core::log::Appended;
use primal_core::record::NewRecord;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, NoCustomPartitioner, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use crate::{Config, Quiet, failed};

/// How long to wait for room in the producer's queue before looking again.
const FULL: Duration = Duration::from_millis(1);

pub(crate) struct Appender {
    config: Arc<Config>,
    producer: ThreadedProducer<Context>,
}

/// The records of one call.
struct Call {
    slots: Mutex<(Vec<Option<Appended>>, Option<LogError>)>,
    left: AtomicUsize,
    done: Notify,
}

/// One record of a call.
struct Ticket {
    call: Arc<Call>,
    index: usize,
}

struct Context;

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Context {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        ticket.call.settle(
            ticket.index,
            match result {
                Ok(message) => Ok(Appended { partition: message.partition(), offset: message.offset() }),
                Err((error, _)) => Err(failed(None, error)),
            },
        );
    }
}

impl Call {
    fn settle(&self, index: usize, result: Result<Appended, LogError>) {
        {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(appended) => {
                    if let Some(slot) = slots.0.get_mut(index) {
                        *slot = Some(appended);
                    }
                }
                Err(error) => drop(slots.1.get_or_insert(error)),
            }
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }
}

impl Appender {
    pub(crate) fn new(config: Arc<Config>) -> Result<Self, LogError> {
        let mut client = config.client();
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // As Kafka's Java clients place keys.
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", "2")
            .set("message.max.bytes", "8388608")
            .set("batch.num.messages", "10000")
            .set("queue.buffering.max.kbytes", "65536")
            .set("message.timeout.ms", "60000");
        for (name, value) in &config.properties {
            client.set(name, value);
        }
        let producer = client.create_with_context(Context).map_err(|e| failed(None, &e))?;
        Ok(Appender { config, producer })
    }

    pub(crate) async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError> {
        let count = records.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let call = Arc::new(Call {
            slots: Mutex::new((vec![None; count], None)),
            left: AtomicUsize::new(count),
            done: Notify::new(),
        });
        let mut name = String::new();
        let mut topic = None;
        for (index, record) in records.iter().enumerate() {
            if topic != Some(&record.topic) {
                name = self.config.topic(&record.topic);
                topic = Some(&record.topic);
            }
            self.send(&name, record, Box::new(Ticket { call: call.clone(), index })).await;
        }
        call.done.notified().await;
        let mut slots = call.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let (appended, error) = (std::mem::take(&mut slots.0), slots.1.take());
        match error {
            None => Ok(appended.into_iter().flatten().collect()),
            Some(error) => {
                let unknown = records.first().map(|record| record.topic.clone());
                let error = match (error, unknown) {
                    (LogError::Unavailable(text), Some(topic)) if text.contains("UnknownTopic") => {
                        LogError::NoTopic(topic)
                    }
                    (error, _) => error,
                };
                Err(AppendError { appended, error })
            }
        }
    }

    async fn send(&self, topic: &str, record: &NewRecord, ticket: Box<Ticket>) {
        let (call, index) = (ticket.call.clone(), ticket.index);
        let mut next = BaseRecord::with_opaque_to(topic, ticket).headers(headers(&record.headers));
        next.key = record.key.as_deref();
        next.payload = record.value.as_deref();
        next.partition = record.partition;
        loop {
            match self.producer.send(next) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    next = again;
                    tokio::time::sleep(FULL).await;
                }
                Err((error, _)) => return call.settle(index, Err(failed(None, &error))),
            }
        }
    }
}

fn headers(block: &[u8]) -> OwnedHeaders {
    let headers = Headers::new(block);
    headers.fold(OwnedHeaders::new_with_capacity(8), |all, (key, value)| all.insert(Header { key, value }))
}
