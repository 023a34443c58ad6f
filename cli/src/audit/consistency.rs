//! `primalcore audit consistency`.

use std::path::{Path, PathBuf};

use clap::Args;
use primal_replay::Progress;
use primal_seal::{Checkpoint, Report, Verifier};

use super::prove::note;
use crate::output::{self, Bar, grouped};
use crate::{ConfigFile, Failure, Outcome, exit};

#[derive(Args)]
pub(crate) struct Consistency {
    #[command(flatten)]
    config: ConfigFile,
    /// The collection
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// The public key that has to have signed, or a file with it; those of the config's key when absent
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// A checkpoint or a proof that was kept elsewhere, and has to be true still
    #[arg(long = "kept", value_name = "FILE")]
    kept: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Consistency {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let keys = if self.keys.is_empty() { hub.verifiers()? } else { super::keys(&self.keys)? };
        let kept = self.kept.iter().map(|file| kept(file, &keys)).collect::<Result<Vec<_>, _>>()?;
        let bar = Bar::new();
        bar.begin(&format!("read {}", self.collection), 0);
        let reports = hub.consistency(&self.collection, &keys, &kept, |records| bar.advance(records)).await?;
        bar.finish();
        if self.json {
            output::json(&reports)?;
        } else {
            show(&reports);
        }
        match reports.iter().map(|report| report.differences).sum::<u64>() {
            0 => Ok(()),
            _ => Err(Failure::new(exit::DIFFERENT, format!("{} is not as it was sealed", self.collection))),
        }
    }
}

fn kept(file: &Path, keys: &[Verifier]) -> Result<Checkpoint, Failure> {
    let note = note(file)?;
    let (checkpoint, _) =
        Checkpoint::open(&note, keys).map_err(|error| Failure::usage(format!("{} is {error}", file.display())))?;
    Ok(checkpoint)
}

fn show(reports: &[Report]) {
    let row = |report: &Report| {
        let result = match (report.differences, report.sealed) {
            (0, 0) => "not sealed".to_owned(),
            (0, _) => "as sealed".to_owned(),
            (some, _) => format!("{} DIFFERENT", grouped(some)),
        };
        vec![
            report.origin.clone(),
            report.first.map_or_else(String::new, |first| first.to_string()),
            grouped(report.sealed),
            grouped(report.checkpoints),
            grouped(report.unsealed),
            grouped(report.gone),
            result,
        ]
    };
    let header = ["tree", "first offset", "sealed", "checkpoints", "not sealed yet", "left the log", "result"];
    output::table(&header, reports.iter().map(row).collect());
    for report in reports {
        for finding in &report.findings {
            let place = match (finding.offset, finding.block) {
                (Some(offset), Some([from, to])) => format!("offset {offset} (block {from} to {}): ", to - 1),
                (None, Some([from, to])) => format!("offsets {from} to {}: ", to - 1),
                _ => String::new(),
            };
            output::line(&output::printable(&format!("{}: {place}{}", report.origin, finding.what)));
        }
        if report.differences > report.findings.len() as u64 {
            let more = report.differences - report.findings.len() as u64;
            output::line(&format!("{}: and {} more", report.origin, grouped(more)));
        }
    }
}
