//! A worker: one sink, one consumer group. It holds the place in the group, gives each assigned partition a task, drains
//! the tasks of partitions that are taken away, and tells the log once a second how things are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use primal_core::error::LogError;
use primal_core::log::{Change, EventLog, Limits, Member, Subscription, TopicPartition};
use primal_core::sink::{Build, Class, Target};
use primal_core::{Collection, Env, Epochs, Mapping, Projection, Retry, Sink, SinkSpec, Table};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::breaker::Breaker;
use crate::deliver::{Shared, collection_of};
use crate::options::Options;
use crate::pace::{Gate, Pace};
use crate::parked::Parked;
use crate::partition::{PartitionTask, Start};
use crate::receipting::Receipts;
use crate::status::{State, Status};

/// How long partitions may take to finish what they have begun when they are taken away or the worker ends.
const DRAIN: Duration = Duration::from_secs(4);
/// How often the group's offsets, the parked keys and the heartbeat are brought up to date.
const TICK: Duration = Duration::from_secs(1);
/// A place in the group that is taken once may have been taken by ourselves: a member that was silent for too long and comes
/// back is another one to the broker. Taken again within this time, it is another process with our name.
const TAKEN_AGAIN: Duration = Duration::from_secs(120);
/// Every so many ticks the heartbeat is written even if nothing changed.
const ALIVE_TICKS: u64 = 10;

/// One collection that a sink takes.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The collection.
    pub collection: Collection,
    /// Its lives.
    pub epochs: Arc<Epochs>,
    /// How it appears in the sink.
    pub projection: Projection,
    /// The columns of its schema, if that gives any.
    pub table: Option<Arc<Table>>,
    /// How its payloads are read.
    pub mapping: Arc<Mapping>,
}

impl Feed {
    /// The target of this feed in a sink.
    pub fn target(&self, sink: &str, build: Build) -> Target {
        Target {
            sink: sink.into(),
            collection: self.collection.clone(),
            build,
            projection: self.projection,
            table: self.table.clone(),
            mapping: self.mapping.clone(),
        }
    }
}

/// Why a worker stopped.
#[derive(Debug, thiserror::Error)]
#[error("sink {sink} stopped: {reason}")]
pub struct WorkerError {
    /// The sink's name.
    pub sink: String,
    /// What somebody has to see to.
    pub reason: String,
}

/// Delivers collections to one sink.
pub struct Worker {
    shared: Arc<Shared>,
    feeds: BTreeMap<Collection, Feed>,
    member: Member,
}

type Tasks = BTreeMap<TopicPartition, (CancellationToken, JoinHandle<()>)>;

/// Why a place in the group was given up before the end.
enum Left {
    /// The log failed.
    Log(LogError),
    /// A partition says that the sink has to stop.
    Failed(String),
}

impl From<LogError> for Left {
    fn from(error: LogError) -> Self {
        Left::Log(error)
    }
}

impl Worker {
    /// Reads from the log which keys are parked. The store is not touched yet.
    ///
    /// # Errors
    /// The log's.
    #[expect(clippy::too_many_arguments, reason = "each is a part that a test replaces")]
    pub async fn new(
        name: &str,
        instance: &str,
        spec: &SinkSpec,
        sink: Arc<dyn Sink>,
        log: Arc<dyn EventLog>,
        feeds: Vec<Feed>,
        options: Options,
        env: Env,
    ) -> Result<Self, LogError> {
        let parked = Parked::load(&*log, name).await?;
        let dead_letters = primal_core::Topic::dead_letters(name);
        log.create(&dead_letters, primal_core::log::TopicSpec { partitions: 1, compacted: false }).await?;
        let shared = Shared {
            name: name.to_owned(),
            receipts: Receipts::new(name, instance, &log, &env, options.receipts),
            sink,
            capability: spec.capability,
            log,
            options,
            parks: true,
            breaker: Breaker::new(env.clone()),
            gate: Gate::new(Pace::default()),
            env,
            parked,
            status: Status::new(name, instance),
        };
        let feeds = feeds.into_iter().map(|feed| (feed.collection.clone(), feed)).collect();
        let member = Member { group: group(name, &feeds), instance: format!("{name}.{instance}") };
        Ok(Worker { shared: Arc::new(shared), feeds, member })
    }

    /// Works until `shutdown`, then finishes what has begun.
    ///
    /// # Errors
    /// A reason that does not pass by itself. The position is where the store says.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WorkerError> {
        let result = self.work(&shutdown).await;
        match &result {
            Ok(()) => self.shared.status.set(State::Stopped, None),
            Err(reason) => {
                tracing::error!(sink = self.shared.name, reason, "stopped");
                self.shared.status.set(State::Failed, Some(reason.clone()));
            }
        }
        self.shared.receipts.close().await;
        self.shared.status.publish(&*self.shared.log, self.shared.env.now(), true).await;
        self.shared.sink.close().await;
        result.map_err(|reason| WorkerError { sink: self.shared.name.clone(), reason })
    }

    async fn work(&self, shutdown: &CancellationToken) -> Result<(), String> {
        for (collection, feed) in &self.feeds {
            let count = self.shared.parked.count(collection);
            self.shared.status.parked(&feed.collection, count);
        }
        let mut taken: Option<Instant> = None;
        loop {
            // The store first: a worker that cannot write must not take partitions away from one that can.
            if shutdown.run_until_cancelled(self.connect()).await.transpose()?.is_none() {
                return Ok(());
            }
            let error = match self.join(shutdown).await {
                Ok(()) => return Ok(()),
                Err(Left::Log(error)) if error.is_passing() => error,
                Err(Left::Log(error @ LogError::Taken(_))) if taken.is_none_or(|at| at.elapsed() > TAKEN_AGAIN) => {
                    taken = Some(Instant::now());
                    error
                }
                Err(Left::Log(error)) => return Err(error.to_string()),
                Err(Left::Failed(reason)) => return Err(reason),
            };
            let pause = self.shared.log_failed(&error);
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Takes a place in the group and works there until `shutdown` or an error.
    async fn join(&self, shutdown: &CancellationToken) -> Result<(), Left> {
        let topics: Vec<_> = self.feeds.keys().map(Collection::topic).collect();
        let mut subscription = self.shared.log.subscribe(&self.member, &topics).await?;
        let mut tasks = Tasks::new();
        let result = self.serve(&mut *subscription, &mut tasks, shutdown).await;
        let all: Vec<_> = tasks.keys().cloned().collect();
        self.drain(&mut tasks, &all).await;
        let _ = subscription.commit(&self.shared.status.take_offsets()).await;
        subscription.close().await;
        result
    }

    /// Waits until the store can be used.
    async fn connect(&self) -> Result<(), String> {
        loop {
            let permit = self.shared.breaker.permit().await;
            match self.shared.sink.check().await {
                Ok(health) => {
                    permit.answered();
                    tracing::info!(sink = self.shared.name, version = health.version, "connected");
                    return Ok(());
                }
                Err(error) if error.retry == Retry::No => {
                    permit.answered();
                    return Err(error.to_string());
                }
                Err(error) => self.shared.pause(permit, error.retry, &error.to_string()),
            }
            self.shared.status.publish(&*self.shared.log, self.shared.env.now(), false).await;
        }
    }

    async fn serve(
        &self,
        subscription: &mut dyn Subscription,
        tasks: &mut Tasks,
        shutdown: &CancellationToken,
    ) -> Result<(), Left> {
        let (starts, mut requests) = mpsc::channel::<Start>(16);
        let (failed, mut failures) = mpsc::channel::<String>(1);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0u64;
        loop {
            tokio::select! {
                // In this order, so that equal runs are equal: what ends things first, then who owns what.
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(reason) = failures.recv() => return Err(Left::Failed(reason)),
                change = subscription.next() => match change? {
                    Change::Assigned(places) => {
                        tracing::info!(sink = self.shared.name, partitions = places.len(), "assigned");
                        self.assign(&places, tasks, &starts, &failed);
                    }
                    Change::Revoked(places) | Change::Lost(places) => {
                        tracing::info!(sink = self.shared.name, partitions = places.len(), "given up");
                        self.drain(tasks, &places).await;
                        let _ = subscription.commit(&self.shared.status.take_offsets()).await;
                        subscription.release(&places).await?;
                    }
                },
                Some(Start { place, at, reply }) = requests.recv() => {
                    let started = subscription.start(&[(place, at)]).await.and_then(|mut readers| {
                        readers.pop().ok_or_else(|| LogError::Internal("the log gave no reader".to_owned()))
                    });
                    // A task that was cancelled meanwhile does not wait for the answer any more.
                    let _ = reply.send(started);
                }
                _ = tick.tick() => {
                    ticks += 1;
                    self.tick(subscription, ticks.is_multiple_of(ALIVE_TICKS)).await;
                }
            }
        }
    }

    async fn tick(&self, subscription: &mut dyn Subscription, alive: bool) {
        let offsets = self.shared.status.take_offsets();
        if !offsets.is_empty() {
            let _ = subscription.commit(&offsets).await;
        }
        if self.feeds.keys().any(|collection| self.shared.parked.count(collection) > 0) {
            // Whoever released a key waits for a heartbeat that is later than that, so none goes out before it was seen.
            if self.shared.parked.refresh(&*self.shared.log).await.is_err() {
                return;
            }
            for collection in self.feeds.keys() {
                self.shared.status.parked(collection, self.shared.parked.count(collection));
            }
        }
        self.shared.status.publish(&*self.shared.log, self.shared.env.now(), alive).await;
    }

    fn assign(
        &self,
        places: &[TopicPartition],
        tasks: &mut Tasks,
        starts: &mpsc::Sender<Start>,
        failed: &mpsc::Sender<String>,
    ) {
        self.shared.status.set(State::Running, None);
        let limits = Limits {
            records: self.shared.options.batch_limit(&self.shared.capability),
            bytes: self.shared.options.byte_limit(&self.shared.capability, tasks.len() + places.len()),
        };
        for place in places {
            let Some(feed) = collection_of(place).and_then(|collection| self.feeds.get(&collection)) else { continue };
            let cancel = CancellationToken::new();
            let task = PartitionTask {
                shared: self.shared.clone(),
                place: place.clone(),
                target: feed.target(&self.shared.name, Build::Live(1)),
                epochs: feed.epochs.clone(),
                starts: starts.clone(),
                cancel: cancel.clone(),
                limits,
                reread: AtomicI64::new(0),
            };
            let failed = failed.clone();
            let handle = tokio::spawn(async move {
                if let Err(reason) = task.run().await {
                    // The first reason is enough; the worker is already stopping when the channel is full or closed.
                    let _ = failed.try_send(reason);
                }
            });
            tasks.insert(place.clone(), (cancel, handle));
        }
    }

    /// Ends the tasks of partitions: all are asked first, then waited for together, then cut off.
    async fn drain(&self, tasks: &mut Tasks, places: &[TopicPartition]) {
        let ending: Vec<_> = places.iter().filter_map(|place| tasks.remove(place)).collect();
        ending.iter().for_each(|(cancel, _)| cancel.cancel());
        // Where nothing is compared, a write that lands after the next owner's would undo his: it is waited for.
        let limit = match self.shared.capability.class {
            Class::Overwrite => DRAIN.max(self.shared.options.write_timeout()),
            Class::Transactional | Class::Versioned | Class::Append => DRAIN,
        };
        let until = Instant::now() + limit;
        for (_, mut handle) in ending {
            if tokio::time::timeout_at(until, &mut handle).await.is_err() {
                // The store does not answer. Its transaction fails or commits with its position, so nothing is lost.
                handle.abort();
                let _ = handle.await;
            }
        }
    }
}

/// The group of a sink. After a collection was renewed it is another one: a static member that comes back is given the
/// partitions that it had, without anybody looking at how many there are by now.
fn group(sink: &str, feeds: &BTreeMap<Collection, Feed>) -> String {
    match feeds.values().map(|feed| feed.epochs.current().epoch).sum::<u64>() {
        0 => format!("primalcore.{sink}"),
        renewals => format!("primalcore.{sink}.{renewals}"),
    }
}
