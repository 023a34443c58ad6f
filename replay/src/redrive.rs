//! Redriving dead letters: once the cause is gone, parked keys get their events in order, with their original versions,
//! as if nothing had happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use primal_core::batch::Mode as WriteMode;
use primal_core::event::EventRef;
use primal_core::log::Limits;
use primal_core::sink::Build;
use primal_core::{Fault, Records, Target, Version};
use primal_runtime::dead_letter::{self, DeadLetter, Kind, Origin};
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
        self.writes_in_place("publish the entities anew")?;
        let mut done = Redriven::default();
        self.round(request, &request.selection.keys, &mut done).await?;
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
        let collection = &request.feed.collection;
        let targets = self.generations(request).await?;
        // Parked keys first: the letters of every key that is found parked are in the log by then.
        let parked = self.job.parked();
        parked.refresh(&*self.log).await?;
        let chosen = |key: &String| keys.is_empty() || keys.contains(key);
        let mut waiting: BTreeMap<String, Vec<DeadLetter>> =
            parked.keys_of(collection).into_iter().filter(chosen).map(|key| (key, Vec::new())).collect();
        for letter in dead_letter::read_all(&*self.log, &self.name).await?.into_values() {
            let ours = letter.origin.topic == collection.as_str() && letter.kind != Kind::Undecodable;
            if ours && chosen(&letter.key) {
                waiting.entry(letter.key.clone()).or_default().push(letter);
            }
        }
        for (key, mut letters) in waiting {
            letters.sort_by_key(|letter| letter.version);
            let mut refused = None;
            let mut applied = Vec::new();
            for letter in &letters {
                refused = self.redrive_letter(request, &targets, letter, done).await?;
                if refused.is_some() {
                    break;
                }
                applied.push(dead_letter::redriven(&self.name, letter));
            }
            self.log.append(applied).await.map_err(|failed| failed.error)?;
            match refused {
                None => {
                    let release = BTreeMap::from([(key.clone(), None::<Version>)]);
                    parked.set(&*self.log, collection, &release).await.map_err(|failed| failed.error)?;
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

    /// The live generation, and then those beside it that may become live: they leave out the same dead letters.
    async fn generations(&self, request: &Request) -> Result<Vec<Target>, ReplayError> {
        let builds = self.sink.builds(&self.name, &request.feed.collection).await?;
        let live = request.feed.target(&self.name, Build::Live(builds.live));
        self.sink.prepare(&live).await?;
        let mut targets = vec![live];
        let beside = builds.rebuild.map(|rebuild| rebuild.generation).into_iter().chain(builds.previous);
        for generation in beside {
            let target = request.feed.target(&self.name, Build::Beside(generation));
            match self.sink.prepare(&target).await {
                Ok(()) => targets.push(target),
                // One that was built for another schema or projection can only be built anew.
                Err(error) if error.fault == Fault::Incompatible => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(targets)
    }

    /// Applies the event of one letter to all generations; what the store says if the live one refuses it.
    async fn redrive_letter(
        &self,
        request: &Request,
        targets: &[Target],
        letter: &DeadLetter,
        done: &mut Redriven,
    ) -> Result<Option<String>, ReplayError> {
        let Origin { partition, epoch, .. } = letter.origin;
        // The topic was re-created since: the event is gone, and what came later stands for the key.
        if epoch < request.feed.epochs.oldest() {
            done.superseded += 1;
            return Ok(None);
        }
        let records = self.record_at(request, letter).await?;
        let events: Vec<EventRef<'_>> = records.iter().filter_map(|r| EventRef::decode(r).ok()).collect();
        for (index, target) in targets.iter().enumerate() {
            let (epochs, events) = (&request.feed.epochs, events.clone());
            let rewritten = self.job.rewrite(target, epochs, partition, WriteMode::Apply, events).await?;
            if index > 0 {
                continue;
            }
            if let Some(rejected) = rewritten.rejected.into_iter().next() {
                return Ok(Some(rejected.reason));
            }
            done.applied += rewritten.applied;
            done.superseded += rewritten.stale;
        }
        Ok(None)
    }

    /// The record that a letter is about, as it stands in the log.
    pub(crate) async fn record_at(&self, request: &Request, letter: &DeadLetter) -> Result<Records, ReplayError> {
        let Origin { partition, offset, .. } = letter.origin;
        let mut reader = self.log.read(&request.feed.collection.topic(), partition, offset..offset + 1).await?;
        let mut records = Records::new();
        reader.fetch(&mut records, Limits { records: 1, bytes: 1 }).await?;
        Ok(records)
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
