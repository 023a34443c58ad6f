//! A config with its log open: what every command works with.

use std::collections::BTreeMap;
use std::sync::Arc;

use primal_audit::{Report, Scope, VerifyError, verify};
use primal_core::error::LogError;
use primal_core::lives::{self, LivesError};
use primal_core::log::EventLog;
use primal_core::nearest::hint;
use primal_core::sink::Build;
use primal_core::{Collection, Env, Epochs, SinkError};
use primal_log_embedded::EmbeddedLog;
use primal_producer::{Options, Producer, Published};
use primal_replay::{Board, Here, Replay};
use primal_runtime::{Feed, Job, Pace, Worker};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, LogConfig, SinkConfig};

/// The hub could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A name or a combination that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The log's.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A collection's epochs.
    #[error(transparent)]
    Lives(#[from] LivesError),
    /// A sink's.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The log is not as it was sealed.
    #[error("{0}")]
    Different(String),
}

impl HubError {
    /// Whether the same call may succeed later by itself: the log cannot be reached now.
    pub fn is_passing(&self) -> bool {
        match self {
            HubError::Log(error) | HubError::Lives(LivesError::Log(error)) => error.is_passing(),
            HubError::Usage(_) | HubError::Lives(_) | HubError::Sink(_) | HubError::Different(_) => false,
        }
    }
}

impl From<VerifyError> for HubError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Log(error) => HubError::Log(error),
            VerifyError::Sink(error) => HubError::Sink(error),
            VerifyError::Unreadable(_) => HubError::Usage(error.to_string()),
        }
    }
}

/// A config and its log.
pub struct Hub {
    /// The config.
    pub config: Config,
    /// The log, and its archive where there is one.
    pub log: Arc<dyn EventLog>,
    /// The log alone.
    #[cfg(feature = "archive")]
    pub(crate) alone: Arc<dyn EventLog>,
    #[cfg(feature = "archive")]
    pub(crate) archive: Option<primal_archive::Archive>,
    /// Clock and chance.
    pub env: Env,
    /// The lives of each collection, or why it cannot be used.
    pub lives: BTreeMap<Collection, Result<Arc<Epochs>, String>>,
}

impl Hub {
    /// Opens the log and makes the topics that are missing.
    ///
    /// # Errors
    /// The log's.
    pub async fn open(config: Config, env: Env) -> Result<Self, HubError> {
        let log: Arc<dyn EventLog> = match &config.log {
            LogConfig::Embedded(settings) => Arc::new(EmbeddedLog::open(settings.clone(), env.clone()).await?),
            #[cfg(feature = "kafka")]
            LogConfig::Kafka(settings) => Arc::new(primal_log_kafka::KafkaLog::new(settings.clone())?),
        };
        Hub::over(config, log, env).await
    }

    /// The same over a log that is open already.
    ///
    /// # Errors
    /// The log's.
    pub async fn over(config: Config, log: Arc<dyn EventLog>, env: Env) -> Result<Self, HubError> {
        let wanted: Vec<_> = config.collections.iter().map(|(name, c)| (name.clone(), c.partitions)).collect();
        let lives = lives::open(&*log, &wanted).await?;
        let lives = lives.into_iter().map(|(name, epochs)| (name, epochs.map(Arc::new).map_err(|e| e.to_string())));
        let lives = lives.collect();
        #[cfg(feature = "archive")]
        {
            let crate::archive::Joined { log, alone, archive } = crate::archive::Joined::new(&config, log, &lives)?;
            Ok(Hub { config, log, alone, archive, env, lives })
        }
        #[cfg(not(feature = "archive"))]
        Ok(Hub { config, log, env, lives })
    }

    /// What publishes to this hub's collections.
    pub fn producer(&self) -> Producer {
        let published = self.config.collections.iter().map(|(name, config)| Published {
            collection: name.clone(),
            epochs: self.epochs(name),
            schema: config.schema.clone(),
        });
        let mut options = Options { primal: self.config.primal, ..Options::default() };
        if let Some(gateway) = &self.config.gateway {
            options.max_event_bytes = gateway.max_event_bytes;
        }
        Producer::new(self.log.clone(), published.collect(), options, self.env.clone())
    }

    pub(crate) fn epochs(&self, collection: &Collection) -> Result<Arc<Epochs>, String> {
        let unknown = || Err(format!("collection {collection} is not in the log"));
        self.lives.get(collection).cloned().unwrap_or_else(unknown)
    }

    /// The sinks of the given names; all when none are given.
    ///
    /// # Errors
    /// A name is unknown.
    pub fn sinks(&self, names: &[String]) -> Result<Vec<&SinkConfig>, HubError> {
        if names.is_empty() {
            return Ok(self.config.sinks.iter().collect());
        }
        names.iter().map(|name| self.config.sink(name).map_err(HubError::Usage)).collect()
    }

    /// What a sink takes of a collection.
    ///
    /// # Errors
    /// The collection cannot be used as it is.
    pub fn feed(&self, sink: &SinkConfig, collection: &Collection) -> Result<Feed, HubError> {
        let epochs = self.epochs(collection).map_err(HubError::Usage)?;
        let config = self.config.collections.get(collection);
        let table = config.and_then(|config| config.table.clone());
        let mapping = config.and_then(|config| config.mapping(sink.projection)).unwrap_or_default();
        Ok(Feed { collection: collection.clone(), epochs, projection: sink.projection, table, mapping })
    }

    /// The feeds of a sink: of one collection, or of all that it takes.
    ///
    /// # Errors
    /// The sink does not take that collection, or one cannot be used as it is.
    pub fn feeds(&self, sink: &SinkConfig, collection: Option<&str>) -> Result<Vec<Feed>, HubError> {
        if let Some(wanted) = collection {
            let names = sink.collections.iter().map(Collection::as_str);
            let found = sink.collections.iter().find(|name| name.as_str() == wanted);
            let unknown =
                || HubError::Usage(format!("sink {} takes no collection {wanted:?}{}", sink.name, hint(wanted, names)));
            return Ok(vec![self.feed(sink, found.ok_or_else(unknown)?)?]);
        }
        sink.collections.iter().map(|collection| self.feed(sink, collection)).collect()
    }

    /// The name of this process in consumer groups: as configured, else the machine's.
    pub fn instance(&self) -> String {
        let from_machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = self.config.instance.clone().or_else(from_machine).unwrap_or_default();
        let plain: String = name.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        if plain.is_empty() { "hub".to_owned() } else { plain }
    }

    /// A worker of a sink.
    ///
    /// # Errors
    /// The log's, or a collection cannot be used as it is.
    pub async fn worker(&self, sink: &SinkConfig) -> Result<Worker, HubError> {
        let feeds = self.feeds(sink, None)?;
        let (store, log, env) = (sink.sink.clone(), self.log.clone(), self.env.clone());
        let instance = self.instance();
        Ok(Worker::new(&sink.name, &instance, sink.spec, store, log, feeds, sink.delivery.clone(), env).await?)
    }

    /// Replays into a sink at a pace until `cancel`.
    ///
    /// # Errors
    /// The log's.
    pub async fn replay(&self, sink: &SinkConfig, pace: Pace, cancel: CancellationToken) -> Result<Replay, HubError> {
        let (store, log, env) = (sink.sink.clone(), self.log.clone(), self.env.clone());
        let delivery = sink.delivery.clone();
        let (spec, name) = (sink.spec, &sink.name);
        let job = Job::new(name, spec, store.clone(), log.clone(), delivery, pace, env.clone(), cancel).await?;
        Ok(Replay::new(&sink.name, sink.spec, store, log, job, env))
    }

    /// The replays that run or ran, as the log has them.
    ///
    /// # Errors
    /// The log's.
    pub async fn replays(&self) -> Result<Board, HubError> {
        Ok(Board::open(self.log.clone(), self.env.clone(), Here::new(&self.instance())).await?)
    }

    /// Compares the live generation of one collection in a sink with the log.
    ///
    /// # Errors
    /// The store's or the log's.
    pub async fn verify(
        &self,
        sink: &SinkConfig,
        feed: &Feed,
        progress: impl FnMut(u64) + Send,
    ) -> Result<Report, HubError> {
        let builds = sink.sink.builds(&sink.name, &feed.collection).await?;
        let target = feed.target(&sink.name, Build::Live(builds.live));
        sink.sink.prepare(&target).await?;
        Ok(verify(&*sink.sink, &*self.log, &target, &feed.epochs, &Scope::default(), None, progress).await?)
    }
}
