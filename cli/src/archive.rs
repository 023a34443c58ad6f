//! `primalcore archive`: moving old ranges of the log to the archive, what is there, and reading it again.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use primal_core::Env;
use primal_core::time::Span;
use primal_hub::Dropped;
use primal_replay::Progress;
use serde::Serialize;

use crate::output::{self, Bar, grouped, remark};
use crate::{ConfigFile, Failure, Outcome, exit};

/// Move old ranges of the log to the archive, as Parquet files. Log and archive are read as one
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Archive {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    which: Which,
    /// Archive what was taken this long ago; the config's `archive.after` unless given
    #[arg(long, value_name = "7d", value_parser = Span::parse)]
    after: Option<Span>,
    /// Then drop from the log what is archived and was taken this long ago; the config's `archive.keep` unless given, and
    /// nothing without that
    #[arg(long, value_name = "30d", value_parser = Span::parse)]
    keep: Option<Span>,
}

#[derive(Args)]
struct Which {
    #[command(flatten)]
    config: ConfigFile,
    /// Only these collections; all of the config when absent
    #[arg(long = "collection", value_name = "A,B", value_delimiter = ',')]
    collections: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// The ranges that the archive holds
    List(List),
    /// Read the archive again and compare it with its manifests, and with the log where that has the range; exit code 3 and
    /// the file when something is missing or altered
    Verify(Verify),
}

#[derive(Args)]
struct List {
    #[command(flatten)]
    which: Which,
}

#[derive(Args)]
struct Verify {
    #[command(flatten)]
    which: Which,
}

#[derive(Serialize)]
struct Done {
    archived: Vec<primal_archive::Moved>,
    dropped: Vec<Dropped>,
}

impl Archive {
    pub(crate) async fn run(self) -> Outcome {
        match self.verb {
            None => self.archive().await,
            Some(Verb::List(list)) => list.run().await,
            Some(Verb::Verify(verify)) => verify.run().await,
        }
    }

    async fn archive(self) -> Outcome {
        let hub = self.which.config.open().await?;
        let now = Env::system().now();
        let before = |span: Option<Span>| span.map(|span| span.before(now));
        let archived = hub.archive_now(&self.which.collections, before(self.after)).await?;
        let dropped = hub.drop_archived(&self.which.collections, before(self.keep)).await?;
        if self.which.json {
            return output::json(&Done { archived, dropped });
        }
        if archived.is_empty() {
            remark("everything that is old enough is archived already");
        } else {
            let mut rows = Vec::new();
            for moved in &archived {
                rows.push(vec![
                    moved.collection.clone(),
                    moved.partition.to_string(),
                    moved.epoch.to_string(),
                    format!("{} to {}", moved.from, moved.to - 1),
                    grouped(moved.records),
                    grouped(moved.files),
                    grouped(moved.bytes),
                ]);
            }
            output::table(&["collection", "partition", "epoch", "offsets", "records", "files", "bytes"], rows);
        }
        for Dropped { collection, partition, start } in dropped {
            output::line(&format!("{collection}/{partition}: the log begins at offset {start} now"));
        }
        Ok(())
    }
}

impl List {
    async fn run(self) -> Outcome {
        let hub = self.which.config.open().await?;
        let kept = hub.archived(&self.which.collections).await?;
        if self.which.json {
            return output::json(&kept);
        }
        if kept.is_empty() {
            remark("the archive holds nothing of these collections");
            return Ok(());
        }
        let mut rows = Vec::new();
        for kept in kept {
            rows.push(vec![
                kept.topic,
                kept.partition.to_string(),
                kept.epoch.to_string(),
                format!("{} to {}", kept.from, kept.to - 1),
                grouped(kept.records),
                grouped(kept.files),
                grouped(kept.bytes),
            ]);
        }
        output::table(&["topic", "partition", "epoch", "offsets", "records", "files", "bytes"], rows);
        Ok(())
    }
}

impl Verify {
    async fn run(self) -> Outcome {
        let hub = self.which.config.open().await?;
        let bar = Bar::new();
        bar.begin("read the archive", 0);
        let reports = hub.verify_archive(&self.which.collections, |records| bar.advance(records)).await?;
        bar.finish();
        if self.which.json {
            output::json(&reports)?;
        } else if reports.is_empty() {
            remark("the archive holds nothing of these collections");
        } else {
            show(&reports);
        }
        match reports.iter().all(|report| report.findings.is_empty()) {
            true => Ok(()),
            false => Err(Failure::new(exit::DIFFERENT, "the archive is not as it was written")),
        }
    }
}

fn show(reports: &[primal_archive::Report]) {
    let mut rows = Vec::new();
    for report in reports {
        let offsets = match (report.from, report.to) {
            (Some(from), Some(to)) => format!("{from} to {}", to - 1),
            _ => String::new(),
        };
        let result = match report.findings.len() {
            0 => "as written".to_owned(),
            some => format!("{} DIFFERENT", grouped(some as i64)),
        };
        rows.push(vec![
            report.collection.clone(),
            report.partition.to_string(),
            report.epoch.to_string(),
            offsets,
            grouped(report.files),
            grouped(report.records),
            grouped(report.in_log),
            result,
        ]);
    }
    let header = ["collection", "partition", "epoch", "offsets", "files", "records", "also in the log", "result"];
    output::table(&header, rows);
    let mut shown: BTreeMap<&str, &str> = BTreeMap::new();
    for finding in reports.iter().flat_map(|report| &report.findings) {
        shown.insert(&finding.file, &finding.what);
    }
    for (file, what) in shown {
        output::line(&output::printable(&format!("{file}: {what}")));
    }
}
