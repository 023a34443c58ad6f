//! Generations: one is begun as an index beside the live one, and becomes live when the alias moves, in one act of the
//! cluster that fails if another was faster. What was written to the old generation meanwhile is in the old index.

use async_trait::async_trait;
use primal_core::sink::{Build, Swap, Target};
use primal_core::{Fault, Position, SinkError};
use reqwest::Method;
use serde_json::json;

use crate::client::Body;
use crate::search::bulk::Done;
use crate::search::index::{aliased, previous_alias};
use crate::search::{Search, bulk};

impl Search {
    /// Whether every position of `to` is at or past that of the live generation. Each of the live ones is written once more,
    /// as it is: who was about to move it is fenced, and asks again which generation is live.
    async fn is_caught_up(&self, live: &Target, to: &Target) -> Result<bool, SinkError> {
        use primal_core::Sink;
        let (held, reached) = tokio::try_join!(self.positions(live), self.positions(to))?;
        for partition in held.keys() {
            let Some(place) = self.place(live, *partition).await? else { continue };
            let Position(at) = place.position;
            if reached.get(partition).is_none_or(|Position(reached)| *reached < at) {
                return Ok(false);
            }
            let touch = bulk::position(&live.sink, *partition, place.position, Some((place.sequence, place.term)));
            match self.bulk(live, &touch).await?.first() {
                Some(Done::Written) => {}
                Some(Done::Stale) => return Ok(false),
                other => {
                    let message = format!("holding a position of {}: {other:?}", self.http.address);
                    return Err(SinkError::new(Fault::Unavailable, message));
                }
            }
        }
        Ok(true)
    }
}

#[async_trait]
impl Swap for Search {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        target.beside()?;
        self.prepare_with(target, Some(plan)).await
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        let generation = to.beside()?;
        let layout = self.layout(&to.collection).await?;
        let builds = layout.builds();
        if builds.live == generation {
            return Ok(false);
        }
        let from = to.with_build(Build::Live(builds.live));
        if caught_up && layout.has(builds.live) && !self.is_caught_up(&from, to).await? {
            return Ok(false);
        }
        let (base, old, new) = (self.base(&to.collection), self.index(&from), self.index(to));
        let previous = previous_alias(&base);
        let mut actions = Vec::new();
        if layout.has_live() {
            actions.push(json!({ "remove": { "index": old, "alias": base, "must_exist": true } }));
            actions.push(json!({ "add": { "index": old, "alias": previous } }));
        }
        match builds.previous {
            Some(older) if older == generation => {
                actions.push(json!({ "remove": { "index": new, "alias": previous, "must_exist": true } }));
            }
            Some(older) => {
                let older = self.index(&to.with_build(Build::Beside(older)));
                actions.push(json!({ "remove_index": { "index": older } }));
            }
            None => {}
        }
        actions.push(json!({ "add": aliased(&new, &base) }));
        let body = json!({ "actions": actions }).to_string();
        let answer = self.http.ask("swapping generations in", Method::POST, "/_aliases", Body::Json(&body)).await?;
        match answer.status {
            _ if answer.is_good() => Ok(true),
            // Another was faster.
            404 => Ok(false),
            _ => Err(self.failed("swapping generations in", &answer)),
        }
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        if let Build::Live(_) = target.build {
            return Err(SinkError::new(Fault::Internal, format!("{:?} is live", target.build)));
        }
        let path = format!("/{}", self.index(target));
        let answer = self.http.ask("dropping a build from", Method::DELETE, &path, Body::None).await?;
        match answer.status {
            404 => Ok(()),
            _ if answer.is_good() => Ok(()),
            _ => Err(self.failed("dropping a build from", &answer)),
        }
    }
}
