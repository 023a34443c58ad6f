//! Redriving dead letters: once the cause is gone, parked keys get their events in order, with their original versions,
//! as if nothing had happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use primal_core::batch::Mode as WriteMode;
use primal_core::event::EventRef;
use primal_core::log::Limits;
use primal_core::sink::Build;
use primal_core::{Offset, Partition, Records, Version};
use primal_runtime::dead_letter::{self, DeadLetter, Kind};
use primal_runtime::status::{self, State};
use serde::Serialize;

use crate::{Replay, ReplayError, Request};

/// A worker looks once a second for released keys; one that has not said anything for this long is not running.
const WORKER_SILENT: Duration = Duration::from_secs(15);

/// What a redrive did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Redriven {
    /// Keys whose events were all applied or superseded, and which are no longer parked.
    pub released: BTreeSet<String>,
    /// Keys that the store still refuses, with what it says.
    pub refused: BTreeMap<String, String>,
    /// Records written.
    pub applied: u64,
    /// Events superseded by what the store holds.
    pub superseded: u64,
}

impl Replay {
    /// Tries the dead letters of a collection again; of some keys, or of all when none are given.
    ///
    /// # Errors
    /// What was written stays; keys are released only after their events are in the store.
    pub async fn redrive(&self, request: &Request) -> Result<Redriven, ReplayError> {
        let mut done = Redriven::default();
        self.round(request, &request.keys, &mut done).await?;
        if done.released.is_empty() {
            return Ok(done);
        }
        // Until a worker has noticed the release it goes on putting events of these keys among the letters; those come
        // with a second look.
        self.wait_for_workers().await?;
        let released = done.released.clone();
        self.round(request, &released, &mut done).await?;
        Ok(done)
    }

    async fn round(&self, request: &Request, keys: &BTreeSet<String>, done: &mut Redriven) -> Result<(), ReplayError> {
        let builds = self.sink.builds(&self.name, &request.feed.collection).await?;
        let target = request.feed.target(&self.name, Build::Live(builds.live));
        self.sink.prepare(&target).await?;
        let mut waiting: BTreeMap<(Partition, String), Vec<DeadLetter>> = BTreeMap::new();
        for letter in dead_letter::read_all(&*self.log, &self.name).await?.into_values() {
            let ours = letter.origin.topic == target.collection.as_str() && letter.kind != Kind::Undecodable;
            if ours && (keys.is_empty() || keys.contains(&letter.key)) {
                waiting.entry((letter.origin.partition, letter.key.clone())).or_default().push(letter);
            }
        }
        for ((partition, key), letters) in waiting {
            match self.redrive_key(request, &target, partition, &letters, done).await? {
                None => {
                    let release = BTreeMap::from([(key.clone(), None::<Version>)]);
                    let parked = self.job.parked();
                    parked.set(&*self.log, &target.collection, &release).await.map_err(|failed| failed.error)?;
                    done.refused.remove(&key);
                    done.released.insert(key);
                }
                Some(reason) => {
                    done.released.remove(&key);
                    done.refused.insert(key, reason);
                }
            }
        }
        Ok(())
    }

    /// Applies the letters of one key; what the store says if it refuses one.
    async fn redrive_key(
        &self,
        request: &Request,
        target: &primal_core::Target,
        partition: Partition,
        letters: &[DeadLetter],
        done: &mut Redriven,
    ) -> Result<Option<String>, ReplayError> {
        let topic = target.collection.topic();
        for letter in letters {
            let offset: Offset = letter.origin.offset;
            let mut reader = self.log.read(&topic, partition, offset..offset + 1).await?;
            let mut records = Records::new();
            reader.fetch(&mut records, Limits { records: 1, bytes: 1 }).await?;
            let events: Vec<EventRef<'_>> = records.iter().filter_map(|r| EventRef::decode(r).ok()).collect();
            let rewritten = self.job.rewrite(target, &request.feed.epochs, partition, WriteMode::Apply, events).await?;
            if let Some(rejected) = rewritten.rejected.into_iter().next() {
                return Ok(Some(rejected.reason));
            }
            done.applied += rewritten.applied;
            done.superseded += rewritten.stale;
        }
        Ok(None)
    }

    async fn wait_for_workers(&self) -> Result<(), ReplayError> {
        let released_at = self.env.now();
        for _ in 0..WORKER_SILENT.as_secs() {
            let workers = status::heartbeats(&*self.log).await?.remove(&self.name).unwrap_or_default();
            let unaware = workers.iter().any(|worker| {
                let at = primal_core::Timestamp(worker.at);
                let alive =
                    matches!(worker.state, State::Running | State::Retrying) && released_at.since(at) < WORKER_SILENT;
                alive && at <= released_at
            });
            if !unaware {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // A batch may have been sorted just before the worker looked.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }
}
