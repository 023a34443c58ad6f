//! `replay gc`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use primal_replay::{Garbage, Part};
use primal_runtime::Pace;

use super::{feeds, span};
use crate::output;
use crate::{ConfigFile, Outcome, interrupted};

/// Drop what replays have left: the generations before the live ones, and rebuilds that nobody finishes. Lists them; with
/// --execute they are dropped.
#[derive(Args)]
pub(super) struct Gc {
    #[command(flatten)]
    config: ConfigFile,
    /// Only these sinks; all when absent
    #[arg(long = "sink", value_name = "A,B", value_delimiter = ',')]
    sinks: Vec<String>,
    /// Only these collections; all of the sink's when absent
    #[arg(long = "collection", value_name = "A,B", value_delimiter = ',')]
    collections: Vec<String>,
    /// Keep what was swapped out, or was last worked on, more recently than this
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "7d")]
    older_than: Duration,
    /// Drop what is listed
    #[arg(long)]
    execute: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Gc {
    pub(super) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let mut board = hub.replays().await?;
        let cancel = interrupted();
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for sink in hub.sinks(&self.sinks)? {
            let replay = Arc::new(hub.replay(sink, Pace::default(), cancel.clone()).await?);
            for feed in feeds(&hub, sink, &self.collections)? {
                seen.insert((sink.name.clone(), feed.collection.to_string()));
                for left in replay.left(&feed, &board, self.older_than).await? {
                    found.push((replay.clone(), feed.clone(), left));
                }
            }
        }
        let listed: Vec<_> = found.iter().map(|(_, _, left)| left).collect();
        if self.json {
            output::json(&listed)?;
        } else {
            let cells = listed.iter().map(|left| {
                vec![
                    left.sink.clone(),
                    left.collection.clone(),
                    left.place.clone(),
                    match left.why {
                        Garbage::Previous => "previous".to_owned(),
                        Garbage::Abandoned => "abandoned rebuild".to_owned(),
                    },
                    left.since.map_or("not known".to_owned(), |since| since.to_string()),
                    if left.old { "drop" } else { "keep" }.to_owned(),
                ]
            });
            output::table(&["sink", "collection", "at", "what", "since", "and"], cells.collect());
        }
        // What is kept above is younger than that, and so is the job that says how old it is.
        let narrowed = !self.sinks.is_empty() || !self.collections.is_empty();
        let within = |part: &Part| !narrowed || seen.contains(&(part.sink.clone(), part.collection.clone()));
        let old = found.iter().filter(|(_, _, left)| left.old);
        if !self.execute {
            let records = board.ended(self.older_than, within).len();
            output::remark(&format!(
                "{} and the records of {records} ended jobs would be dropped; add --execute to do it",
                old.count()
            ));
            return Ok(());
        }
        let mut dropped = 0;
        for (replay, feed, left) in old {
            board.refresh().await?;
            replay.drop_left(feed, &board, left).await?;
            dropped += 1;
        }
        board.refresh().await?;
        let ended = board.ended(self.older_than, within);
        board.forget(&ended).await?;
        output::remark(&format!("the records of {} ended jobs dropped", ended.len()));
        output::remark(&format!("{dropped} dropped; there is no --rollback to them any more"));
        Ok(())
    }
}
