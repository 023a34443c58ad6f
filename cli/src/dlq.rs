//! `primalcore dlq`.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use primal_audit::Selection;
use primal_replay::Request;
use primal_runtime::{Feed, Pace, Parked, dead_letter};

use crate::output;
use crate::{ConfigFile, Failure, Outcome, interrupted};

#[derive(Args)]
pub(crate) struct Dlq {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What a sink refused, and what waits behind it
    List(Which),
    /// Try dead letters again, in order, and release their keys
    Redrive(Which),
}

#[derive(Args)]
struct Which {
    #[command(flatten)]
    config: ConfigFile,
    /// The sink's name in the config
    #[arg(long, value_name = "NAME")]
    sink: String,
    /// Only this collection
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Only this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Dlq {
    pub(crate) async fn run(self) -> Outcome {
        match self.command {
            Command::List(which) => which.list().await,
            Command::Redrive(which) => which.redrive().await,
        }
    }
}

impl Which {
    async fn list(self) -> Outcome {
        let hub = self.config.open().await?;
        let sink = hub.config.sink(&self.sink).map_err(Failure::usage)?;
        let parked = Parked::load(&*hub.log, &sink.name).await.map_err(Failure::failed)?;
        let letters = dead_letter::read_all(&*hub.log, &sink.name).await.map_err(Failure::failed)?;
        let wanted = |letter: &&dead_letter::DeadLetter| {
            self.collection.as_ref().is_none_or(|c| *c == letter.origin.topic)
                && self.key.as_ref().is_none_or(|k| *k == letter.key)
        };
        let letters: Vec<_> = letters.values().filter(wanted).collect();
        if self.json {
            return output::json(&letters);
        }
        let cells = letters.iter().map(|letter| {
            let collection = primal_core::Collection::new(&letter.origin.topic).ok();
            let is_parked = collection.is_some_and(|collection| parked.since(&collection, &letter.key).is_some());
            vec![
                letter.origin.topic.clone(),
                format!("{}:{}", letter.origin.partition, letter.origin.offset),
                letter.key.clone(),
                format!("{:?}", letter.kind).to_lowercase(),
                if is_parked { "parked".to_owned() } else { "released".to_owned() },
                letter.at.to_string(),
                letter.reason.clone(),
            ]
        });
        output::table(&["collection", "place", "key", "kind", "key is", "since", "reason"], cells.collect());
        Ok(())
    }

    async fn redrive(self) -> Outcome {
        let hub = self.config.open().await?;
        let sink = hub.config.sink(&self.sink).map_err(Failure::usage)?;
        let replay = hub.replay(sink, Pace::default(), interrupted()).await?;
        let mut refused = 0;
        for feed in hub.feeds(sink, self.collection.as_deref())? {
            let collection = feed.collection.clone();
            let done = replay.redrive(&request(feed, self.key.iter().cloned().collect())).await?;
            refused += done.refused.len();
            if self.json {
                output::json(&done)?;
            } else if !(done.released.is_empty() && done.refused.is_empty()) {
                output::line(&format!(
                    "{collection}: {} keys released, {} records written, {} superseded, {} keys still refused",
                    done.released.len(),
                    done.applied,
                    done.superseded,
                    done.refused.len()
                ));
            }
            for (key, reason) in &done.refused {
                output::remark(&format!("{collection} {key:?} is refused still: {reason}"));
            }
        }
        if refused > 0 { Err(Failure::failed(format!("{refused} keys are refused still"))) } else { Ok(()) }
    }
}

fn request(feed: Feed, keys: BTreeSet<String>) -> Request {
    Request { selection: Selection { keys, ..Selection::default() }, ..Request::whole(feed) }
}
