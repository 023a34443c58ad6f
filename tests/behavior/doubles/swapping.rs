//! Doubles that swap, discard and prepare wrongly.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use async_trait::async_trait;
use primal_core::batch::Batch;
use primal_core::sink::{Build, Outcome, Positions, SinkSpec, Stored, Target};
use primal_core::{Fault, SinkError};

use super::double::{Under, Wrong};
use super::writing::{disguise, move_to, undisguised};

#[derive(Default)]
pub struct SwapsBehind;
#[async_trait]
impl Wrong for SwapsBehind {
    async fn swap(&self, under: &Under, to: &Target, _: bool) -> Result<bool, SinkError> {
        under.swap().swap(to, false).await
    }
}

#[derive(Default)]
pub struct IgnoresTheGeneration;
#[async_trait]
impl Wrong for IgnoresTheGeneration {
    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let live = under.sink.builds(&target.sink, &target.collection).await?.live;
        let build = if let Build::Live(_) = target.build { Build::Live(live) } else { target.build.clone() };
        under.sink.write(&target.with_build(build), &batch).await
    }
}

#[derive(Default)]
pub struct DropsPositions;
#[async_trait]
impl Wrong for DropsPositions {
    async fn positions(&self, under: &Under, target: &Target) -> Result<Positions, SinkError> {
        match target.build {
            Build::Live(2..) => Ok(Positions::new()),
            _ => under.sink.positions(target).await,
        }
    }
}

#[derive(Default)]
pub struct KeepsNoPrevious;
#[async_trait]
impl Wrong for KeepsNoPrevious {
    async fn swap(&self, under: &Under, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        let live = under.sink.builds(&to.sink, &to.collection).await?.live;
        let swapped = under.swap().swap(to, caught_up).await?;
        if swapped {
            under.swap().discard(&to.with_build(Build::Beside(live))).await?;
        }
        Ok(swapped)
    }
}

/// What is said to be new replaces what is there.
#[derive(Default)]
pub struct BelievesIt;
#[async_trait]
impl Wrong for BelievesIt {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        batch.events.iter_mut().filter(|event| event.fresh).for_each(disguise);
        under.sink.write(target, &batch).await
    }

    fn read(&self, stored: Stored) -> Option<Stored> {
        undisguised(stored)
    }
}

/// Remembers positions for ever.
#[derive(Default)]
pub struct KeepsAll(Mutex<HashMap<String, Positions>>);
#[async_trait]
impl Wrong for KeepsAll {
    async fn positions(&self, under: &Under, target: &Target) -> Result<Positions, SinkError> {
        let now = under.sink.positions(target).await?;
        let mut kept = self.0.lock().unwrap();
        let kept = kept.entry(target.position_name()).or_default();
        kept.extend(now);
        Ok(kept.clone())
    }

    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let outcome = under.sink.write(target, &batch).await?;
        self.positions(under, target).await?;
        Ok(outcome)
    }
}

#[derive(Default)]
pub struct ComparesItsOwn;
#[async_trait]
impl Wrong for ComparesItsOwn {
    async fn swap(&self, under: &Under, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        let has_any = !under.sink.positions(to).await?.is_empty();
        under.swap().swap(to, caught_up && has_any).await
    }
}

#[derive(Default)]
pub struct DiscardsNothing;
#[async_trait]
impl Wrong for DiscardsNothing {
    async fn discard(&self, _: &Under, _: &Target) -> Result<(), SinkError> {
        Ok(())
    }
}

#[derive(Default)]
pub struct LeavesPositions;
#[async_trait]
impl Wrong for LeavesPositions {
    async fn discard(&self, under: &Under, target: &Target) -> Result<(), SinkError> {
        let positions = under.sink.positions(target).await?;
        under.swap().discard(target).await?;
        for (partition, position) in positions {
            move_to(under, target, partition, position).await?;
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct LeavesThePlan;
#[async_trait]
impl Wrong for LeavesThePlan {
    async fn discard(&self, under: &Under, target: &Target) -> Result<(), SinkError> {
        under.swap().discard(target).await?;
        match target.build {
            Build::Beside(_) => under.swap().begin(target, "plan").await,
            _ => Ok(()),
        }
    }
}

#[derive(Default)]
pub struct DiscardsOnce;
#[async_trait]
impl Wrong for DiscardsOnce {
    async fn discard(&self, under: &Under, target: &Target) -> Result<(), SinkError> {
        if under.sink.positions(target).await?.is_empty() {
            return Err(SinkError::new(Fault::Internal, "there is nothing to discard"));
        }
        under.swap().discard(target).await
    }
}

fn sqlite() -> &'static SinkSpec {
    primal_registry::find("sqlite").unwrap()
}

#[derive(Default)]
pub struct AddsNoColumn(Mutex<HashSet<String>>);
#[async_trait]
impl Wrong for AddsNoColumn {
    fn base() -> &'static SinkSpec {
        sqlite()
    }

    async fn prepare(&self, under: &Under, target: &Target) -> Result<(), SinkError> {
        if self.0.lock().unwrap().insert(target.place()) { under.sink.prepare(target).await } else { Ok(()) }
    }
}

#[derive(Default)]
pub struct TakesAnyType;
#[async_trait]
impl Wrong for TakesAnyType {
    fn base() -> &'static SinkSpec {
        sqlite()
    }

    async fn prepare(&self, under: &Under, target: &Target) -> Result<(), SinkError> {
        match under.sink.prepare(target).await {
            Err(error) if error.fault == Fault::Incompatible => Ok(()),
            prepared => prepared,
        }
    }
}

#[derive(Default)]
pub struct SaysNotWhich;
#[async_trait]
impl Wrong for SaysNotWhich {
    fn base() -> &'static SinkSpec {
        sqlite()
    }

    async fn prepare(&self, under: &Under, target: &Target) -> Result<(), SinkError> {
        under.sink.prepare(target).await.map_err(|error| SinkError::new(error.fault, "it does not fit"))
    }
}
