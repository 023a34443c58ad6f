//! Membership in a consumer group. One consumer only holds the place in the group: it is assigned partitions, paused, and
//! fetches nothing. Reading is done by a second one, which can begin anywhere and anew at any time; so what a rebalance
//! takes away is given up only after its worker has finished, without the group's callbacks ever waiting for a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use primal_core::error::LogError;
use primal_core::log::{Change, Member, PartitionReader, Subscription, TopicPartition};
use primal_core::{Collection, Offset, Topic};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset as At, TopicPartitionList};
use tokio::sync::mpsc;

use crate::admin::Admin;
use crate::reader::Source;
use crate::{Config, failed};

/// How often the membership consumer is polled for changes.
const POLL: Duration = Duration::from_millis(100);

struct Membership {
    prefix: String,
    changes: mpsc::UnboundedSender<Result<Change, LogError>>,
}

impl ClientContext for Membership {
    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::FencedInstanceId) = error.rdkafka_error_code() {
            let taken = format!("this worker's place in its group was taken: {reason}");
            let _ = self.changes.send(Err(LogError::Taken(taken)));
        } else {
            tracing::debug!(%error, reason, "kafka");
        }
    }
}

impl ConsumerContext for Membership {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let places = self.places(list);
        let change = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let mut paused = list.clone();
                let _ = paused.set_all_offsets(At::End);
                let taken = consumer.incremental_assign(&paused).and_then(|()| consumer.pause(&paused));
                match taken {
                    Ok(()) => Ok(Change::Assigned(places)),
                    Err(error) => Err(failed(None, &error)),
                }
            }
            _ if consumer.assignment_lost() => Ok(Change::Lost(places)),
            _ => Ok(Change::Revoked(places)),
        };
        let revoked = matches!(change, Ok(Change::Revoked(_) | Change::Lost(_)));
        let heard = !list.elements().is_empty() && self.changes.send(change).is_ok();
        // When the worker has left, nobody will release what is taken away.
        if revoked && !heard {
            let _ = consumer.incremental_unassign(list);
        }
    }
}

impl Membership {
    fn places(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        list.elements()
            .iter()
            .filter_map(|entry| {
                let name = entry.topic().strip_prefix(&self.prefix)?;
                Some(TopicPartition { topic: Collection::new(name).ok()?.topic(), partition: entry.partition() })
            })
            .collect()
    }
}

struct Group {
    /// Dropped first, so that a consumer that closes finds nobody to wait for.
    changes: mpsc::UnboundedReceiver<Result<Change, LogError>>,
    config: Arc<Config>,
    admin: Arc<Admin>,
    consumer: Arc<BaseConsumer<Membership>>,
    source: Source,
    leaving: Arc<AtomicBool>,
}

pub(crate) fn join(
    config: &Arc<Config>,
    admin: &Arc<Admin>,
    source: Source,
    member: &Member,
    topics: &[Topic],
) -> Result<Box<dyn Subscription>, LogError> {
    let (sender, changes) = mpsc::unbounded_channel();
    let mut client = config.client();
    client
        .set("group.id", format!("{}{}", config.topic_prefix, member.group))
        .set("group.instance.id", &member.instance)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", config.session_timeout_ms.to_string())
        // This consumer is polled by a thread of its own. What the interval decides is how long a group waits in a
        // rebalance for a member that is gone: by default five minutes, here not much longer than for its silence.
        .set("max.poll.interval.ms", config.session_timeout_ms.saturating_mul(2).to_string())
        .set("heartbeat.interval.ms", (config.session_timeout_ms / 10).clamp(500, 3_000).to_string())
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false")
        .set("topic.metadata.refresh.interval.ms", "30000");
    for (name, value) in &config.properties {
        client.set(name, value);
    }
    let context = Membership { prefix: config.topic_prefix.clone(), changes: sender };
    let consumer: BaseConsumer<Membership> = client.create_with_context(context).map_err(|e| failed(None, &e))?;
    let names: Vec<String> = topics.iter().map(|topic| config.topic(topic)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    consumer.subscribe(&names).map_err(|e| failed(None, &e))?;
    let consumer = Arc::new(consumer);
    let leaving = Arc::new(AtomicBool::new(false));
    poll(consumer.clone(), source.clone(), leaving.clone())?;
    Ok(Box::new(Group { config: config.clone(), admin: admin.clone(), consumer, source, changes, leaving }))
}

/// Polls on a thread of its own: a member whose store stalls stays a member.
fn poll(consumer: Arc<BaseConsumer<Membership>>, source: Source, leaving: Arc<AtomicBool>) -> Result<(), LogError> {
    let run = move || {
        while !leaving.load(Ordering::Acquire) {
            source.listen();
            if let Some(Err(error)) = consumer.poll(POLL) {
                tracing::debug!(%error, "kafka");
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::FencedInstanceId) {
                    let _ = consumer.context().changes.send(Err(failed(None, &error)));
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("kafka-group".to_owned()).spawn(run);
    thread.map(|_| ()).map_err(|e| LogError::Internal(format!("no thread for the group: {e}")))
}

impl Group {
    fn list(&self, places: &[TopicPartition]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(places.len());
        for place in places {
            list.add_partition(&self.config.topic(&place.topic), place.partition);
        }
        list
    }
}

#[async_trait]
impl Subscription for Group {
    async fn next(&mut self) -> Result<Change, LogError> {
        match self.changes.recv().await {
            Some(change) => change,
            None => Err(LogError::Internal("the group's thread ended".to_owned())),
        }
    }

    async fn start(&mut self, at: &[(TopicPartition, Offset)]) -> Result<Vec<Box<dyn PartitionReader>>, LogError> {
        let open = |(place, offset): &(TopicPartition, Offset)| {
            let range = *offset..Offset::MAX;
            let reader = self.source.open(&self.config, &self.admin, &place.topic, place.partition, range, None)?;
            Ok(Box::new(reader) as Box<dyn PartitionReader>)
        };
        at.iter().map(open).collect()
    }

    async fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.consumer.incremental_unassign(&self.list(partitions)).map_err(|e| failed(None, &e))
    }

    async fn commit(&mut self, at: &[(TopicPartition, Offset)]) -> Result<(), LogError> {
        if at.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(at.len());
        for (place, offset) in at {
            let name = self.config.topic(&place.topic);
            list.add_partition_offset(&name, place.partition, At::Offset(*offset)).map_err(|e| failed(None, &e))?;
        }
        self.consumer.commit(&list, CommitMode::Async).map_err(|e| failed(None, &e))
    }

    async fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        let (consumer, list) = (self.consumer.clone(), self.list(partitions));
        let asked = tokio::task::spawn_blocking(move || consumer.committed_offsets(list, Duration::from_secs(10)));
        let found = asked.await.map_err(|e| LogError::Internal(e.to_string()))?.map_err(|e| failed(None, &e))?;
        let offset = |place: &TopicPartition| match found
            .find_partition(&self.config.topic(&place.topic), place.partition)
            .map(|entry| entry.offset())
        {
            Some(At::Offset(offset)) => Some(offset),
            _ => None,
        };
        Ok(partitions.iter().map(offset).collect())
    }

    async fn close(self: Box<Self>) {}
}

impl Drop for Group {
    /// The thread ends, and with the last handle the consumer closes. A static member does not leave its group by that:
    /// it has its partitions back when it restarts within the session.
    fn drop(&mut self) {
        self.leaving.store(true, Ordering::Release);
    }
}
