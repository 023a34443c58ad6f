//! Topics and their extents. librdkafka's calls for these block, so each runs on a thread for blocking work.

use std::sync::Arc;
use std::time::Duration;

use primal_core::error::LogError;
use primal_core::log::{Extent, Retention, TopicSpec};
use primal_core::{Offset, Partition, Timestamp, Topic};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset as At, TopicPartitionList};

use crate::{Config, Quiet, failed};

pub(crate) const CALL: Duration = Duration::from_secs(10);
/// Between two looks at something that the brokers are about to do.
const SOON: Duration = Duration::from_millis(50);

pub(crate) struct Admin {
    config: Arc<Config>,
    admin: AdminClient<Quiet>,
    /// Asks for metadata and offsets; never consumes.
    consumer: Arc<BaseConsumer<Quiet>>,
}

impl Admin {
    pub(crate) fn new(config: Arc<Config>) -> Result<Self, LogError> {
        let client = config.client();
        let admin = client.create_with_context(Quiet).map_err(|e| failed(None, &e))?;
        let mut client = config.client();
        client.set("group.id", "primalcore.admin").set("allow.auto.create.topics", "false");
        let consumer: BaseConsumer<Quiet> = client.create_with_context(Quiet).map_err(|e| failed(None, &e))?;
        Ok(Admin { config, admin, consumer: Arc::new(consumer) })
    }

    pub(crate) async fn create(&self, topic: &Topic, spec: TopicSpec) -> Result<(), LogError> {
        if self.partitions(topic).await?.is_some() {
            return Ok(());
        }
        let name = self.config.topic(topic);
        let count = i32::try_from(spec.partitions.max(1)).unwrap_or(i32::MAX);
        let mut new = NewTopic::new(&name, count, TopicReplication::Fixed(-1))
            .set("message.timestamp.type", "LogAppendTime")
            .set("max.message.bytes", "8388608");
        new = match spec.compacted {
            // Kafka leaves the segment that is written to as it is: a small one, so that old rows go and reading all is short.
            true => new.set("cleanup.policy", "compact").set("segment.bytes", "16777216"),
            false => new.set("cleanup.policy", "delete").set("retention.ms", "-1").set("retention.bytes", "-1"),
        };
        let results = self.admin.create_topics([&new], &options()).await.map_err(|e| failed(Some(topic), &e))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(LogError::Unavailable(format!("topic {name} was not made: {code}"))),
            }
        }
        // A topic is known to all brokers, and has its leaders, only a moment after it was made.
        for _ in 0..100 {
            if self.extents(topic).await?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(SOON).await;
        }
        Err(LogError::Unavailable(format!("topic {name} was made, but the brokers do not show it yet")))
    }

    /// How many partitions a topic has; `None` when there is no such topic.
    pub(crate) async fn partitions(&self, topic: &Topic) -> Result<Option<i32>, LogError> {
        let name = self.config.topic(topic);
        let asked = self.blocking(move |consumer| {
            let metadata = consumer.fetch_metadata(Some(&name), CALL)?;
            let found = metadata.topics().iter().find(|topic| topic.name() == name);
            Ok(found.map(|topic| (topic.error(), topic.partitions().len() as i32)))
        });
        match asked.await.map_err(|e| failed(Some(topic), &e))? {
            None | Some((Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART), _)) => Ok(None),
            Some((None, 0)) => Ok(None),
            Some((None, count)) => Ok(Some(count)),
            Some((Some(error), _)) => {
                Err(LogError::Unavailable(format!("topic {topic}: {}", RDKafkaErrorCode::from(error))))
            }
        }
    }

    pub(crate) async fn extents(&self, topic: &Topic) -> Result<Option<Vec<Extent>>, LogError> {
        let mut tries = 0;
        loop {
            let Some(count) = self.partitions(topic).await? else { return Ok(None) };
            let name = self.config.topic(topic);
            let asked = self.blocking(move |consumer| {
                let starts = offsets(consumer, &name, vec![At::Beginning; count as usize])?;
                let ends = offsets(consumer, &name, vec![At::End; count as usize])?;
                Ok(starts.into_iter().zip(ends))
            });
            match asked.await {
                Ok(found) => {
                    let extent =
                        |(start, end): (Option<Offset>, Option<Offset>)| Some(Extent { start: start?, end: end? });
                    let unanswered = || LogError::Unavailable(format!("the brokers did not say how long {topic} is"));
                    return found.map(extent).collect::<Option<Vec<_>>>().ok_or_else(unanswered).map(Some);
                }
                Err(error) if is_settling(&error) && tries < 100 => tries += 1,
                Err(error) => return Err(failed(Some(topic), &error)),
            }
            tokio::time::sleep(SOON).await;
        }
    }

    pub(crate) async fn offsets_at(&self, topic: &Topic, at: Timestamp) -> Result<Vec<Offset>, LogError> {
        let extents = self.extents(topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        let (name, count) = (self.config.topic(topic), extents.len());
        // Kafka counts milliseconds: the first that is not before `at`.
        let millis = at.0.saturating_add(999).div_euclid(1000).max(0);
        let asked = self.blocking(move |consumer| offsets(consumer, &name, vec![At::Offset(millis); count]));
        let found = asked.await.map_err(|e| failed(Some(topic), &e))?;
        Ok(found.into_iter().zip(&extents).map(|(offset, extent)| offset.unwrap_or(extent.end)).collect())
    }

    /// How long the topic's settings keep its records; a negative number means for ever.
    pub(crate) async fn retention(&self, topic: &Topic) -> Result<Retention, LogError> {
        let name = self.config.topic(topic);
        let asked = [ResourceSpecifier::Topic(&name)];
        let told = self.admin.describe_configs(&asked, &options()).await.map_err(|e| failed(Some(topic), &e))?.pop();
        let settings = match told {
            Some(Ok(settings)) => settings,
            Some(Err(code)) => return Err(LogError::Unavailable(format!("topic {name} was not described: {code}"))),
            None => return Ok(Retention::default()),
        };
        let setting = |name| settings.get(name).and_then(|entry| entry.value.as_deref());
        if setting("cleanup.policy").is_some_and(|policy| !policy.contains("delete")) {
            return Ok(Retention::default());
        }
        let number = |name| setting(name).and_then(|value| value.parse::<u64>().ok());
        Ok(Retention { time: number("retention.ms").map(Duration::from_millis), bytes: number("retention.bytes") })
    }

    /// Has the brokers drop what lies before an offset; the first one that is left.
    pub(crate) async fn truncate(
        &self,
        topic: &Topic,
        partition: Partition,
        before: Offset,
    ) -> Result<Offset, LogError> {
        let name = self.config.topic(topic);
        let mut cut = TopicPartitionList::new();
        cut.add_partition_offset(&name, partition, At::Offset(before)).map_err(|e| failed(Some(topic), &e))?;
        let done = self.admin.delete_records(&cut, &options()).await.map_err(|e| failed(Some(topic), &e))?;
        let Some(entry) = done.find_partition(&name, partition) else { return Ok(before) };
        entry.error().map_err(|e| failed(Some(topic), &e))?;
        match entry.offset() {
            At::Offset(start) => Ok(start),
            _ => Ok(before),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&BaseConsumer<Quiet>) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let consumer = self.consumer.clone();
        match tokio::task::spawn_blocking(move || call(&consumer)).await {
            Ok(result) => result,
            Err(_) => Err(KafkaError::Canceled),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(CALL)).request_timeout(Some(CALL))
}

/// One request to each broker, however many partitions there are: for partition 0, 1, … the first offset at or after a
/// time (`Offset` of so many milliseconds), or its beginning or end. `None` where there is nothing.
fn offsets(consumer: &BaseConsumer<Quiet>, topic: &str, at: Vec<At>) -> Result<Vec<Option<Offset>>, KafkaError> {
    let mut wanted = TopicPartitionList::with_capacity(at.len());
    for (partition, at) in (0..).zip(&at) {
        wanted.add_partition_offset(topic, partition, *at)?;
    }
    let found = consumer.offsets_for_times(wanted, CALL)?;
    let offset = |partition| match found.find_partition(topic, partition) {
        Some(entry) => {
            entry.error()?;
            Ok(match entry.offset() {
                At::Offset(offset) => Some(offset),
                _ => None,
            })
        }
        None => Ok(None),
    };
    (0..).take(at.len()).map(offset).collect()
}

/// Whether a partition is just getting its leader: after its topic was made, or a broker went or came.
fn is_settling(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::OffsetNotAvailable
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}
