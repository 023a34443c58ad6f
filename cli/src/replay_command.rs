//! `replay`, which is also `primalcore replay`.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use primal_core::Env;
use primal_replay::{At, Mode, Plan, Rebuilt, ReplayError, Request};
use primal_runtime::Feed;

use crate::output::{self, Bar, grouped};
use crate::{ConfigFile, Failure, Outcome, audit, interrupted};

/// Rebuild or repair a store from the log. Prints a plan; with --execute it is done.
#[derive(Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    config: ConfigFile,
    /// The sink's name in the config
    #[arg(long, value_name = "NAME")]
    sink: String,
    /// Where to begin: earliest, now, a date, RFC 3339, how long ago (2h), or offset:PARTITION:OFFSET
    #[arg(long, value_name = "T", value_parser = at, required_unless_present = "rollback")]
    from: Option<At>,
    /// Where to end; the present end when absent
    #[arg(long, value_name = "T", value_parser = at)]
    to: Option<At>,
    /// Only this collection; all of the sink's when absent
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Only this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Build beside and swap, or write in place; shadow for a whole collection, repair for a range or a key
    #[arg(long)]
    mode: Option<ModeName>,
    /// Build a copy under this name, and leave it there
    #[arg(long, value_name = "NAME")]
    into: Option<String>,
    /// Do it; without this the plan is printed
    #[arg(long)]
    execute: bool,
    /// Make the previous generation live again
    #[arg(long, conflicts_with_all = ["from", "to", "key", "mode", "into"])]
    rollback: bool,
    /// Throw an unfinished rebuild of another selection away
    #[arg(long)]
    restart: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    /// Build a generation beside the live one, verify it, swap it in
    Shadow,
    /// Write in place; newer records stay
    Repair,
}

fn at(text: &str) -> Result<At, String> {
    At::parse(text, Env::system().now())
}

impl Replay {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let sink = hub.config.sink(&self.sink).map_err(Failure::usage)?;
        if let Some(name) = &self.into
            && hub.config.collections.keys().any(|collection| collection.as_str() == name)
        {
            return Err(Failure::usage(format!("--into {name} is a collection's own name; choose another")));
        }
        let feeds = hub.feeds(sink, self.collection.as_deref())?;
        if self.into.is_some() && feeds.len() > 1 {
            return Err(Failure::usage("--into takes one collection; name it with --collection"));
        }
        let replay = hub.replay(sink, interrupted()).await?;
        for feed in feeds {
            let request = self.request(feed);
            match self.rollback {
                true => self.roll_back(&replay, &request).await?,
                false => self.one(&replay, &request).await?,
            }
        }
        Ok(())
    }

    fn request(&self, feed: Feed) -> Request {
        Request {
            feed,
            from: self.from.clone().unwrap_or(At::Earliest),
            to: self.to.clone(),
            keys: self.key.iter().cloned().collect(),
            mode: self.mode.map(|mode| match mode {
                ModeName::Shadow => Mode::Shadow,
                ModeName::Repair => Mode::Repair,
            }),
            into: self.into.clone(),
            restart: self.restart,
        }
    }

    async fn roll_back(&self, replay: &primal_replay::Replay, request: &Request) -> Outcome {
        let generation = replay.rollback(request).await?;
        let collection = &request.feed.collection;
        if self.json {
            return output::json(&serde_json::json!({
                "sink": self.sink, "collection": collection.as_str(), "generation": generation
            }));
        }
        output::line(&format!("{collection}: generation {generation} is live again; a worker brings it up to date"));
        Ok(())
    }

    async fn one(&self, replay: &primal_replay::Replay, request: &Request) -> Outcome {
        let plan = replay.plan(request).await?;
        if !self.execute {
            if self.json {
                return output::json(&plan);
            }
            show(&plan);
            output::remark("nothing was written; add --execute to do it");
            return Ok(());
        }
        if !self.json {
            show(&plan);
        }
        let bar = Arc::new(Bar::new());
        let result = replay.execute(request, &plan, bar.clone()).await;
        bar.finish();
        match result {
            Ok(done) if self.json => output::json(&done),
            Ok(done) => {
                told(&done);
                Ok(())
            }
            Err(ReplayError::Different(report)) => {
                audit::show(std::slice::from_ref(&report));
                Err(ReplayError::Different(report).into())
            }
            Err(other) => Err(other.into()),
        }
    }
}

fn show(plan: &Plan) {
    let (mode, verb) = match plan.mode {
        Mode::Shadow => ("shadow", "builds beside, verifies, swaps"),
        Mode::Repair => ("repair", "writes in place"),
        Mode::Copy => ("copy", "builds a copy"),
    };
    output::line(&format!("{} into {} as {mode} ({verb}), at {}", plan.collection, plan.sink, plan.place));
    let rows = plan.ranges.iter().map(|range| {
        let (from, to, count) = (grouped(range.from), grouped(range.to), grouped(range.to - range.from));
        vec![range.partition.to_string(), from, to, count, grouped(range.dropped)]
    });
    output::table(&["partition", "from", "to", "events", "gone"], rows.collect());
    let megabytes = plan.bytes as f64 / 1e6;
    output::line(&format!(
        "{} events, about {megabytes:.1} MB, about {} s at 40,000 events/s",
        grouped(plan.events),
        plan.seconds.max(1)
    ));
    if plan.resumes {
        output::line("an earlier run was interrupted; this goes on from there");
    }
    for note in &plan.notes {
        output::line(&format!("note: {note}"));
    }
}

fn told(done: &Rebuilt) {
    let events = grouped(done.events);
    match (done.mode, done.generation, &done.verified) {
        (Mode::Shadow, Some(generation), Some(report)) => output::line(&format!(
            "{}: generation {generation} is live: {events} events, {} records verified; --rollback returns to the one before",
            done.collection,
            grouped(report.verified)
        )),
        (Mode::Copy, _, Some(report)) => output::line(&format!(
            "{}: copied: {events} events, {} records verified in {}",
            done.collection,
            grouped(report.verified),
            report.place
        )),
        _ => output::line(&format!(
            "{}: repaired: {events} events read, {} records written, {} refused by the store",
            done.collection,
            grouped(done.applied),
            grouped(done.rejected)
        )),
    }
}
