//! The operator: rebuilds, rolls back, repairs, verifies and redrives, each time with the command that a person would give,
//! and gives it again when it was interrupted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use primal_audit::{Scope, Selection, verify};
use primal_core::sink::{Build, Class};
use primal_core::{Epochs, EventLog, Offset, Partition, Sink};
use primal_log_sim::{Process, SimLog, World, mix};
use primal_replay::{Mode, Progress, Replay, ReplayError, Request};
use primal_runtime::{Feed, Job, Pace};

use crate::bugs::Bug;
use crate::judge::Judge;
use crate::setup::{Action, SINK, Setup};
use crate::sink::SimSink;
use crate::store::Store;

/// How often an interrupted command is given again.
const TRIES: u64 = 50;
/// Within so many milliseconds after its begin a rebuild is cancelled.
const MIDWAY: u64 = 1_000;
/// How long a rebuild may take to end when it is cancelled: the slowest steps, one after the other.
const OBEYS: Duration = Duration::from_secs(60);

/// Who gives commands.
#[derive(Clone)]
pub struct Operator {
    /// The run.
    pub setup: Setup,
    /// Its world.
    pub world: Arc<World>,
    /// Its store.
    pub store: Arc<Store>,
    /// Who is told of wrong results.
    pub judge: Arc<Judge>,
    /// What is wrong on purpose.
    pub bug: Option<Bug>,
}

struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn skip(&self, _: u64) {}
}

/// Up to where a repair has written each partition.
#[derive(Default)]
struct Reached(Mutex<BTreeMap<Partition, Offset>>);

impl Reached {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Partition, Offset>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Reached {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn skip(&self, _: u64) {}

    fn reached(&self, partition: Partition, offset: Offset) {
        self.lock().insert(partition, offset);
    }
}

/// What the collection looks like in the sink.
pub fn feed(setup: &Setup) -> Feed {
    Feed {
        collection: Setup::collection(),
        epochs: Arc::new(Epochs::first(setup.partitions as usize)),
        projection: setup.projection,
        table: None,
        mapping: Arc::default(),
    }
}

impl Operator {
    /// Does all actions of the run.
    pub async fn run(self) {
        for (index, action) in (0..).zip(self.setup.actions.clone()) {
            tokio::time::sleep(Duration::from_millis(mix(mix(self.setup.seed, 0x0b), index) % 6_000)).await;
            self.act(action, mix(mix(self.setup.seed, 0xd0), index)).await;
        }
    }

    async fn act(&self, action: Action, drawn: u64) {
        let request = |mode, keys: BTreeSet<String>| Request {
            mode: Some(mode),
            selection: Selection { keys, ..Selection::default() },
            ..Request::whole(feed(&self.setup))
        };
        let key = BTreeSet::from([format!("k{}", self.setup.seed % self.setup.keys)]);
        match action {
            Action::Shadow => self.replay(&request(Mode::Shadow, BTreeSet::new()), true).await,
            Action::Repair => self.replay(&request(Mode::Repair, BTreeSet::new()), false).await,
            Action::RepairKey => self.replay(&request(Mode::Repair, key), false).await,
            Action::Rollback => {
                let request = request(Mode::Shadow, BTreeSet::new());
                self.until_done("rollback", 1, false, async |replay: &Replay| {
                    replay.rollback(&request).await.map(|_| ())
                })
                .await;
            }
            Action::Verify => self.verify().await,
            Action::Return => {
                let request = request(Mode::Shadow, BTreeSet::new());
                self.replay(&request, true).await;
                self.roll_back(&request).await;
            }
            Action::Abandon => self.abandon(&request(Mode::Shadow, BTreeSet::new()), drawn).await,
            Action::MendKey | Action::MendAll => {
                let Some(damage) = self.store.damage(&self.setup, drawn) else { return };
                let all = action == Action::MendAll;
                let keys = if all { BTreeSet::new() } else { BTreeSet::from([damage.key.clone()]) };
                self.repair(&request(Mode::Repair, keys)).await;
                self.store.is_mended(&damage);
            }
        }
    }

    /// Makes the generation before the last rebuild live again, and looks whether it is.
    async fn roll_back(&self, request: &Request) {
        let Some(wanted) = self.store.tables().builds.previous else { return };
        let live = || self.store.tables().builds.live;
        self.until_done("rollback", TRIES, true, async |replay: &Replay| {
            // Of a command that was interrupted, only the answer may have been lost.
            if live() == wanted { Ok(()) } else { replay.rollback(request).await.map(|_| ()) }
        })
        .await;
        if live() != wanted {
            self.judge.broken("rollback", format!("generation {} is live, not {wanted}", live()));
        }
    }

    /// Begins a rebuild, cancels it midway, and gives the same command later: it goes on with what there is.
    async fn abandon(&self, request: &Request, drawn: u64) {
        let process = self.world.process("operator");
        let done = async {
            let replay = self.replay_of(&process).await?;
            self.execute(&replay, request).await
        };
        let cancelled = async {
            tokio::time::sleep(Duration::from_millis(mix(drawn, 0) % MIDWAY)).await;
            process.ending().cancel();
            tokio::time::sleep(OBEYS).await;
        };
        tokio::select! {
            biased;
            () = process.died() => {}
            _ = done => {}
            () = cancelled => self.judge.broken("stuck", "a rebuild that was cancelled did not end"),
        }
        process.kill();
        {
            let mut tables = self.store.tables();
            tables.abandoned = tables.builds.rebuild.as_ref().map(|rebuild| rebuild.generation);
        }
        tokio::time::sleep(Duration::from_millis(mix(drawn, 1) % 4_000)).await;
        self.replay(request, true).await;
        let left = self.store.tables().abandoned.take();
        if let Some(generation) = left.filter(|_| !self.is_excused()) {
            self.judge.broken("resumed", format!("generation {generation} was begun, and did not become live"));
        }
    }

    /// A rebuild goes on from where it was, so it comes to its end; a repair begins anew, and may not.
    async fn replay(&self, request: &Request, resumes: bool) {
        self.until_done("replay", TRIES, resumes, async |replay: &Replay| self.execute(replay, request).await).await;
    }

    /// A repair that goes on from where it was and ends where it was to end, as a job does that is taken up again.
    async fn repair(&self, request: &Request) {
        let (ranges, reached) = (OnceLock::new(), Arc::new(Reached::default()));
        self.until_done("repair", TRIES, true, async |replay: &Replay| {
            let mut plan = replay.plan(request).await?;
            plan.go_on(ranges.get_or_init(|| plan.ranges.clone()).clone(), reached.lock().clone());
            replay.execute(request, &plan, reached.clone()).await.map(|_| ())
        })
        .await;
    }

    async fn execute(&self, replay: &Replay, request: &Request) -> Result<(), ReplayError> {
        let plan = replay.plan(request).await?;
        let done = replay.execute(request, &plan, Arc::new(Silent)).await;
        // A store or a log that fails for a while is waited for, and a lost answer is no other process.
        if let (Mode::Shadow, Err(error)) = (plan.mode, &done)
            && error.is_passing()
        {
            self.judge.broken("patience", format!("a rebuild ended with what passes: {error}"));
        }
        done.map(|_| ())
    }

    /// Redrives all dead letters.
    pub async fn redrive(&self) {
        let request = Request::whole(feed(&self.setup));
        self.until_done("redrive", TRIES, true, async |replay: &Replay| replay.redrive(&request).await.map(|_| ()))
            .await;
    }

    /// Gives a command until it is done; it has to be, if `must`.
    async fn until_done(
        &self,
        what: &str,
        tries: u64,
        must: bool,
        command: impl AsyncFn(&Replay) -> Result<(), ReplayError>,
    ) {
        for attempt in 0..tries {
            let process = self.world.process("operator");
            let done = async {
                let replay = self.replay_of(&process).await?;
                command(&replay).await
            };
            let ended = tokio::select! {
                biased;
                () = process.died() => None,
                ended = done => Some(ended),
            };
            // What it has sent may still take effect; it sends nothing more.
            process.kill();
            match ended {
                Some(Ok(())) => return,
                Some(Err(ReplayError::Different(_))) if self.is_excused() => return,
                Some(Err(ReplayError::Different(report))) => {
                    return self.judge.broken("verify", format!("{what} found a difference: {report:?}"));
                }
                // No previous generation; nothing of the kind that this class can do.
                Some(Err(ReplayError::Usage(_))) => return,
                Some(Err(_)) | None => tokio::time::sleep(Duration::from_millis(100 << attempt.min(5))).await,
            }
        }
        if must {
            self.judge.broken("stuck", format!("{what} was not done after {tries} attempts"));
        }
    }

    async fn replay_of(&self, process: &Process) -> Result<Replay, ReplayError> {
        let log: Arc<dyn EventLog> = Arc::new(SimLog::new(process));
        let sink = Bug::operator_sink(self.bug, SimSink::new(process, &self.store));
        let (spec, env) = (self.setup.spec(), process.env());
        let options = self.setup.options();
        let cancel = process.ending().clone();
        let job =
            Job::new(SINK, &spec, sink.clone(), log.clone(), options, Pace::default(), env.clone(), cancel).await?;
        Ok(Replay::new(SINK, &spec, sink, log, job, env))
    }

    /// Compares the live generation with the log.
    pub async fn verify(&self) {
        for attempt in 0..TRIES {
            let process = self.world.process("auditor");
            let report = tokio::select! {
                biased;
                () = process.died() => None,
                report = self.report(&process) => report,
            };
            match report {
                Some(report) if report.is_clean() || self.is_excused() => return,
                Some(report) => return self.judge.broken("verify", format!("{report:?}")),
                None => tokio::time::sleep(Duration::from_millis(100 << attempt.min(5))).await,
            }
        }
        self.judge.broken("stuck", "verification was not done");
    }

    /// A store that compares nothing and keeps no tombstones may differ: where a late write came through, where a delete was
    /// applied that the live generation parked, and while it is written to again after a crash.
    fn is_excused(&self) -> bool {
        self.setup.class == Class::Overwrite
    }

    async fn report(&self, process: &Process) -> Option<primal_audit::Report> {
        let (log, sink) = (SimLog::new(process), SimSink::new(process, &self.store));
        let feed = feed(&self.setup);
        let builds = sink.builds(SINK, &feed.collection).await.ok()?;
        let target = feed.target(SINK, Build::Live(builds.live));
        verify(&*sink, &log, &target, &feed.epochs, &Scope::default(), None, |_| {}).await.ok()
    }
}
