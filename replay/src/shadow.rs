//! A new generation beside the live one: fill it, verify it, catch up with live traffic, swap. And the way back.
//!
//! No worker has to take part. The store itself keeps the positions of both generations and which one is live, and every
//! write of a worker checks that; so the swap is one act of the store, a worker that writes to the old generation
//! is fenced by it, and goes on with the new one from that one's own positions.

use std::sync::Arc;

use primal_audit::{Report, Scope, Tally, verify};
use primal_core::log::Extent;
use primal_core::sink::{Build, Swap, Target};
use primal_runtime::{Pace, dead_letter};
use serde::Serialize;

use crate::catch_up::extend;
use crate::plan::{Plan, Range};
use crate::scan::Scan;
use crate::{Mode, Progress, Replay, ReplayError, Request};

/// Fill until no more than this is left before verifying.
pub(crate) const NEARLY: u64 = 5_000;

/// What a replay did.
#[derive(Clone, Debug, Serialize)]
pub struct Rebuilt {
    /// The sink.
    pub sink: String,
    /// The collection.
    pub collection: String,
    /// How it wrote.
    pub mode: Mode,
    /// Events read.
    pub events: u64,
    /// The generation that is live now, for a shadow.
    pub generation: Option<u64>,
    /// The verification before the swap, or of the copy.
    pub verified: Option<Report>,
    /// Records written by a repair.
    pub applied: u64,
    /// Events that the store refuses, by a repair.
    pub rejected: u64,
}

impl Replay {
    /// Does what a plan says.
    ///
    /// # Errors
    /// Whatever was done is kept; the same request goes on from there.
    pub async fn execute(
        &self,
        request: &Request,
        plan: &Plan,
        progress: Arc<dyn Progress>,
    ) -> Result<Rebuilt, ReplayError> {
        self.execute_in(&self.alone(), request, plan, progress).await
    }

    /// The same with a scan that others take part in.
    pub(crate) async fn execute_in(
        &self,
        scan: &Scan,
        request: &Request,
        plan: &Plan,
        progress: Arc<dyn Progress>,
    ) -> Result<Rebuilt, ReplayError> {
        let target = request.feed.target(&self.name, plan.build.clone());
        match plan.mode {
            Mode::Shadow => self.shadow(scan, request, plan, &target, &progress).await,
            Mode::Copy => self.copy(scan, request, plan, &target, &progress).await,
            Mode::Repair => self.repair(scan, request, plan, &target, &*progress).await,
        }
    }

    pub(crate) fn alone(&self) -> Scan {
        Scan::alone(&self.log)
    }

    async fn shadow(
        &self,
        scan: &Scan,
        request: &Request,
        plan: &Plan,
        target: &Target,
        progress: &Arc<dyn Progress>,
    ) -> Result<Rebuilt, ReplayError> {
        let swap = self.swapping()?;
        let Build::Beside(generation) = target.build else {
            return Err(ReplayError::Failed("a shadow needs a generation of its own".to_owned()));
        };
        self.patiently(|| async {
            if !plan.resumes {
                let builds = self.sink.builds(&self.name, &target.collection).await?;
                if let Some(old) = builds.rebuild {
                    swap.discard(&target.with_build(Build::Beside(old.generation))).await?;
                }
                swap.begin(target, &plan.selection).await?;
            }
            Ok(self.sink.prepare(target).await?)
        })
        .await?;
        let filled = self.patiently(|| self.filled(request, plan, target)).await?;
        progress.begin("rebuild", plan.events);
        progress.skip(filled);
        let mut ranges = plan.ranges.clone();
        let tally = self.patiently(|| self.tally(request, target)).await?;
        self.fill(request, target, &ranges, scan, tally.as_ref(), progress).await?;
        // A long fill leaves a longer tail behind; each round's tail is shorter than the one before, unless the pace is below
        // that of live traffic.
        let (mut tail, held_back) = (u64::MAX, self.job.pace() != Pace::default());
        for _ in 0..20 {
            let extents = self.patiently(|| self.extents(request)).await?;
            let added = extend(&extents, &mut ranges);
            if added <= NEARLY || (held_back && added >= tail) {
                break;
            }
            tail = added;
            self.fill(request, target, &ranges, &self.alone(), tally.as_ref(), progress).await?;
        }
        let report = self.verified(request, plan, target, tally.as_deref(), progress).await?;
        drop(tally);
        progress.begin("catch up and swap", 0);
        self.catch_up_and_swap(request, target, generation, &mut ranges, progress).await?;
        Ok(Rebuilt {
            events: ranges.iter().map(|r| (r.to - r.from) as u64).sum(),
            generation: Some(generation),
            verified: Some(report),
            ..self.nothing(request, Mode::Shadow)
        })
    }

    async fn copy(
        &self,
        scan: &Scan,
        request: &Request,
        plan: &Plan,
        target: &Target,
        progress: &Arc<dyn Progress>,
    ) -> Result<Rebuilt, ReplayError> {
        let positions = self.sink.positions(target).await?;
        let at = |range: &Range| request.feed.epochs.resume(positions.get(&range.partition).copied());
        let past = |range: &&Range| at(range) > range.to;
        if let Some(range) = plan.ranges.iter().find(past) {
            return Err(ReplayError::Usage(format!(
                "{} already holds partition {} beyond offset {}; choose another name",
                plan.place, range.partition, range.to
            )));
        }
        self.sink.prepare(target).await?;
        let filled = self.filled(request, plan, target).await?;
        progress.begin("copy", plan.events);
        progress.skip(filled);
        let tally = self.patiently(|| self.tally(request, target)).await?;
        self.fill(request, target, &plan.ranges, scan, tally.as_ref(), progress).await?;
        let report = self.verified(request, plan, target, tally.as_deref(), progress).await?;
        Ok(Rebuilt { events: plan.events, verified: Some(report), ..self.nothing(request, Mode::Copy) })
    }

    /// How many of the events a build has from an earlier run.
    async fn filled(&self, request: &Request, plan: &Plan, target: &Target) -> Result<u64, ReplayError> {
        let positions = self.sink.positions(target).await?;
        let at = |range: &Range| request.feed.epochs.resume(positions.get(&range.partition).copied());
        Ok(plan.ranges.iter().map(|range| (at(range).min(range.to) - range.from).max(0) as u64).sum())
    }

    /// For what is read while a build is filled from its beginning; one that holds something already is read anew.
    async fn tally(&self, request: &Request, target: &Target) -> Result<Option<Arc<Tally>>, ReplayError> {
        if !request.selection.keys.is_empty() || !self.sink.positions(target).await?.is_empty() {
            return Ok(None);
        }
        let letters = dead_letter::of_target(&*self.log, target).await?;
        Ok(Tally::new(&*self.sink, target, &request.feed.epochs, letters).map(Arc::new))
    }

    async fn verified(
        &self,
        request: &Request,
        plan: &Plan,
        target: &Target,
        tally: Option<&Tally>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Report, ReplayError> {
        let report = self.patiently(|| self.compared(request, plan, target, tally, progress)).await?;
        if report.is_clean() { Ok(report) } else { Err(ReplayError::Different(Box::new(report))) }
    }

    async fn compared(
        &self,
        request: &Request,
        plan: &Plan,
        target: &Target,
        tally: Option<&Tally>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Report, ReplayError> {
        let from = plan.ranges.iter().map(|range| (range.partition, range.from)).collect();
        let scope = Scope { from, keys: request.selection.keys.clone(), within: None };
        loop {
            self.job.admit(0).await?;
            progress.begin("verify", plan.events);
            let told = |events| progress.advance(events);
            // It only reads: a pause drops it, and it begins anew afterwards.
            tokio::select! {
                biased;
                held_up = self.job.held_up() => held_up?,
                report = verify(&*self.sink, &*self.log, target, &request.feed.epochs, &scope, tally, told) => return Ok(report?),
            }
        }
    }

    pub(crate) async fn extents(&self, request: &Request) -> Result<Vec<Extent>, ReplayError> {
        let topic = request.feed.collection.topic();
        Ok(self.log.extents(&topic).await?.ok_or(primal_core::LogError::NoTopic(topic))?)
    }

    /// Makes the previous generation live again; which one that is. It catches up from its own positions as soon as a
    /// worker runs.
    ///
    /// # Errors
    /// There is none, or the store failed.
    pub async fn rollback(&self, request: &Request) -> Result<u64, ReplayError> {
        let collection = &request.feed.collection;
        let builds = self.sink.builds(&self.name, collection).await?;
        let Some(previous) = builds.previous else {
            return Err(ReplayError::Usage(format!(
                "{} keeps no previous generation of {collection}; generation {} is the only one",
                self.name, builds.live
            )));
        };
        let swap = self.swapping()?;
        swap.swap(&request.feed.target(&self.name, Build::Beside(previous)), false).await?;
        Ok(previous)
    }

    pub(crate) fn swapping(&self) -> Result<&dyn Swap, ReplayError> {
        self.sink.swap().ok_or_else(|| ReplayError::Usage(format!("{} cannot swap", self.name)))
    }

    pub(crate) fn nothing(&self, request: &Request, mode: Mode) -> Rebuilt {
        Rebuilt {
            sink: self.name.clone(),
            collection: request.feed.collection.to_string(),
            mode,
            events: 0,
            generation: None,
            verified: None,
            applied: 0,
            rejected: 0,
        }
    }
}
