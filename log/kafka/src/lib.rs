//! The log on Apache Kafka. Topics as Kafka has them, records in CloudEvents' binary mode, consumer groups with static
//! members; the only crate that names rdkafka.

mod admin;
mod append;
mod group;
mod reader;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use primal_core::error::{AppendError, LogError};
use primal_core::log::{Appended, EventLog, Extent, Member, PartitionReader, Retention, Subscription, TopicSpec};
use primal_core::record::NewRecord;
use primal_core::{Offset, Partition, Timestamp, Topic};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Deserialize;

use crate::admin::Admin;
use crate::append::Appender;

/// Where the brokers are, and how topics are named.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `host:port`, several with commas.
    pub bootstrap: String,
    /// Put before the name of every topic and group.
    #[serde(default)]
    pub topic_prefix: String,
    /// How long a worker may be silent before its partitions go to others, in milliseconds.
    #[serde(default = "session")]
    pub session_timeout_ms: u32,
    /// Further properties of librdkafka, for what is not named here.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

fn session() -> u32 {
    45_000
}

impl Config {
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", "primalcore")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000")
            // Broker errors come back with every call; librdkafka's own lines on stderr would only repeat them.
            .set("log_level", "3")
            .set_log_level(RDKafkaLogLevel::Error);
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    fn topic(&self, topic: &Topic) -> String {
        format!("{}{topic}", self.topic_prefix)
    }
}

/// What goes wrong comes back with a call and is told by whoever made it; and that a partition has no more for now, which
/// librdkafka reports as an error too, is none.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka");
    }
}

impl ConsumerContext for Quiet {}

/// The log on Kafka. Clones share their clients.
#[derive(Clone)]
pub struct KafkaLog {
    config: Arc<Config>,
    admin: Arc<Admin>,
    appender: Arc<Appender>,
    idle: Arc<reader::Idle>,
}

impl KafkaLog {
    /// Makes the clients. No network: they connect when they are first used.
    ///
    /// # Errors
    /// A property that librdkafka does not take.
    pub fn new(config: Config) -> Result<Self, LogError> {
        let config = Arc::new(config);
        Ok(KafkaLog {
            admin: Arc::new(Admin::new(config.clone())?),
            appender: Arc::new(Appender::new(config.clone())?),
            idle: Arc::default(),
            config,
        })
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    async fn create(&self, topic: &Topic, spec: TopicSpec) -> Result<(), LogError> {
        self.admin.create(topic, spec).await
    }

    async fn extents(&self, topic: &Topic) -> Result<Option<Vec<Extent>>, LogError> {
        self.admin.extents(topic).await
    }

    async fn retention(&self, topic: &Topic) -> Result<Retention, LogError> {
        self.admin.retention(topic).await
    }

    async fn truncate(&self, topic: &Topic, partition: Partition, before: Offset) -> Result<Offset, LogError> {
        self.admin.truncate(topic, partition, before).await
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError> {
        self.appender.append(records).await
    }

    async fn offsets_at(&self, topic: &Topic, at: Timestamp) -> Result<Vec<Offset>, LogError> {
        self.admin.offsets_at(topic, at).await
    }

    async fn subscribe(&self, member: &Member, topics: &[Topic]) -> Result<Box<dyn Subscription>, LogError> {
        let source = reader::Source::new(&self.config, &member.group)?;
        for topic in topics {
            source.meet(self.config.topic(topic)).await?;
            self.admin.partitions(topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        }
        group::join(&self.config, &self.admin, source, member, topics)
    }

    async fn read(
        &self,
        topic: &Topic,
        partition: Partition,
        range: Range<Offset>,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        let extents = self.admin.extents(topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        let Some(extent) = extents.get(partition as usize).copied() else {
            return Err(LogError::Internal(format!("{topic} has no partition {partition}")));
        };
        if !(extent.start..=extent.end).contains(&range.start) {
            return Err(out_of_range(topic, partition, range.start, extent));
        }
        let source = match self.idle.take() {
            Some(source) => source,
            None => reader::Source::new(&self.config, "read")?,
        };
        source.meet(self.config.topic(topic)).await?;
        let reader = source.open(&self.config, &self.admin, topic, partition, range, Some(extent.end))?;
        Ok(Box::new(reader.kept_by(self.idle.clone())))
    }
}

fn out_of_range(topic: &Topic, partition: Partition, wanted: Offset, extent: Extent) -> LogError {
    LogError::OutOfRange { topic: topic.clone(), partition, wanted, start: extent.start, end: extent.end }
}

/// What a driver's error means.
fn failed(topic: Option<&Topic>, error: &KafkaError) -> LogError {
    let code = error.rdkafka_error_code();
    match (code, topic) {
        (Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic), Some(topic)) => {
            LogError::NoTopic(topic.clone())
        }
        (Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize), _) => {
            LogError::Refused(error.to_string())
        }
        (Some(RDKafkaErrorCode::FencedInstanceId), _) => {
            LogError::Taken("another worker of this sink with the same instance name is running".to_owned())
        }
        _ if matches!(error, KafkaError::ClientConfig(..)) => LogError::Internal(error.to_string()),
        _ => LogError::Unavailable(error.to_string()),
    }
}
