//! Generations. Which one is live is one document, so that a swap is one write to it; the view under the plain name follows.

use ::mongodb::ClientSession;
use ::mongodb::bson::{Document, doc};
use async_trait::async_trait;
use primal_core::sink::{Build, Builds, Positions, Projection, Rebuild, Swap, Target};
use primal_core::{Fault, SinkError};

use crate::mongodb::{Mongo, code_of, records};
use crate::state::{STATE, beginning_with, builds_of, document_of, generations, positions};

#[async_trait]
impl Swap for Mongo {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        let rebuild = Rebuild { generation: target.beside()?, plan: plan.to_owned() };
        let begun = doc! { "rebuild": rebuild.generation as i64, "plan": rebuild.plan };
        let id = generations(&target.sink, &target.collection);
        let update = doc! {
            "q": { "_id": id }, "u": { "$set": begun, "$setOnInsert": { "live": 1_i64 } }, "upsert": true,
        };
        self.server.update_state(None, "recording a rebuild in", vec![update]).await.map(|_| ())
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        to.beside()?;
        let swapped = if self.server.open().await?.transactions {
            self.transaction("swapping generations in", async |session| {
                self.move_pointer(Some(session), to, caught_up).await
            })
            .await?
        } else {
            self.move_pointer(None, to, caught_up).await?
        };
        let Some(before) = swapped else { return Ok(false) };
        if let Some(older) = older(&before, to) {
            self.drop_build(&older).await?;
        }
        // It is done already: a view that cannot be changed now is set right when the next worker prepares.
        let _ = self.show(&to.with_build(Build::Live(to.beside()?))).await;
        Ok(true)
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        if let Build::Beside(generation) = target.build {
            let id = generations(&target.sink, &target.collection);
            let forget = |name: &str, unset: Document| {
                let mut q = doc! { "_id": &id };
                q.insert(name, generation as i64);
                doc! { "q": q, "u": { "$unset": unset } }
            };
            let updates = vec![
                forget("rebuild", doc! { "rebuild": "", "plan": "" }),
                forget("previous", doc! { "previous": "" }),
            ];
            self.server.update_state(None, "dropping a build from", updates).await?;
        }
        self.drop_build(target).await
    }
}

/// What a swap leaves no room for: the generation before the one that was live.
fn older(before: &Builds, to: &Target) -> Option<Target> {
    let older = before.previous.map(|older| to.with_build(Build::Beside(older)));
    older.filter(|older| older.build != to.build)
}

fn is_behind(next: &Positions, live: &Positions) -> bool {
    live.iter().any(|(partition, position)| next.get(partition).is_none_or(|n| n < position))
}

impl Mongo {
    /// Makes a generation live by compare-and-set; what was before, or `None` if it may not be. In a transaction it
    /// collides with every write to the live generation. Without one the live generation may take another batch between
    /// the comparison and the move; its successor has it as soon as its worker has read so far.
    async fn move_pointer(
        &self,
        mut session: Option<&mut ClientSession>,
        to: &Target,
        caught_up: bool,
    ) -> Result<Option<Builds>, SinkError> {
        let (generation, id) = (to.beside()?, generations(&to.sink, &to.collection));
        let found = self.server.state(session.as_deref_mut(), doc! { "$in": [&id] }).await?;
        let builds = builds_of(found.first());
        let live = to.with_build(Build::Live(builds.live));
        if session.is_some() {
            let touch = doc! {
                "q": { "_id": beginning_with(&positions(&live)) }, "u": { "$inc": { "held": 1_i64 } }, "multi": true,
            };
            self.server.update_state(session.as_deref_mut(), "swapping generations in", vec![touch]).await?;
        }
        let next = self.server.positions_of(session.as_deref_mut(), to).await?;
        let now = self.server.positions_of(session.as_deref_mut(), &live).await?;
        if builds.live == generation || (caught_up && is_behind(&next, &now)) {
            return Ok(None);
        }
        let after = Builds {
            live: generation,
            previous: Some(builds.live),
            rebuild: builds.rebuild.clone().filter(|rebuild| rebuild.generation != generation),
        };
        let update = doc! { "q": { "_id": id, "live": builds.live as i64 }, "u": document_of(&after) };
        let moved = self.server.update_state(session, "swapping generations in", vec![update]).await?;
        Ok((moved == 1).then_some(builds))
    }

    /// Positions first: records without them are nobody's, positions without records would be believed.
    async fn drop_build(&self, target: &Target) -> Result<(), SinkError> {
        let doing = "dropping a build from";
        let delete = doc! { "q": { "_id": beginning_with(&positions(target)) }, "limit": 0 };
        self.server.run(None, doing, doc! { "delete": STATE, "deletes": [delete] }, true).await?;
        let open = self.server.open().await?;
        let call = async {
            match open.database.run_command(doc! { "drop": records(target) }).await {
                Ok(_) => Ok(()),
                // NamespaceNotFound.
                Err(error) if code_of(&error) == Some(26) => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.server.bounded(doing, call).await
    }

    /// Makes the plain name a view of the live generation. A server without views has none.
    pub(crate) async fn show(&self, live: &Target) -> Result<(), SinkError> {
        let plain = live.collection.to_string();
        let list = doc! { "listCollections": 1, "filter": { "name": &plain } };
        let answer = self.server.run(None, "preparing", list, false).await?;
        let found = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).ok();
        let found = found.and_then(|found| found.first()).and_then(|one| one.as_document());
        let on = found.and_then(|found| found.get_document("options").ok()?.get_str("viewOn").ok());
        // What was deleted is kept for its version only.
        let pipeline = match live.projection {
            Projection::Events => vec![],
            _ => vec![doc! { "$match": { "_deleted": { "$ne": true } } }],
        };
        match (found, on) {
            (Some(_), Some(on)) if on == records(live) => Ok(()),
            (Some(_), Some(on)) if on.starts_with(&format!("{plain}__g")) => {
                let change = doc! { "collMod": plain, "viewOn": records(live), "pipeline": pipeline };
                self.server.run(None, "preparing", change, false).await.map(|_| ())
            }
            (Some(_), _) => {
                let message = format!(
                    "{plain:?} in database {:?} at {} was not made by this hub; rename it, or set `database` for sink {}",
                    self.server.database, self.server.address, live.sink
                );
                Err(SinkError::new(Fault::Incompatible, message))
            }
            (None, _) => {
                let made = self.make(doc! { "create": plain, "viewOn": records(live), "pipeline": pipeline }).await;
                let refused = |error: &SinkError| {
                    let cause = error.source.as_ref().and_then(|s| s.downcast_ref::<::mongodb::error::Error>());
                    cause.and_then(code_of).is_some_and(|code| matches!(code, 9 | 59 | 115 | 238))
                };
                match made {
                    Err(error) if refused(&error) => Ok(()),
                    other => other,
                }
            }
        }
    }
}
