//! The store as a sink of one process. Each class has the steps that such stores have: one for a transaction; for the
//! others one per record, and the position last. A request that was sent takes effect even if nobody waits for it any more.

use std::sync::Arc;

use async_trait::async_trait;
use primal_core::batch::{Advance, Batch, BatchEvent};
use primal_core::error::Rejected;
use primal_core::event::Op;
use primal_core::sink::{
    Build, Builds, Class, Content, Health, Outcome, Page, Positions, Reader, Rebuild, Sink, Stored, Swap, Target,
};
use primal_core::{Collection, Fault, SinkError};
use primal_log_sim::{Failed, Process};
use tokio::sync::oneshot;

use crate::judge::Writing;
use crate::store::{Change, Store, Tables};

/// A connection of one process to the store.
pub struct SimSink {
    process: Process,
    store: Arc<Store>,
}

impl SimSink {
    /// For a process.
    pub fn new(process: &Process, store: &Arc<Store>) -> Arc<Self> {
        Arc::new(SimSink { process: process.clone(), store: store.clone() })
    }

    async fn step(&self, what: &'static str) -> Result<(), SinkError> {
        self.process.step(what).await.map_err(unavailable)
    }

    /// Sends a request; it takes effect after a while, whether or not the answer is waited for.
    async fn send<T: Send + 'static>(
        &self,
        what: &'static str,
        effect: impl FnOnce(&Store, &mut Tables) -> T + Send + 'static,
    ) -> Result<T, SinkError> {
        let pause = self.process.send(what).await.map_err(unavailable)?;
        let (reply, answer) = oneshot::channel();
        let store = self.store.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let done = effect(&store, &mut store.tables());
            let _ = reply.send(done);
        });
        answer.await.map_err(|_| SinkError::new(Fault::Unavailable, "the store went away"))
    }

    /// Swaps; `asked` is whether it was asked to have caught up, `look` whether the store looks.
    pub async fn swap_if(&self, to: &Target, asked: bool, look: bool) -> Result<bool, SinkError> {
        self.step("store.swap").await?;
        let swapped = swap(&self.store, &mut self.store.tables(), to, asked, look)?;
        self.step("store.swap.answer").await?;
        Ok(swapped)
    }

    async fn transaction(&self, writing: Writing, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        self.refused(batch.events.iter())?;
        self.step("store.commit").await?;
        let mut outcome = Outcome::default();
        {
            let mut tables = self.store.tables();
            tables.check_build(&writing.target)?;
            if let Some(advance) = batch.advance {
                tables.check_position(&writing, advance.expected)?;
            }
            for event in &batch.events {
                count(&mut outcome, self.store.apply(&mut tables, &writing, &change(&writing, event, true))?);
            }
            if let Some(advance) = batch.advance {
                self.store.save(&mut tables, &writing, advance.next)?;
            }
        }
        self.step("store.commit.answer").await?;
        Ok(outcome)
    }

    /// Record by record, then the position.
    async fn one_by_one(&self, writing: Writing, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        self.step("store.look").await?;
        {
            let tables = self.store.tables();
            tables.check_build(&writing.target)?;
            if let Some(advance) = batch.advance {
                tables.check_position(&writing, advance.expected)?;
            }
        }
        // A store that says what it refused has applied the rest; in an append store that would be what waits behind it.
        let partly = self.store.names_rejects && !writing.target.projection.keeps_every_event();
        if !partly {
            self.refused(batch.events.iter())?;
        }
        let mut outcome = Outcome::default();
        for event in batch.events.iter().filter(|event| !self.store.refuses(event.data)) {
            let change = change(&writing, event, self.store.class != Class::Overwrite);
            let writing = writing.clone();
            let applied = self.send("store.record", move |store, tables| store.apply(tables, &writing, &change));
            count(&mut outcome, applied.await??);
            self.step("store.record.answer").await?;
        }
        self.refused(batch.events.iter())?;
        if let Some(advance) = batch.advance {
            self.send("store.position", move |store, tables| save(store, tables, &writing, advance)).await??;
            self.step("store.position.answer").await?;
        }
        Ok(outcome)
    }

    fn refused<'a>(&self, events: impl Iterator<Item = &'a BatchEvent<'a>>) -> Result<(), SinkError> {
        let refused: Vec<Rejected> = events
            .filter(|event| self.store.refuses(event.data))
            .map(|event| Rejected { offset: event.record().offset, reason: "poison".to_owned() })
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        let list = if self.store.names_rejects { refused } else { Vec::new() };
        Err(SinkError::new(Fault::Rejected(list), "poison"))
    }
}

fn save(store: &Store, tables: &mut Tables, writing: &Writing, advance: Advance) -> Result<(), SinkError> {
    // Only a store that compares can move the position by compare-and-set; elsewhere the last writer's is right, as his
    // data is.
    if store.class == Class::Versioned {
        tables.check_build(&writing.target)?;
        tables.check_position(writing, advance.expected)?;
    }
    store.save(tables, writing, advance.next)
}

fn count(outcome: &mut Outcome, applied: bool) {
    if applied {
        outcome.applied += 1;
    } else {
        outcome.stale += 1;
    }
}

fn change(writing: &Writing, event: &BatchEvent<'_>, tombstones: bool) -> Change {
    let identity = event.identity(writing.target.projection).to_owned();
    let content = event.data.map_or(Content::Deleted, |data| Content::Document(data.to_owned()));
    let keep = tombstones || event.op != Op::Delete;
    let after = keep.then(|| Stored {
        identity: identity.clone(),
        version: event.version,
        event_id: event.id.to_owned(),
        time: event.time(),
        primal: event.primal(),
        content,
    });
    Change { identity, version: event.version, after }
}

fn unavailable(failed: Failed) -> SinkError {
    SinkError::new(Fault::Unavailable, format!("injected at {}", failed.0))
}

#[async_trait]
impl Sink for SimSink {
    async fn check(&self) -> Result<Health, SinkError> {
        self.step("store.check").await?;
        Ok(Health { version: "simulated".to_owned(), notes: Vec::new() })
    }

    async fn builds(&self, _: &str, _: &Collection) -> Result<Builds, SinkError> {
        self.step("store.builds").await?;
        Ok(self.store.tables().builds.clone())
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        self.step("store.prepare").await?;
        self.store.tables().records.entry(target.position_name()).or_default();
        Ok(())
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        self.step("store.positions").await?;
        Ok(self.store.tables().positions.get(&target.position_name()).cloned().unwrap_or_default())
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        let writing = Writing {
            process: self.process.clone(),
            target: target.clone(),
            partition: batch.partition,
            advancing: batch.advance.is_some(),
            mode: batch.mode,
            began: self.process.world().now(),
        };
        match self.store.class {
            Class::Transactional => self.transaction(writing, batch).await,
            Class::Versioned | Class::Overwrite | Class::Append => self.one_by_one(writing, batch).await,
        }
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    fn swap(&self) -> Option<&dyn Swap> {
        Some(self)
    }

    async fn close(&self) {}
}

/// Records in a page of a scan: few, so that the store changes between pages.
const PAGE: usize = 3;

#[async_trait]
impl Reader for SimSink {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        self.step("store.get").await?;
        let tables = self.store.tables();
        Ok(tables.records.get(&target.position_name()).and_then(|records| records.get(identity)).cloned())
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        self.step("store.scan").await?;
        let tables = self.store.tables();
        let Some(records) = tables.records.get(&target.position_name()) else { return Ok(Page::default()) };
        let after = records.values().filter(|stored| cursor.is_none_or(|cursor| stored.identity.as_str() > cursor));
        let page: Vec<Stored> = after.take(PAGE).cloned().collect();
        let next = page.last().filter(|_| page.len() == PAGE).map(|last| last.identity.clone());
        Ok(Page { records: page, next })
    }
}

#[async_trait]
impl Swap for SimSink {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        self.step("store.begin").await?;
        let generation = target.beside()?;
        self.store.tables().builds.rebuild = Some(Rebuild { generation, plan: plan.to_owned() });
        self.step("store.begin.answer").await
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        self.swap_if(to, caught_up, caught_up).await
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        self.step("store.discard").await?;
        {
            let mut tables = self.store.tables();
            tables.drop_build(target);
            if let Build::Beside(generation) = target.build {
                if tables.abandoned == Some(generation) {
                    self.store.judge.broken("resumed", format!("generation {generation} was thrown away"));
                }
                tables.builds.rebuild.take_if(|rebuild| rebuild.generation == generation);
                tables.builds.previous.take_if(|previous| *previous == generation);
            }
        }
        self.step("store.discard.answer").await
    }
}

fn swap(store: &Store, tables: &mut Tables, to: &Target, asked: bool, look: bool) -> Result<bool, SinkError> {
    let generation = to.beside()?;
    let builds = tables.builds.clone();
    let from = to.with_build(Build::Live(builds.live));
    let positions = |target: &Target| tables.positions.get(&target.position_name()).cloned().unwrap_or_default();
    let (live, next) = (positions(&from), positions(to));
    let behind = live.iter().any(|(partition, position)| next.get(partition).is_none_or(|n| n < position));
    if builds.live == generation || (look && behind) {
        return Ok(false);
    }
    let records = |target: &Target| tables.records.get(&target.position_name()).cloned().unwrap_or_default();
    let settled = |stored: &Stored| {
        let offset = stored.version.0 as i64 - 1;
        let partition = store.judge.with_facts(|facts| facts.partition_of(offset, &stored.event_id));
        partition.and_then(|partition| live.get(&partition)).is_some_and(|position| position.offset() > offset)
    };
    store.judge.swapped(&records(&from), &records(to), settled, asked);
    if let Some(older) = builds.previous.filter(|older| *older != generation) {
        tables.drop_build(&to.with_build(Build::Beside(older)));
    }
    let rebuild = builds.rebuild.filter(|rebuild| rebuild.generation != generation);
    tables.abandoned.take_if(|abandoned| *abandoned == generation);
    tables.builds = Builds { live: generation, previous: Some(builds.live), rebuild };
    Ok(true)
}

impl Tables {
    fn drop_build(&mut self, target: &Target) {
        self.records.remove(&target.position_name());
        self.positions.remove(&target.position_name());
    }
}
