//! What replays have left: in a store the generation before the live one, and rebuilds that nobody finishes; in the log the
//! records of jobs that have ended.

use std::time::Duration;

use primal_core::sink::Build;
use primal_core::{Env, Timestamp};
use primal_runtime::Feed;
use serde::Serialize;

use crate::board::{Board, row};
use crate::jobs::{Job, Part, State};
use crate::{Replay, ReplayError};

/// Why a generation is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Garbage {
    /// It was live before the last swap, and is there for `--rollback`.
    Previous,
    /// It was being built, and no process is at it.
    Abandoned,
}

/// A generation that is not live.
#[derive(Clone, Debug, Serialize)]
pub struct Left {
    /// The sink.
    pub sink: String,
    /// The collection.
    pub collection: String,
    /// Its number.
    pub generation: u64,
    /// Table, hash or index.
    pub place: String,
    /// Why it is there.
    pub why: Garbage,
    /// Since when, where a job says it.
    pub since: Option<Timestamp>,
    /// Whether it is old enough to be dropped. One of which no job says how old it is counts as old.
    pub old: bool,
}

impl Replay {
    /// The generations of a collection that are not live and that nobody is building.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub async fn left(&self, feed: &Feed, board: &Board, older_than: Duration) -> Result<Vec<Left>, ReplayError> {
        let collection = &feed.collection;
        let down = |error| ReplayError::Store(self.name.clone(), error);
        let builds = self.sink.builds(&self.name, collection).await.map_err(down)?;
        let (swapped, heard) = board.last(&self.name, collection.as_str());
        let left = |generation, why, since: Option<Timestamp>| Left {
            sink: self.name.clone(),
            collection: collection.to_string(),
            generation,
            place: feed.target(&self.name, Build::Beside(generation)).place(),
            why,
            since,
            old: is_old(&self.env, since, older_than),
        };
        let mut all: Vec<Left> = builds.previous.map(|g| left(g, Garbage::Previous, swapped)).into_iter().collect();
        if !board.is_taken(&self.name, collection.as_str()) {
            all.extend(builds.rebuild.map(|rebuild| left(rebuild.generation, Garbage::Abandoned, heard)));
        }
        Ok(all)
    }

    /// Drops one of them, if it still is what it was.
    ///
    /// # Errors
    /// It has become live, or another process is at the collection.
    pub async fn drop_left(&self, feed: &Feed, board: &Board, left: &Left) -> Result<(), ReplayError> {
        let builds = self.sink.builds(&self.name, &feed.collection).await?;
        let rebuilt = builds.rebuild.map(|rebuild| rebuild.generation);
        let is_there = match left.why {
            Garbage::Previous => builds.previous == Some(left.generation),
            Garbage::Abandoned => rebuilt == Some(left.generation),
        };
        if !is_there || board.is_taken(&self.name, feed.collection.as_str()) {
            return Err(ReplayError::Taken(format!("{} is in use meanwhile and was left as it is", left.place)));
        }
        let target = feed.target(&self.name, Build::Beside(left.generation));
        self.swapping()?.discard(&target).await?;
        Ok(())
    }
}

impl Board {
    /// The jobs that are done or cancelled, were last heard of so long ago, and have only parts that `within` says yes to.
    /// Nobody takes up such a job again.
    pub fn ended(&self, older_than: Duration, within: impl Fn(&Part) -> bool) -> Vec<Job> {
        let is_old = |job: &Job| self.env.now().since(job.heard) >= older_than;
        let is_over = |job: &Job| matches!(job.state, State::Done | State::Cancelled);
        let jobs = self.jobs().into_iter();
        jobs.filter(|job| is_over(job) && is_old(job) && job.parts.iter().all(&within)).collect()
    }

    /// Removes the records of jobs.
    ///
    /// # Errors
    /// The log's.
    pub async fn forget(&mut self, jobs: &[Job]) -> Result<(), ReplayError> {
        for job in jobs {
            let gone = ["beat", "wish", "job"].map(|what| row(&job.id, what, None::<&Job>));
            let gone = gone.into_iter().collect::<Result<Vec<_>, _>>()?;
            self.log.append(gone).await.map_err(|failed| failed.error)?;
        }
        Ok(self.refresh().await?)
    }
}

fn is_old(env: &Env, since: Option<Timestamp>, older_than: Duration) -> bool {
    since.is_none_or(|since| env.now().since(since) >= older_than)
}
