//! Doubles that add up wrongly.

use std::collections::BTreeSet;

use async_trait::async_trait;
use primal_core::SinkError;
use primal_core::blocks::{Block, Sums};
use primal_core::sink::{Page, SinkSpec, Target};

use super::double::{Under, Wrong};

fn postgres() -> &'static SinkSpec {
    primal_registry::find("postgres").unwrap()
}

/// Forgets one record, as an aggregate that leaves out tombstones would.
#[derive(Default)]
pub struct LeavesOneOut;
#[async_trait]
impl Wrong for LeavesOneOut {
    fn base() -> &'static SinkSpec {
        postgres()
    }

    async fn sums(&self, under: &Under, target: &Target) -> Result<Sums, SinkError> {
        let mut sums = under.blocks(target).sums(target).await?;
        sums.blocks.values_mut().for_each(|sum| sum.low -= 1);
        Ok(sums)
    }
}

/// Gives all records, whatever the block.
#[derive(Default)]
pub struct GivesAll;
#[async_trait]
impl Wrong for GivesAll {
    fn base() -> &'static SinkSpec {
        postgres()
    }

    async fn records(
        &self,
        under: &Under,
        target: &Target,
        _: &BTreeSet<Block>,
        cursor: Option<&str>,
    ) -> Result<Page, SinkError> {
        under.sink.reader().unwrap().scan(target, cursor).await
    }
}
