//! Tables and views of generations: what makes those that are there fit, and which one readers see.

use async_trait::async_trait;
use primal_core::columns::{Column, Layout};
use primal_core::sink::{Build, Projection, Swap, Target};
use primal_core::{Fault, SinkError};

use super::names::{self, Generations, Live, Made, bare, definition, literal, quote, type_name};
use super::{ClickHouse, Place};

impl ClickHouse {
    /// Makes a target's tables, or sees that those that are there fit and gives them the columns that they lack.
    pub(super) async fn prepare_with(&self, target: &Target, plan: Option<&str>) -> Result<(), SinkError> {
        let found = self.generations(&target.collection).await?;
        if found.foreign {
            let message = format!(
                "table {:?} of {} is not of this hub; move it out of the way, or set `database` for sink {}",
                target.collection.as_str(),
                self.http.address,
                target.sink
            );
            return Err(SinkError::new(Fault::Incompatible, message));
        }
        if found.has_view()
            && let Some(reason) = target.wrong_generation(found.builds().live)
        {
            return Err(SinkError::new(Fault::Fenced, reason));
        }
        let layout = Layout::of(target);
        let grown = self.prepare_table(target, &layout, plan).await?;
        let positions = format!(
            "CREATE TABLE IF NOT EXISTS {} (_sink String, _partition Int32, _position UInt64, _mark String) \
             ENGINE = ReplacingMergeTree(_position) ORDER BY (_sink, _partition) \
             SETTINGS non_replicated_deduplication_window = 10000",
            self.table(&names::positions(target))
        );
        self.run("preparing", &positions).await?;
        if let Build::Live(live) = target.build
            && (grown || !found.has_view())
        {
            let previous = found.builds().previous;
            self.show(target, &Live { live, previous }, if grown { "OR REPLACE " } else { "" }).await?;
        }
        Ok(())
    }

    /// The table of the data; whether one that was there has got columns.
    async fn prepare_table(&self, target: &Target, layout: &Layout, plan: Option<&str>) -> Result<bool, SinkError> {
        let name = target.position_name();
        let query = format!(
            "SELECT name, type FROM system.columns WHERE database = {} AND table = {} AND default_kind = ''",
            literal(&self.database),
            literal(&name)
        );
        let found = self.strings("reading columns of", &query).await?;
        let found: Vec<(String, String)> = found
            .into_iter()
            .filter_map(|row| <[String; 2]>::try_from(row).ok())
            .map(|[name, kind]| (name, bare(&kind).to_owned()))
            .collect();
        let (table, comment) = (self.table(&name), Made { plan: plan.map(str::to_owned) });
        if found.is_empty() {
            self.run("preparing", &format!("CREATE DATABASE IF NOT EXISTS {}", quote(&self.database))).await?;
            self.run("preparing", &created(&table, target.projection, layout, &comment)).await?;
            return Ok(false);
        }
        let missing = layout.missing(target, &found, type_name)?;
        for column in &missing {
            let add = format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {}", definition(column, true));
            self.run("adding a column to", &add).await?;
        }
        if plan.is_some() {
            let comment = literal(&serde_json::to_string(&comment).unwrap_or_default());
            self.run("preparing", &format!("ALTER TABLE {table} MODIFY COMMENT {comment}")).await?;
        }
        Ok(!missing.is_empty())
    }

    /// Shows readers a generation, in one act.
    async fn show(&self, target: &Target, live: &Live, replace: &str) -> Result<(), SinkError> {
        let layout = Layout::of(target);
        let (view, columns) = (self.table(target.collection.as_str()), names::columns(&layout));
        let table = self.table(&target.position_name());
        let comment = literal(&serde_json::to_string(live).unwrap_or_default());
        let unless = if replace.is_empty() { "IF NOT EXISTS " } else { "" };
        let statement = format!(
            "CREATE {replace}VIEW {unless}{view} AS SELECT {columns} FROM {table} FINAL WHERE NOT _deleted \
             COMMENT {comment}"
        );
        self.run("showing a generation in", &statement).await.map(drop)
    }

    async fn drop_build(&self, target: &Target) -> Result<(), SinkError> {
        // The positions first: without them the data are written again, the other way round they would be missed.
        for name in [names::positions(target), target.position_name()] {
            self.run("dropping a build from", &format!("DROP TABLE IF EXISTS {} SYNC", self.table(&name))).await?;
        }
        Ok(())
    }

    /// Whether every position of `to` is at or past that of the live generation. Each of the live ones is written once more,
    /// as it is: who was about to move it is fenced, and asks again which generation is live.
    async fn is_caught_up(&self, live: &Target, to: &Target) -> Result<bool, SinkError> {
        let (held, reached) = tokio::try_join!(self.places(live, None), self.places(to, None))?;
        let at = |partition: i32| reached.iter().find(|(other, _)| *other == partition);
        for (partition, place) in &held {
            let Place { position, .. } = place;
            if at(*partition).is_none_or(|(_, reached)| reached.position < *position)
                || !self.advance(live, *partition, *position, Some(place)).await?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn created(table: &str, projection: Projection, layout: &Layout, comment: &Made) -> String {
    let column = |(index, column): (usize, &Column)| definition(column, index >= layout.data_from);
    let mut columns: Vec<_> = layout.columns.iter().enumerate().map(column).collect();
    let by = if projection == Projection::Events {
        columns.push("_order Int64 MATERIALIZED -_version".to_owned());
        "_order"
    } else {
        "_version"
    };
    // What a position says is there has to be on the disk before the position can be.
    format!(
        "CREATE TABLE IF NOT EXISTS {table} ({}) ENGINE = ReplacingMergeTree({by}) ORDER BY {} \
         SETTINGS fsync_after_insert = 1, fsync_part_directory = 1 COMMENT {}",
        columns.join(", "),
        quote(layout.identity),
        literal(&serde_json::to_string(comment).unwrap_or_default()),
    )
}

#[async_trait]
impl Swap for ClickHouse {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        target.beside()?;
        self.prepare_with(target, Some(plan)).await
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        let generation = to.beside()?;
        let found: Generations = self.generations(&to.collection).await?;
        let builds = found.builds();
        if builds.live == generation {
            return Ok(false);
        }
        let from = to.with_build(Build::Live(builds.live));
        if caught_up && found.has_view() && !self.is_caught_up(&from, to).await? {
            return Ok(false);
        }
        let live = Live { live: generation, previous: found.has_view().then_some(builds.live) };
        self.show(to, &live, "OR REPLACE ").await?;
        if let Some(older) = builds.previous.filter(|older| *older != generation) {
            self.drop_build(&to.with_build(Build::Beside(older))).await?;
        }
        Ok(true)
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        if let Build::Live(_) = target.build {
            return Err(SinkError::new(Fault::Internal, format!("{:?} is live", target.build)));
        }
        self.drop_build(target).await
    }
}
