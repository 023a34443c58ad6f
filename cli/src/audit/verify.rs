//! `primalcore audit verify`.

use clap::Args;
use primal_audit::{Difference, Report};
use primal_hub::{Hub, SinkConfig};
use primal_replay::Progress;

use crate::output::{self, Bar, grouped};
use crate::{ConfigFile, Failure, Outcome, exit};

#[derive(Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    config: ConfigFile,
    /// The sink's name in the config
    #[arg(long, value_name = "NAME")]
    sink: String,
    /// Only this collection
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let sink = hub.config.sink(&self.sink).map_err(Failure::usage)?;
        let reports = reports(&hub, sink, self.collection.as_deref()).await?;
        if self.json {
            output::json(&reports)?;
        } else {
            show(&reports);
        }
        judge(&reports)
    }
}

/// Verifies the collections of a sink, with a progress bar.
pub(crate) async fn reports(hub: &Hub, sink: &SinkConfig, collection: Option<&str>) -> Result<Vec<Report>, Failure> {
    let bar = Bar::new();
    let mut reports = Vec::new();
    for feed in hub.feeds(sink, collection)? {
        bar.begin(&format!("verify {}", feed.collection), 0);
        reports.push(hub.verify(sink, &feed, |events| bar.advance(events)).await?);
    }
    bar.finish();
    Ok(reports)
}

/// The table, then the first differences.
pub(crate) fn show(reports: &[Report]) {
    let cells = reports.iter().map(|report| {
        vec![
            report.collection.clone(),
            grouped(report.events),
            grouped(report.records),
            grouped(report.verified),
            grouped(report.missing.count),
            grouped(report.extra.count),
            grouped(report.stale.count),
            grouped(report.differing.count),
            grouped(report.dead_letters),
            if report.is_clean() { "verified".to_owned() } else { "DIFFERENT".to_owned() },
        ]
    });
    let header = [
        "collection",
        "events",
        "records",
        "verified",
        "missing",
        "extra",
        "stale",
        "differing",
        "dead letters",
        "result",
    ];
    output::table(&header, cells.collect());
    for report in reports {
        let sorts = [
            ("missing", &report.missing),
            ("extra", &report.extra),
            ("stale", &report.stale),
            ("differing", &report.differing),
        ];
        for (sort, found) in sorts {
            for Difference { key, expected, found } in &found.first {
                let version = |v: &Option<u64>| v.map_or("none".to_owned(), |v| v.to_string());
                let (expected, found) = (version(expected), version(found));
                output::line(&format!(
                    "{sort}: {} {key:?}, version {found} in the store, {expected} in the log",
                    report.collection
                ));
            }
        }
    }
}

/// Exit code 3 when something differs.
pub(crate) fn judge(reports: &[Report]) -> Outcome {
    let different: Vec<_> = reports.iter().filter(|r| !r.is_clean()).map(|r| r.collection.as_str()).collect();
    match (different.as_slice(), reports.first()) {
        ([], _) | (_, None) => Ok(()),
        (names, Some(first)) => Err(Failure::new(
            exit::DIFFERENT,
            format!(
                "{} differs from the log in {}; `replay --sink {} --collection {} --from earliest --execute` builds it anew",
                first.sink,
                names.join(", "),
                first.sink,
                names.first().copied().unwrap_or_default()
            ),
        )),
    }
}
