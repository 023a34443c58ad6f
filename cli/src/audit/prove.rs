//! `primalcore audit prove`.

use std::path::PathBuf;

use clap::Args;
use primal_audit::{Scan, Span};
use primal_core::{RecordRef, header};

use crate::output::{self, remark};
use crate::{ConfigFile, Failure, Outcome};

#[derive(Args)]
pub(crate) struct Prove {
    #[command(flatten)]
    config: ConfigFile,
    /// The event's id
    #[arg(value_name = "ID")]
    id: String,
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
        let sources = hub.sources(self.collection.as_slice())?;
        let parts = Span::whole().parts(&*hub.log, &sources).await?;
        let id = self.id.clone().into_bytes();
        let wanted = move |record: RecordRef<'_>| record.headers.get(header::ID) == Some(id.as_slice());
        let mut scan = Scan::new(hub.log.clone(), parts, wanted);
        let Some(entry) = scan.next().await? else {
            return Err(Failure::failed(format!(
                "no event has the id {:?}; `primalcore audit log` shows the ids",
                self.id
            )));
        };
        let proof = hub.prove(&entry.collection, entry.partition, entry.offset).await?;
        if let Some(again) = scan.next().await? {
            remark(&format!(
                "the log has the id {:?} again, at offset {} of {}/{}; this proof is of offset {} of {}/{}",
                self.id,
                again.offset,
                again.collection,
                again.partition,
                entry.offset,
                entry.collection,
                entry.partition
            ));
        }
        let Some(out) = self.out else { return output::json(&proof) };
        let text = serde_json::to_string_pretty(&proof).map_err(Failure::failed)? + "\n";
        std::fs::write(&out, text).map_err(|error| Failure::failed(format!("{}: {error}", out.display())))?;
        let out = out.display();
        remark(&format!("{out} is the proof; `primalcore audit check {out} --key PUBLIC` checks it anywhere"));
        Ok(())
    }
}
