//! One run: the world of a seed, all who act in it, the end of all faults, and what has to hold then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use primal_core::log::TopicSpec;
use primal_core::sink::Class;
use primal_core::{Sink, Topic};
use primal_log_sim::{Injected, SimLog, World, mix};
use primal_runtime::Worker;
use tokio_util::sync::CancellationToken;

use crate::bugs::Bug;
use crate::client::{Client, foreign};
use crate::judge::{Judge, Violation};
use crate::operator::{Operator, feed};
use crate::setup::{SINK, Setup};
use crate::sink::SimSink;
use crate::store::Store;

/// How long all may take while things go wrong, in virtual time.
const CHAOS: Duration = Duration::from_secs(600);
/// How long catching up may take when nothing goes wrong any more.
const CALM: Duration = Duration::from_secs(180);

/// How long a run may take in all.
const LIMIT: Duration = Duration::from_secs(3_600);

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The rule that was broken, if one was.
    pub violation: Option<Violation>,
    /// What was injected.
    pub injected: Vec<Injected>,
    /// Steps, and a number that stands for all that happened.
    pub trace: (u64, u64),
    /// The steps as lines, where the plan asks for them.
    pub lines: Vec<String>,
}

/// Runs a setup, with something wrong on purpose if a bug is given.
pub fn run(setup: &Setup, bug: Option<Bug>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime needs nothing but memory");
    runtime.block_on(async {
        let world = World::new(setup.plan.clone());
        let judge = Judge::new(setup, world.clone());
        let run = Run {
            setup: setup.clone(),
            store: Store::new(setup.class, setup.names_rejects, judge.clone()),
            world: world.clone(),
            judge: judge.clone(),
            bug,
        };
        tokio::select! {
            biased;
            () = judge.stop.cancelled() => {}
            ended = tokio::time::timeout(LIMIT, run.go()) => if ended.is_err() {
                judge.broken("stuck", if world.in_circles() { "it goes in circles" } else { "it does not end" });
            }
        }
        let (injected, trace, lines) = (world.injected(), world.trace(), world.lines());
        Outcome { violation: judge.verdict(), injected, trace, lines }
    })
}

struct Run {
    setup: Setup,
    world: Arc<World>,
    store: Arc<Store>,
    judge: Arc<Judge>,
    bug: Option<Bug>,
}

impl Run {
    async fn go(&self) {
        let topic = |partitions| TopicSpec { partitions, compacted: false };
        self.world.create(&Setup::collection().topic(), topic(self.setup.partitions));
        self.world.create(&Topic::dead_letters(SINK), topic(1));
        let operator = Operator {
            setup: self.setup.clone(),
            world: self.world.clone(),
            store: self.store.clone(),
            judge: self.judge.clone(),
            bug: self.bug,
        };
        let client =
            Client { setup: self.setup.clone(), world: self.world.clone(), judge: self.judge.clone(), bug: self.bug };
        let stop = CancellationToken::new();
        let workers: Vec<_> =
            (0..self.setup.workers).map(|number| tokio::spawn(self.worker(number, stop.clone()))).collect();
        let acting = async {
            tokio::join!(client.run(), foreign(self.setup.clone(), self.world.clone()), operator.clone().run());
        };
        if tokio::time::timeout(CHAOS, acting).await.is_err() {
            return self.judge.broken("stuck", "client or operator did not come to an end");
        }
        self.world.calm();
        self.caught_up().await;
        self.judge.published_once();
        self.store.tables().records_of_live(|live| self.judge.all_parked(live));
        operator.verify().await;
        self.complete();
        if self.setup.redrive && self.setup.class != Class::Overwrite {
            self.judge.redriving();
            self.store.be_lenient();
            operator.redrive().await;
            self.caught_up().await;
            operator.verify().await;
            self.redriven();
        }
        stop.cancel();
        for worker in workers {
            if tokio::time::timeout(CALM, worker).await.is_err() {
                return self.judge.broken("stuck", "a worker did not end");
            }
        }
    }

    /// Keeps one worker running until `stop`.
    fn worker(&self, number: u32, stop: CancellationToken) -> impl Future<Output = ()> + 'static {
        let (setup, world, store) = (self.setup.clone(), self.world.clone(), self.store.clone());
        let (judge, bug) = (self.judge.clone(), self.bug);
        let name = format!("worker{number}");
        async move {
            for life in 0.. {
                let process = world.process(&name);
                let log = Bug::worker_log(bug, Arc::new(SimLog::new(&process)));
                let sink: Arc<dyn Sink> = Bug::worker_sink(bug, SimSink::new(&process, &store));
                let (spec, options, env) = (setup.spec(), setup.options(), process.env());
                let shutdown = process.ending().clone();
                let work = async {
                    let made = Worker::new(SINK, &name, &spec, sink, log, vec![feed(&setup)], options, env).await;
                    // A process that cannot begin ends, and is started again by whoever looks after it.
                    let Ok(worker) = made else { return };
                    if let Err(stopped) = worker.run(shutdown).await {
                        judge.broken("stopped", stopped.to_string());
                    }
                };
                tokio::pin!(work);
                tokio::select! {
                    biased;
                    () = process.died() => {}
                    () = &mut work => {}
                    () = stop.cancelled() => {
                        process.ending().cancel();
                        work.await;
                    }
                }
                if stop.is_cancelled() {
                    return;
                }
                let pause = mix(mix(setup.seed, 0x7a), u64::from(number) << 32 | life) % 5_000;
                tokio::time::sleep(Duration::from_millis(10 + pause)).await;
            }
        }
    }

    /// Waits until the live generation has everything that the log has.
    async fn caught_up(&self) {
        let until = tokio::time::Instant::now() + CALM;
        while tokio::time::Instant::now() < until {
            if self.behind().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.judge.broken("stuck", format!("partitions were not finished: {:?}", self.behind()));
    }

    /// Partitions with events that the live generation has not come to, and how far it is.
    fn behind(&self) -> BTreeMap<i32, Option<i64>> {
        let tables = self.store.tables();
        let live = tables.live_positions();
        self.judge.with_facts(|facts| {
            let behind = |(partition, all): (i32, &[crate::facts::Fact])| {
                let position = live.get(&partition).map(|position| position.offset());
                let last = all.last()?.offset;
                (position.unwrap_or(0) <= last).then_some((partition, position))
            };
            facts.partitions().filter_map(behind).collect()
        })
    }

    /// The live generation is exactly what the log says.
    fn complete(&self) {
        let tables = self.store.tables();
        tables.records_of_live(|live| {
            let every = self.setup.projection.keeps_every_event();
            let mut expected = BTreeMap::new();
            for partition in 0..self.setup.partitions as i32 {
                if self.judge.is_hole(partition) {
                    return;
                }
                if let Some(missing) = self.judge.missing(live, partition, 0, i64::MAX) {
                    self.judge.broken("complete", missing);
                }
                self.judge.with_facts(|facts| {
                    for fact in facts.of(partition) {
                        if facts.letter(partition, fact.offset).is_none() {
                            let identity = fact.identity(self.setup.projection).to_owned();
                            let first = expected.entry(identity).or_insert(fact.version());
                            if !every {
                                *first = fact.version();
                            }
                        }
                    }
                });
            }
            for (identity, stored) in live {
                let fits = match expected.get(identity) {
                    Some(version) if stored.version == *version => true,
                    Some(version) if stored.version < *version && !every => false,
                    _ => self.judge.may_be_ahead(stored),
                };
                if !fits {
                    let wanted = expected.get(identity);
                    self.judge.broken("complete", format!("{identity} has {}, expected {wanted:?}", stored.version));
                }
            }
        });
    }

    /// After a redrive the store holds what it would if nothing had ever been refused.
    fn redriven(&self) {
        let tables = self.store.tables();
        tables.records_of_live(|live| {
            for partition in 0..self.setup.partitions as i32 {
                let missing = self.judge.with_facts(|facts| {
                    let all = facts.of(partition);
                    let stuck = |key: &str| all.iter().any(|fact| fact.key == key && !self.setup.can_hold(fact));
                    all.iter()
                        .filter(|fact| fact.op.is_some() && !stuck(&fact.key))
                        .find(|fact| {
                            let stored = live.get(fact.identity(self.setup.projection));
                            stored.is_none_or(|stored| {
                                stored.version < fact.version() && !self.setup.projection.keeps_every_event()
                            })
                        })
                        .cloned()
                });
                if let Some(fact) = missing {
                    self.judge.broken("redrive", format!("{} at {partition}/{} is missing", fact.key, fact.offset));
                }
            }
        });
    }
}
