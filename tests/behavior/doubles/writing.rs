//! Doubles that write wrongly.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use primal_core::batch::{Batch, Mode};
use primal_core::event::Op;
use primal_core::sink::{Content, Outcome, Stored, Target};
use primal_core::{BatchEvent, Fault, Partition, Position, SinkError, Version};

use super::double::{Under, Wrong, with};

#[derive(Default)]
pub struct SkipsEmptyBatches;
#[async_trait]
impl Wrong for SkipsEmptyBatches {
    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        if batch.events.is_empty() { Ok(Outcome::default()) } else { under.sink.write(target, &batch).await }
    }
}

/// Writes part of a batch and says that it wrote all.
async fn partly(
    under: &Under,
    target: &Target,
    mut batch: Batch<'_>,
    part: impl Fn(usize, &BatchEvent<'_>) -> bool,
) -> Result<Outcome, SinkError> {
    let all = batch.events.len();
    batch.events = batch.events.into_iter().enumerate().filter(|(i, event)| part(*i, event)).map(|(_, e)| e).collect();
    let left_out = (all - batch.events.len()) as u64;
    let written = under.sink.write(target, &batch).await?;
    Ok(Outcome { applied: written.applied + left_out, ..written })
}

#[derive(Default)]
pub struct ForgetsDeletes;
#[async_trait]
impl Wrong for ForgetsDeletes {
    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        partly(under, target, batch, |_, event| event.op != Op::Delete).await
    }
}

#[derive(Default)]
pub struct AppliesHalf;
#[async_trait]
impl Wrong for AppliesHalf {
    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let half = batch.events.len() / 2;
        partly(under, target, batch, |index, _| index < half).await
    }
}

/// Moves the position of a partition to wherever, by an empty batch.
pub async fn move_to(under: &Under, target: &Target, partition: Partition, to: Position) -> Result<(), SinkError> {
    let found = under.sink.positions(target).await?.get(&partition).copied();
    let empty = Batch { partition, advance: None, mode: Mode::Apply, events: Vec::new() };
    under.sink.write(target, &empty.advancing(found, to)).await.map(drop)
}

#[derive(Default)]
pub struct IgnoresThePosition;
#[async_trait]
impl Wrong for IgnoresThePosition {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let found = under.sink.positions(target).await?.get(&batch.partition).copied();
        batch.advance.iter_mut().for_each(|advance| advance.expected = found);
        under.sink.write(target, &batch).await
    }
}

#[derive(Default)]
pub struct WritesEqualVersions;
#[async_trait]
impl Wrong for WritesEqualVersions {
    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        under.sink.write(target, &batch.repairing()).await
    }
}

/// Versions above all others, each above the one before; reading gives the true one.
static DISGUISED: LazyLock<Mutex<Vec<Version>>> = LazyLock::new(Mutex::default);
const DISGUISE: u64 = 1 << 60;

pub fn disguise(event: &mut BatchEvent<'_>) {
    let mut all = DISGUISED.lock().unwrap();
    let version = Version(DISGUISE + all.len() as u64);
    all.push(event.version);
    event.version = version;
}

pub fn undisguised(stored: Stored) -> Option<Stored> {
    let index = stored.version.0.checked_sub(DISGUISE);
    let version = index.map_or(stored.version, |index| DISGUISED.lock().unwrap()[index as usize]);
    Some(Stored { version, ..stored })
}

#[derive(Default)]
pub struct LastWriteWins;
#[async_trait]
impl Wrong for LastWriteWins {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        batch.events.iter_mut().for_each(disguise);
        under.sink.write(target, &batch).await
    }

    fn read(&self, stored: Stored) -> Option<Stored> {
        undisguised(stored)
    }
}

#[derive(Default)]
pub struct NoTombstones;
#[async_trait]
impl Wrong for NoTombstones {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        for event in &mut batch.events {
            let found = under.sink.reader().unwrap().get(target, event.identity(target.projection)).await?;
            if found.is_some_and(|stored| stored.content == Content::Deleted) {
                disguise(event);
            }
        }
        under.sink.write(target, &batch).await
    }

    fn read(&self, stored: Stored) -> Option<Stored> {
        undisguised(stored)
    }
}

#[derive(Default)]
pub struct RepairsNothing;
#[async_trait]
impl Wrong for RepairsNothing {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        batch.mode = Mode::Apply;
        under.sink.write(target, &batch).await
    }
}

#[derive(Default)]
pub struct RepairsNewer;
#[async_trait]
impl Wrong for RepairsNewer {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        if batch.mode == Mode::Repair {
            batch.events.iter_mut().for_each(disguise);
        }
        under.sink.write(target, &batch).await
    }

    fn read(&self, stored: Stored) -> Option<Stored> {
        undisguised(stored)
    }
}

#[derive(Default)]
pub struct OneRecordAKey;
#[async_trait]
impl Wrong for OneRecordAKey {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        batch.events.iter_mut().for_each(|event| event.id = event.key);
        under.sink.write(target, &batch).await
    }
}

/// Each delivery of an event is a record, whatever its id.
#[derive(Default)]
pub struct RepeatsAppends(AtomicU64);
#[async_trait]
impl Wrong for RepeatsAppends {
    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let count = || self.0.fetch_add(1, Ordering::Relaxed);
        let ids: Vec<_> = batch.events.iter().map(|event| format!("{}#{}", event.id, count())).collect();
        let mut events: Vec<BatchEvent<'_>> = batch.events.clone();
        events.iter_mut().zip(&ids).for_each(|(event, id)| event.id = id);
        under.sink.write(target, &with(&batch, events)).await
    }

    fn read(&self, mut stored: Stored) -> Option<Stored> {
        for id in [&mut stored.identity, &mut stored.event_id] {
            id.truncate(id.find('#').unwrap_or(id.len()));
        }
        Some(stored)
    }
}

#[derive(Default)]
pub struct ComparesFirst;
#[async_trait]
impl Wrong for ComparesFirst {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let advance = batch.advance.take();
        if let Some(advance) = advance {
            let found = under.sink.positions(target).await?.get(&batch.partition).copied();
            if found != advance.expected {
                return Err(SinkError::new(Fault::Fenced, "another position"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let outcome = under.sink.write(target, &batch).await?;
        if let Some(advance) = advance {
            move_to(under, target, batch.partition, advance.next).await?;
        }
        Ok(outcome)
    }
}

#[derive(Default)]
pub struct WritesBeforeTheFence;
#[async_trait]
impl Wrong for WritesBeforeTheFence {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let advance = batch.advance.take();
        let outcome = under.sink.write(target, &batch).await?;
        batch.advance = advance;
        batch.events.clear();
        under.sink.write(target, &batch).await?;
        Ok(outcome)
    }
}

/// Pauses between position and data, as a slow store would.
#[derive(Default)]
pub struct PositionFirst;
#[async_trait]
impl Wrong for PositionFirst {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let events = std::mem::take(&mut batch.events);
        under.sink.write(target, &batch).await?;
        batch.advance = None;
        batch.events = events;
        tokio::time::sleep(Duration::from_millis(2)).await;
        under.sink.write(target, &batch).await
    }
}

/// Writes a batch; what is done when it is refused, and what is said then.
async fn refused(
    under: &Under,
    target: &Target,
    batch: &Batch<'_>,
) -> Result<Outcome, (Vec<primal_core::error::Rejected>, SinkError)> {
    under.sink.write(target, batch).await.map_err(|error| match &error.fault {
        Fault::Rejected(rejected) => (rejected.clone(), error),
        _ => (Vec::new(), error),
    })
}

#[derive(Default)]
pub struct HidesWhich;
#[async_trait]
impl Wrong for HidesWhich {
    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let hidden = |(_, error)| SinkError { fault: Fault::Rejected(Vec::new()), ..error };
        refused(under, target, &batch).await.map_err(hidden)
    }
}

#[derive(Default)]
pub struct NamesTheFirst;
#[async_trait]
impl Wrong for NamesTheFirst {
    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let first = |(all, error): (Vec<_>, _)| SinkError { fault: Fault::Rejected(all[..1].to_vec()), ..error };
        refused(under, target, &batch).await.map_err(first)
    }
}

#[derive(Default)]
pub struct WritesTheRest;
#[async_trait]
impl Wrong for WritesTheRest {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let Err((all, error)) = refused(under, target, &batch).await else { return Ok(Outcome::default()) };
        batch.events.retain(|event| !all.iter().any(|rejected| rejected.offset == event.record().offset));
        batch.advance = None;
        under.sink.write(target, &batch).await?;
        Err(error)
    }
}

#[derive(Default)]
pub struct DropsPoison;
#[async_trait]
impl Wrong for DropsPoison {
    async fn write(&self, under: &Under, target: &Target, mut batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let Err((all, _)) = refused(under, target, &batch).await else { return Ok(Outcome::default()) };
        batch.events.retain(|event| !all.iter().any(|rejected| rejected.offset == event.record().offset));
        under.sink.write(target, &batch).await
    }
}

#[derive(Default)]
pub struct PoisonIsInternal;
#[async_trait]
impl Wrong for PoisonIsInternal {
    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        refused(under, target, &batch).await.map_err(|(_, error)| SinkError::new(Fault::Internal, error.context))
    }
}

#[derive(Default)]
pub struct RefusesGaps;
#[async_trait]
impl Wrong for RefusesGaps {
    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        let offsets = batch.advance.map(|a| a.next.offset() - a.expected.map_or(0, Position::offset));
        if offsets.is_some_and(|offsets| offsets != batch.events.len() as i64) {
            return Err(SinkError::new(Fault::Internal, "offsets are missing"));
        }
        under.sink.write(target, &batch).await
    }
}
