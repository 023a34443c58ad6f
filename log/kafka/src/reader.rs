//! Reading one partition. A consumer without a group's assignment is given partitions one by one, each with a queue of its
//! own, so that a partition whose store is slow holds back only itself: librdkafka stops fetching for a full queue.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use primal_core::error::LogError;
use primal_core::log::{Limits, PartitionReader};
use primal_core::{Offset, Partition, Records, Timestamp, Topic, header};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset as At, TopicPartitionList};
use tokio::sync::Notify;

use crate::admin::{Admin, CALL};
use crate::{Config, Quiet, failed, out_of_range};

/// A consumer that partitions can be added to and taken from.
#[derive(Clone)]
pub(crate) struct Source {
    consumer: Arc<BaseConsumer<Quiet>>,
}

/// Sources that read nothing now. Ending one takes librdkafka a tenth of a second, and making one a few connections.
#[derive(Default)]
pub(crate) struct Idle(Mutex<Vec<Source>>);

/// How many are kept.
const MOST_IDLE: usize = 2;

impl Idle {
    pub(crate) fn take(&self) -> Option<Source> {
        self.sources().pop()
    }

    fn keep(&self, source: Source) {
        let mut sources = self.sources();
        if sources.len() < MOST_IDLE {
            sources.push(source);
        } else {
            drop(sources);
            std::thread::spawn(move || drop(source));
        }
    }

    fn sources(&self) -> MutexGuard<'_, Vec<Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    pub(crate) fn new(config: &Config, purpose: &str) -> Result<Self, LogError> {
        let mut client = config.client();
        client
            // librdkafka wants a group's name even where none is joined; nothing is ever committed under it.
            .set("group.id", format!("{}primalcore.{purpose}", config.topic_prefix))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            // Otherwise what was changed on the broker's disk is an event like any other.
            .set("check.crcs", "true")
            .set("allow.auto.create.topics", "false")
            .set("fetch.wait.max.ms", "100")
            // A fetch is decompressed as a whole, beside what is queued already: small ones keep memory low.
            .set("fetch.message.max.bytes", "262144")
            // Per partition, since each has a queue of its own.
            .set("queued.max.messages.kbytes", "1024")
            // A full queue is looked at again this soon; by default a fast reader would wait a second each time.
            .set("fetch.queue.backoff.ms", "2")
            .set("max.poll.interval.ms", "86400000");
        for (name, value) in &config.properties {
            client.set(name, value);
        }
        let consumer: BaseConsumer<Quiet> = client.create_with_context(Quiet).map_err(|e| failed(None, &e))?;
        Ok(Source { consumer: Arc::new(consumer) })
    }

    /// Connects, and learns who leads a topic. A partition that is assigned before that is looked at again only with
    /// librdkafka's next scan, up to a second later.
    pub(crate) async fn meet(&self, topic: String) -> Result<(), LogError> {
        let consumer = self.consumer.clone();
        let asked = tokio::task::spawn_blocking(move || consumer.fetch_metadata(Some(&topic), CALL).map(|_| ())).await;
        asked.map_err(|e| LogError::Internal(e.to_string()))?.map_err(|e| failed(None, &e))
    }

    /// Takes what librdkafka says beside the partitions' queues, such as that no broker is there; it would pile up.
    pub(crate) fn listen(&self) {
        while let Some(said) = self.consumer.poll(Duration::ZERO) {
            if let Err(error) = said {
                tracing::debug!(%error, "kafka");
            }
        }
    }

    /// Begins reading a partition that is not being read through this source. `known_end` is where the log ended a
    /// moment ago: whatever lies before it and is not delivered by then is no record.
    pub(crate) fn open(
        &self,
        config: &Config,
        admin: &Arc<Admin>,
        topic: &Topic,
        partition: Partition,
        range: Range<Offset>,
        known_end: Option<Offset>,
    ) -> Result<Reader, LogError> {
        let name = config.topic(topic);
        // Split before assigning: librdkafka then never forwards this partition to the consumer's main queue.
        let mut queue = self
            .consumer
            .split_partition_queue(&name, partition)
            .ok_or_else(|| LogError::Internal(format!("{name}/{partition} has no queue")))?;
        let ready = Arc::new(Notify::new());
        let bell = ready.clone();
        queue.set_nonempty_callback(move || bell.notify_one());
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&name, partition, At::Offset(range.start)).map_err(|e| failed(Some(topic), &e))?;
        self.consumer.incremental_assign(&list).map_err(|e| failed(Some(topic), &e))?;
        Ok(Reader {
            queue: Some(queue),
            idle: None,
            source: self.clone(),
            list,
            ready,
            admin: admin.clone(),
            topic: topic.clone(),
            partition,
            next: range.start,
            end: range.end,
            known_end,
            failure: None,
        })
    }
}

pub(crate) struct Reader {
    /// Until it is dropped.
    queue: Option<PartitionQueue<Quiet>>,
    source: Source,
    /// Where the source goes afterwards, if nothing else is read through it.
    idle: Option<Arc<Idle>>,
    list: TopicPartitionList,
    ready: Arc<Notify>,
    admin: Arc<Admin>,
    topic: Topic,
    partition: Partition,
    next: Offset,
    end: Offset,
    known_end: Option<Offset>,
    /// An error that came behind records: librdkafka tells it once.
    failure: Option<KafkaError>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Before anybody else may open the same partition: it would take the bell of the next reader with it.
        self.queue = None;
        if let Err(error) = self.source.consumer.incremental_unassign(&self.list) {
            tracing::debug!(topic = %self.topic, self.partition, %error, "a reader was not unassigned");
        } else if let Some(idle) = self.idle.take() {
            idle.keep(self.source.clone());
        }
    }
}

/// What a pass over the queue ended with.
enum Pass {
    /// The limits or the end of the range.
    Full,
    /// Nothing more for now.
    Empty,
}

impl Reader {
    /// Gives the source, which nobody else reads through, to these afterwards.
    pub(crate) fn kept_by(mut self, idle: Arc<Idle>) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Takes what is in the queue. Nothing in here waits, so nothing can be half taken.
    fn drain(&mut self, into: &mut Records, limits: Limits) -> Result<Pass, KafkaError> {
        let Some(queue) = &self.queue else { return Ok(Pass::Full) };
        while !limits.reached(into) && self.next < self.end {
            match queue.poll(Duration::ZERO) {
                None => return Ok(Pass::Empty),
                Some(Ok(message)) => {
                    let offset = message.offset();
                    if offset >= self.end {
                        self.next = self.end;
                    } else if offset >= self.next {
                        push(into, &message);
                        self.next = offset + 1;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    if let Some(end) = self.known_end {
                        self.next = self.next.max(end.min(self.end));
                        into.advance_to(self.next);
                    }
                }
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(Pass::Full)
    }

    async fn explained(&self, error: KafkaError) -> LogError {
        use RDKafkaErrorCode::{AutoOffsetReset, BadCompression, BadMessage, OffsetOutOfRange};
        let Reader { topic, partition, next, .. } = self;
        let damaged =
            || LogError::Damaged(format!("the batch at offset {next} of {topic}/{partition} is unreadable: {error}"));
        let code = error.rdkafka_error_code();
        if matches!(code, Some(BadMessage | BadCompression)) {
            return damaged();
        }
        if matches!(code, Some(AutoOffsetReset | OffsetOutOfRange))
            && let Ok(Some(extents)) = self.admin.extents(topic).await
            && let Some(extent) = extents.get(*partition as usize)
        {
            // Where a fetch brings nothing but a damaged batch, librdkafka loses its place.
            return match (extent.start..extent.end).contains(next) {
                true => damaged(),
                false => out_of_range(topic, *partition, *next, *extent),
            };
        }
        failed(Some(topic), &error)
    }
}

#[async_trait]
impl PartitionReader for Reader {
    async fn fetch(&mut self, into: &mut Records, limits: Limits) -> Result<bool, LogError> {
        let had = into.len();
        loop {
            if let Some(error) = self.failure.take() {
                return Err(self.explained(error).await);
            }
            let pass = match self.drain(into, limits) {
                Ok(pass) => pass,
                // What was read before the error is delivered first.
                Err(error) if into.len() > had => {
                    self.failure = Some(error);
                    return Ok(true);
                }
                Err(error) => return Err(self.explained(error).await),
            };
            if into.len() > had {
                return Ok(true);
            }
            match pass {
                Pass::Full => return Ok(false),
                Pass::Empty => self.ready.notified().await,
            }
        }
    }
}

fn push(into: &mut Records, message: &BorrowedMessage<'_>) {
    let recorded = Timestamp::from_millis(message.timestamp().to_millis().unwrap_or(0));
    into.push(message.offset(), recorded, message.key(), message.payload(), |block| {
        for header in message.headers().into_iter().flat_map(Headers::iter) {
            header::push(block, header.key, header.value);
        }
    });
}
