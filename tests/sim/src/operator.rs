//! The operator: rebuilds, rolls back, repairs, verifies and redrives, each time with the command that a person would give,
//! and gives it again when it was interrupted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use primal_audit::{Scope, Selection, verify};
use primal_core::sink::{Build, Class};
use primal_core::{Epochs, EventLog, Sink};
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
            self.act(action).await;
        }
    }

    async fn act(&self, action: Action) {
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
        }
    }

    /// A rebuild goes on from where it was, so it comes to its end; a repair begins anew, and may not.
    async fn replay(&self, request: &Request, resumes: bool) {
        self.until_done("replay", TRIES, resumes, async |replay: &Replay| {
            let plan = replay.plan(request).await?;
            replay.execute(request, &plan, Arc::new(Silent)).await.map(|_| ())
        })
        .await;
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
