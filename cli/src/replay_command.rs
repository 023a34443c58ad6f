//! `replay`, which is also `primalcore replay`: what is to be replayed, the plan of it, and doing it.

mod doing;
mod gc;
mod jobs;
mod shown;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use primal_audit::{Selection, Source, known};
use primal_core::Env;
use primal_hub::{Hub, SinkConfig, Stopped};
use primal_replay::{At, Mode, Request, Spec, Window};
use primal_runtime::{Feed, Pace};
use tokio_util::sync::CancellationToken;

use crate::output::{self, Bar};
use crate::{ConfigFile, Failure, Outcome, exit, interrupted};

/// Rebuild or repair stores from the log. Prints a plan; with --execute it is done.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Replay {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    config: ConfigFile,
    /// The sinks' names in the config; several are replayed side by side
    #[arg(long = "sink", value_name = "A,B", value_delimiter = ',', required = true)]
    sinks: Vec<String>,
    /// Where to begin: earliest, now, a date, a time (UTC without a zone), how long ago (2h), or offset:PARTITION:OFFSET
    #[arg(long, value_name = "T", value_parser = at, required_unless_present = "rollback")]
    from: Option<At>,
    /// Where to end; when absent a repair ends where the log ended at its start, and a rebuild follows the log
    #[arg(long, value_name = "T", value_parser = at)]
    to: Option<At>,
    /// Only these collections; all of the sink's when absent
    #[arg(long = "collection", value_name = "A,B", value_delimiter = ',')]
    collections: Vec<String>,
    /// Only this key; may be repeated
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Only the keys in this file, one a line
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Only entities with an event of this CloudEvents type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only entities with an event of this correlation id; may be repeated
    #[arg(long = "correlation", value_name = "ID")]
    correlations: Vec<String>,
    /// Build beside and swap, or write in place; shadow for whole collections, repair for a part of one
    #[arg(long)]
    mode: Option<ModeName>,
    /// Build a copy under this name, and leave it there
    #[arg(long, value_name = "NAME")]
    into: Option<String>,
    /// At most so many events per second, over all partitions of a sink
    #[arg(long, value_name = "N/s", value_parser = Pace::parse_rate)]
    rate: Option<f64>,
    /// At most this share of the store's time
    #[arg(long, value_name = "P%", value_parser = Pace::parse_budget)]
    budget: Option<f64>,
    /// Write only in this time of day, UTC: 22:00-06:00
    #[arg(long, value_name = "FROM-TO")]
    window: Option<Window>,
    /// Do it; without this the plan is printed
    #[arg(long)]
    execute: bool,
    /// Compare store and log: what would change; nothing is written, and exit code 3 says that something would
    #[arg(long, conflicts_with_all = ["execute", "rollback"])]
    diff: bool,
    /// Make the previous generation live again
    #[arg(long, conflicts_with_all = ["from", "to", "keys", "key_file", "types", "correlations", "mode", "into"])]
    rollback: bool,
    /// Throw an unfinished rebuild of another selection away
    #[arg(long)]
    restart: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// The replays that run or ran, the last first
    List(jobs::List),
    /// How far one is; those that run when no id is given
    Status(jobs::Status),
    /// Let one stand still
    Pause(jobs::Which),
    /// Let one go on; one whose process is gone is taken up here
    Resume(jobs::Which),
    /// End one; what it built stays until it is collected
    Cancel(jobs::Which),
    /// Drop generations that are not live: previous ones, and rebuilds that nobody finishes
    Gc(gc::Gc),
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    /// Build a generation beside the live one, verify it, swap it in
    Shadow,
    /// Write in place; newer records stay
    Repair,
}

/// One sink and what is to be done there.
struct Lane<'a> {
    sink: &'a SinkConfig,
    replay: Arc<primal_replay::Replay>,
    requests: Vec<Request>,
}

fn at(text: &str) -> Result<At, String> {
    At::parse(text, Env::system().now())
}

impl Replay {
    pub(crate) async fn run(self) -> Outcome {
        match self.verb {
            None => self.replay().await,
            Some(Verb::List(list)) => list.run().await,
            Some(Verb::Status(status)) => status.run().await,
            Some(Verb::Pause(which)) => which.pause().await,
            Some(Verb::Resume(which)) => which.resume().await,
            Some(Verb::Cancel(which)) => which.cancel().await,
            Some(Verb::Gc(gc)) => gc.run().await,
        }
    }

    async fn replay(self) -> Outcome {
        let hub = self.config.open().await?;
        let spec = self.spec()?;
        let cancel = interrupted();
        let lanes = lanes(&hub, &spec, self.restart, &cancel).await?;
        if self.rollback {
            return self.roll_back(&hub, &lanes, &spec).await;
        }
        if self.diff {
            return self.differences(&lanes).await;
        }
        let mut plans = Vec::new();
        for lane in &lanes {
            for request in &lane.requests {
                plans.push(lane.replay.plan(request).await?);
            }
        }
        for plan in &mut plans {
            plan.notes.extend(stopped(&hub, &plan.sink).await?);
        }
        if self.json && !self.execute {
            return plans.iter().try_for_each(output::json);
        }
        if !self.json {
            plans.iter().for_each(|plan| shown::plan(plan, &spec));
        }
        if !self.execute {
            output::remark("nothing was written; add --execute to do it, or --diff to see what would change");
            return Ok(());
        }
        let board = hub.replays().await?;
        let claim = board.claim(&spec, doing::parts(&lanes, &plans), self.restart).await?;
        doing::execute(&hub, claim, lanes, &cancel, self.json).await
    }

    fn spec(&self) -> Result<Spec, Failure> {
        let mut keys: BTreeSet<String> = self.keys.iter().cloned().collect();
        if let Some(file) = &self.key_file {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Failure::usage(format!("--key-file {} cannot be read: {error}", file.display())))?;
            keys.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
            if keys.is_empty() {
                return Err(Failure::usage(format!("--key-file {} has no key; expected one a line", file.display())));
            }
        }
        Ok(Spec {
            sinks: unique(&self.sinks),
            collections: unique(&self.collections),
            from: self.from.clone().unwrap_or(At::Earliest).to_string(),
            to: self.to.as_ref().map(At::to_string),
            keys: keys.into_iter().collect(),
            unrecorded_keys: None,
            types: unique(&self.types),
            correlations: unique(&self.correlations),
            mode: self.mode.map(|mode| match mode {
                ModeName::Shadow => Mode::Shadow,
                ModeName::Repair => Mode::Repair,
            }),
            into: self.into.clone(),
            rollback: self.rollback,
            rate: self.rate,
            budget: self.budget,
            window: self.window,
        })
    }

    async fn roll_back(&self, hub: &Hub, lanes: &[Lane<'_>], spec: &Spec) -> Outcome {
        for lane in lanes {
            for request in &lane.requests {
                let (sink, collection) = (&lane.sink.name, &request.feed.collection);
                let parts = vec![doing::rolled_back(sink, collection.as_str())];
                let claim = hub.replays().await?.claim(spec, parts, true).await?;
                let generation = claim.during(lane.replay.rollback(request)).await?;
                if self.json {
                    output::json(&serde_json::json!({
                        "sink": sink, "collection": collection.as_str(), "generation": generation
                    }))?;
                } else {
                    output::line(&format!(
                        "{collection}: generation {generation} is live again; a worker brings it up to date"
                    ));
                }
            }
            remind(hub, &lane.sink.name).await?;
        }
        Ok(())
    }

    async fn differences(&self, lanes: &[Lane<'_>]) -> Outcome {
        let bar = Bar::new();
        let mut diffs = Vec::new();
        for lane in lanes {
            for request in &lane.requests {
                diffs.push(lane.replay.diff(request, &bar).await?);
            }
        }
        bar.finish();
        match self.json {
            true => output::json(&diffs)?,
            false => shown::diffs(&diffs),
        }
        let differ = diffs.iter().filter(|diff| !diff.report.is_clean());
        let names: Vec<String> =
            differ.map(|diff| format!("{} in {}", diff.report.collection, diff.report.sink)).collect();
        match names.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(
                exit::DIFFERENT,
                format!("{} is not as the log says; --execute instead of --diff changes it", names.join(", ")),
            )),
        }
    }
}

/// What is to be known of a sink whose worker has stopped by itself.
async fn stopped(hub: &Hub, sink: &str) -> Result<Option<String>, Failure> {
    let told = |stopped: Stopped| {
        format!(
            "the worker of {sink} stopped at {}: {}; nothing new comes to {sink} until it is started again",
            stopped.at, stopped.reason
        )
    };
    Ok(primal_hub::stopped(hub, sink).await?.map(told))
}

/// Says so at the end.
async fn remind(hub: &Hub, sink: &str) -> Outcome {
    if let Some(note) = stopped(hub, sink).await? {
        output::remark(&format!("note: {note}"));
    }
    Ok(())
}

fn unique(names: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.iter().filter(|name| seen.insert(name.as_str())).cloned().collect()
}

/// What a spec asks for, sink by sink; names and values that nobody knows are refused.
async fn lanes<'a>(
    hub: &'a Hub,
    spec: &Spec,
    restart: bool,
    cancel: &CancellationToken,
) -> Result<Vec<Lane<'a>>, Failure> {
    if let Some(count) = spec.unrecorded_keys {
        return Err(Failure::usage(format!(
            "its {count} keys are too many to be kept with it; give the command with its --key-file again, it goes on \
             from where it was"
        )));
    }
    if let Some(name) = &spec.into
        && hub.config.collections.keys().any(|collection| collection.as_str() == name)
    {
        return Err(Failure::usage(format!("--into {name} is a collection's own name; choose another")));
    }
    let selection = Selection {
        keys: spec.keys.iter().cloned().collect(),
        kinds: spec.types.iter().cloned().collect(),
        correlations: spec.correlations.iter().cloned().collect(),
    };
    let bound = |text: &str| At::parse(text, hub.env.now()).map_err(Failure::usage);
    let (from, to) = (bound(&spec.from)?, spec.to.as_deref().map(bound).transpose()?);
    let mut lanes = Vec::new();
    let mut sources: Vec<Source> = Vec::new();
    for sink in hub.sinks(&spec.sinks)? {
        let feeds = feeds(hub, sink, &spec.collections)?;
        if spec.into.is_some() && feeds.len() > 1 {
            return Err(Failure::usage("--into takes one collection; name it with --collection"));
        }
        let pace = Pace { rate: spec.rate, budget: spec.budget };
        let replay = Arc::new(hub.replay(sink, pace, cancel.clone()).await?);
        for feed in &feeds {
            if !sources.iter().any(|source| source.collection == feed.collection) {
                sources.push(Source { collection: feed.collection.clone(), epochs: feed.epochs.clone() });
            }
        }
        let request = |feed: Feed| Request {
            feed,
            from: from.clone(),
            to: to.clone(),
            selection: selection.clone(),
            mode: spec.mode,
            into: spec.into.clone(),
            restart,
        };
        lanes.push(Lane { sink, replay, requests: feeds.into_iter().map(request).collect() });
    }
    if !selection.is_all() {
        known(&*hub.log, &sources, &selection).await?;
    }
    Ok(lanes)
}

fn feeds(hub: &Hub, sink: &SinkConfig, collections: &[String]) -> Result<Vec<Feed>, Failure> {
    if collections.is_empty() {
        return Ok(hub.feeds(sink, None)?);
    }
    let mut feeds = Vec::new();
    for collection in collections {
        feeds.extend(hub.feeds(sink, Some(collection))?);
    }
    Ok(feeds)
}

/// The seconds of a span such as `7d`.
fn span(text: &str) -> Result<std::time::Duration, String> {
    let now = Env::system().now();
    match (text == "0", At::parse(text, now)) {
        (true, _) => Ok(std::time::Duration::ZERO),
        (_, Ok(At::Time(moment))) if text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains('-') => {
            Ok(now.since(moment))
        }
        _ => Err(format!("{text:?} is no span of time; expected such as 12h or 7d, or 0")),
    }
}
