//! What a replay would change, without changing it: the store as readers see it, compared with the log.

use std::collections::BTreeMap;

use primal_audit::{Report, Scope, verify};
use primal_core::sink::Build;
use serde::Serialize;

use crate::{Mode, Progress, Replay, ReplayError, Request};

/// So many records of each sort are named.
const SAMPLES: usize = 20;

/// What a replay would change.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// How it would write.
    pub mode: Mode,
    /// Store and log compared; of each sort of difference at most twenty are named, all are counted.
    #[serde(flatten)]
    pub report: Report,
    /// Records that would be written anew or again because they are wrong.
    pub mended: u64,
    /// Records that would be gone: those without any event, in a rebuild.
    pub dropped: u64,
}

impl Replay {
    /// Compares what a request is about with the log. Nothing is written.
    ///
    /// # Errors
    /// The request makes no sense for this store, the store cannot be read back, or store or log failed.
    pub async fn diff(&self, request: &Request, progress: &dyn Progress) -> Result<Diff, ReplayError> {
        let plan = self.plan(request).await?;
        let mode = plan.mode;
        if mode == Mode::Copy {
            return Err(ReplayError::Usage(
                "--diff compares what readers see, and a copy (--into) is written beside it: leave one out".to_owned(),
            ));
        }
        let builds = self.sink.builds(&self.name, &request.feed.collection).await?;
        let live = request.feed.target(&self.name, Build::Live(builds.live));
        self.sink.prepare(&live).await?;
        let scope = match mode {
            // All that has an event in the range is in the new generation, and nothing else.
            Mode::Shadow | Mode::Copy => Scope {
                from: plan.ranges.iter().map(|range| (range.partition, range.from)).collect(),
                ..Scope::default()
            },
            Mode::Repair => Scope {
                from: BTreeMap::new(),
                keys: request.selection.keys.clone(),
                within: Some(plan.within(request)),
            },
        };
        progress.begin("compare", plan.events);
        let told = |events| progress.advance(events);
        let mut report = verify(&*self.sink, &*self.log, &live, &request.feed.epochs, &scope, None, told).await?;
        let (missing, stale, differing) = (report.missing.count, report.stale.count, report.differing.count);
        for found in [&mut report.missing, &mut report.extra, &mut report.stale, &mut report.differing] {
            found.first.truncate(SAMPLES);
        }
        let dropped = if mode == Mode::Shadow { report.extra.count } else { 0 };
        Ok(Diff { mode, mended: missing + stale + differing, dropped, report })
    }
}
