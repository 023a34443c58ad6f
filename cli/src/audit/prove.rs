//! `primalcore audit prove`.

use std::path::{Path, PathBuf};

use clap::Args;
use primal_audit::{Scan, Span};
use primal_core::{RecordRef, header};
use primal_hub::Hub;
use primal_seal::{Growth, Proof};
use serde::Serialize;

use crate::output::{self, remark};
use crate::{ConfigFile, Failure, Outcome};

#[derive(Args)]
pub(crate) struct Prove {
    #[command(flatten)]
    config: ConfigFile,
    /// The event's id
    #[arg(value_name = "ID", required_unless_present = "since", conflicts_with = "since")]
    id: Option<String>,
    /// Prove instead that the log has only grown since this checkpoint or proof
    #[arg(long, value_name = "FILE", conflicts_with = "collection")]
    since: Option<PathBuf>,
    /// Only this collection; all of the config when absent
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Write the proof to this file instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Prove {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let text = match (&self.since, &self.id) {
            (Some(since), _) => json(&hub.growth(&note(since)?).await?)?,
            (None, Some(id)) => json(&self.of_event(&hub, id).await?)?,
            (None, None) => return Err(Failure::usage("an event's id, or --since, is wanted")),
        };
        let Some(out) = self.out else {
            output::line(&text);
            return Ok(());
        };
        std::fs::write(&out, text + "\n").map_err(|error| Failure::failed(format!("{}: {error}", out.display())))?;
        let out = out.display();
        remark(&format!("{out} is the proof; `primalcore audit check {out} --key PUBLIC` checks it anywhere"));
        Ok(())
    }

    async fn of_event(&self, hub: &Hub, id: &str) -> Result<Proof, Failure> {
        let sources = hub.sources(self.collection.as_slice())?;
        let parts = Span::whole().parts(&*hub.log, &sources).await?;
        let bytes = id.as_bytes().to_vec();
        let wanted = move |record: RecordRef<'_>| record.headers.get(header::ID) == Some(bytes.as_slice());
        let mut scan = Scan::new(hub.log.clone(), parts, wanted);
        let Some(entry) = scan.next().await? else {
            return Err(Failure::failed(format!("no event has the id {id:?}; `primalcore audit log` shows the ids")));
        };
        let proof = hub.prove(&entry.collection, entry.partition, entry.offset).await?;
        if let Some(again) = scan.next().await? {
            remark(&format!(
                "the log has the id {id:?} again, at offset {} of {}/{}; this proof is of offset {} of {}/{}",
                again.offset, again.collection, again.partition, entry.offset, entry.collection, entry.partition
            ));
        }
        Ok(proof)
    }
}

fn json(proof: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(proof).map_err(Failure::failed)
}

/// A checkpoint from a file: the note itself, or the one in a proof.
pub(crate) fn note(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let event = Proof::read(&text).map(|proof| proof.checkpoint);
    Ok(event.or_else(|_| Growth::read(&text).map(|growth| growth.new)).unwrap_or(text))
}
