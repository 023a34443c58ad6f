//! A double: a store of the registry with one thing wrong. What is wrong is a [`Wrong`], whose calls do what the store
//! underneath does until one of them is overridden.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use primal_core::batch::Batch;
use primal_core::blocks::{Block, Blocks, Digester, Sums};
use primal_core::settings::{Settings, SettingsError};
use primal_core::sink::{Builds, Health, Outcome, Page, Positions, Reader, SinkSpec, Stored, Swap, Target};
use primal_core::{Collection, Sink, SinkError};

/// The store underneath, and what it was opened with.
pub struct Under {
    pub sink: Arc<dyn Sink>,
    pub settings: Settings,
}

impl Under {
    pub fn swap(&self) -> &dyn Swap {
        self.sink.swap().unwrap()
    }

    pub fn blocks(&self, target: &Target) -> &dyn Blocks {
        self.sink.reader().unwrap().blocks(target).unwrap()
    }
}

/// One thing wrong.
#[async_trait]
pub trait Wrong: Default + Send + Sync + 'static {
    /// The store underneath.
    fn base() -> &'static SinkSpec {
        primal_registry::find("memory").unwrap()
    }

    fn spec() -> SinkSpec {
        SinkSpec { build: Self::build, ..*Self::base() }
    }

    fn build(settings: &Settings) -> Result<Arc<dyn Sink>, SettingsError> {
        let under = Under { sink: (Self::base().build)(settings)?, settings: settings.clone() };
        Ok(Arc::new(Double { under, wrong: Self::default() }))
    }

    async fn check(&self, under: &Under) -> Result<Health, SinkError> {
        under.sink.check().await
    }

    async fn prepare(&self, under: &Under, target: &Target) -> Result<(), SinkError> {
        under.sink.prepare(target).await
    }

    async fn positions(&self, under: &Under, target: &Target) -> Result<Positions, SinkError> {
        under.sink.positions(target).await
    }

    async fn write(&self, under: &Under, target: &Target, batch: Batch<'_>) -> Result<Outcome, SinkError> {
        under.sink.write(target, &batch).await
    }

    fn read(&self, stored: Stored) -> Option<Stored> {
        Some(stored)
    }

    async fn sums(&self, under: &Under, target: &Target) -> Result<Sums, SinkError> {
        under.blocks(target).sums(target).await
    }

    async fn records(
        &self,
        under: &Under,
        target: &Target,
        of: &BTreeSet<Block>,
        cursor: Option<&str>,
    ) -> Result<Page, SinkError> {
        under.blocks(target).records(target, of, cursor).await
    }

    async fn swap(&self, under: &Under, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        under.swap().swap(to, caught_up).await
    }

    async fn discard(&self, under: &Under, target: &Target) -> Result<(), SinkError> {
        under.swap().discard(target).await
    }
}

struct Double<W> {
    under: Under,
    wrong: W,
}

#[async_trait]
impl<W: Wrong> Sink for Double<W> {
    async fn check(&self) -> Result<Health, SinkError> {
        self.wrong.check(&self.under).await
    }

    async fn builds(&self, sink: &str, collection: &Collection) -> Result<Builds, SinkError> {
        self.under.sink.builds(sink, collection).await
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        self.wrong.prepare(&self.under, target).await
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        self.wrong.positions(&self.under, target).await
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        self.wrong.write(&self.under, target, with(batch, batch.events.clone())).await
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    fn swap(&self) -> Option<&dyn Swap> {
        Some(self)
    }

    async fn close(&self) {
        self.under.sink.close().await;
    }
}

/// The same batch with other events.
pub fn with<'a>(batch: &Batch<'_>, events: Vec<primal_core::BatchEvent<'a>>) -> Batch<'a> {
    Batch { partition: batch.partition, advance: batch.advance, mode: batch.mode, events }
}

#[async_trait]
impl<W: Wrong> Reader for Double<W> {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        let found = self.under.sink.reader().unwrap().get(target, identity).await?;
        Ok(found.and_then(|stored| self.wrong.read(stored)))
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        let page = self.under.sink.reader().unwrap().scan(target, cursor).await?;
        let records = page.records.into_iter().filter_map(|stored| self.wrong.read(stored)).collect();
        Ok(Page { records, next: page.next })
    }

    fn blocks(&self, target: &Target) -> Option<&dyn Blocks> {
        self.under.sink.reader()?.blocks(target).map(|_| self as &dyn Blocks)
    }
}

#[async_trait]
impl<W: Wrong> Blocks for Double<W> {
    fn digester(&self, target: &Target) -> Digester {
        self.under.blocks(target).digester(target)
    }

    async fn sums(&self, target: &Target) -> Result<Sums, SinkError> {
        self.wrong.sums(&self.under, target).await
    }

    async fn records(&self, target: &Target, of: &BTreeSet<Block>, cursor: Option<&str>) -> Result<Page, SinkError> {
        self.wrong.records(&self.under, target, of, cursor).await
    }
}

#[async_trait]
impl<W: Wrong> Swap for Double<W> {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        self.under.swap().begin(target, plan).await
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        self.wrong.swap(&self.under, to, caught_up).await
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        self.wrong.discard(&self.under, target).await
    }
}
