//! Sinks that break a promise before the real one sees the batch.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use primal_core::batch::{Batch, Mode};
use primal_core::sink::{Build, Builds, Health, Outcome, Positions, Reader, Sink, Swap, Target};
use primal_core::{Collection, Op, SinkError};

use super::Bug;
use crate::sink::SimSink;

struct WrongSink {
    bug: Bug,
    right: Arc<SimSink>,
}

pub(super) fn wrong(bug: Bug, right: Arc<SimSink>) -> Arc<dyn Sink> {
    Arc::new(WrongSink { bug, right })
}

fn again<'a>(batch: &Batch<'a>) -> Batch<'a> {
    Batch { partition: batch.partition, advance: batch.advance, mode: batch.mode, events: batch.events.clone() }
}

#[async_trait]
impl Sink for WrongSink {
    async fn check(&self) -> Result<Health, SinkError> {
        self.right.check().await
    }

    async fn builds(&self, sink: &str, collection: &Collection) -> Result<Builds, SinkError> {
        let mut builds = self.right.builds(sink, collection).await?;
        if let (Bug::ForgetsRebuild, Some(rebuild)) = (self.bug, &mut builds.rebuild) {
            rebuild.plan = "another".to_owned();
        }
        Ok(builds)
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        self.right.prepare(target).await
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        self.right.positions(target).await
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        let mut batch = again(batch);
        let mut target = target.clone();
        match self.bug {
            Bug::PositionFirst if batch.advance.is_some() => {
                let first = Batch { events: Vec::new(), ..again(&batch) };
                self.right.write(&target, &first).await?;
                batch.advance = None;
            }
            Bug::NoFence => {
                let live = self.right.builds(&target.sink, &target.collection).await?.live;
                target = target.with_build(Build::Live(live));
                let expected = self.right.positions(&target).await?.get(&batch.partition).copied();
                if let Some(advance) = &mut batch.advance {
                    advance.expected = expected;
                }
            }
            Bug::DropsAppends if target.projection.keeps_every_event() => {
                let mut seen = BTreeSet::new();
                batch.events.retain(|event| seen.insert(event.key));
            }
            Bug::RepairsNothing if batch.mode == Mode::Repair => batch.events.clear(),
            Bug::ForgetsDeletes => batch.events.retain(|event| event.op != Op::Delete),
            _ => {}
        }
        self.right.write(&target, &batch).await
    }

    fn reader(&self) -> Option<&dyn Reader> {
        self.right.reader()
    }

    fn swap(&self) -> Option<&dyn Swap> {
        Some(self)
    }

    async fn close(&self) {}
}

#[async_trait]
impl Swap for WrongSink {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        self.right.begin(target, plan).await
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        if self.bug == Bug::IgnoresRollback && !caught_up {
            return Ok(true);
        }
        self.right.swap_if(to, caught_up, caught_up && self.bug != Bug::SwapsEarly).await
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        self.right.discard(target).await
    }
}
