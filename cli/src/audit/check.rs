//! `primalcore audit check`: needs neither a hub nor a config nor a network.

use std::path::PathBuf;

use clap::Args;
use primal_seal::Proof;

use crate::output::{self, printable};
use crate::{Failure, Outcome, exit};

#[derive(Args)]
pub(crate) struct Check {
    /// The proof, as `audit prove` made it
    #[arg(value_name = "PROOF")]
    proof: PathBuf,
    /// The hub's public key as `audit keygen` printed it, or a file with it; several where the key was changed
    #[arg(long = "key", value_name = "KEY", required = true)]
    keys: Vec<String>,
}

impl Check {
    pub(crate) fn run(self) -> Outcome {
        let keys = super::keys(&self.keys)?;
        let file = self.proof.display();
        let text = std::fs::read_to_string(&self.proof).map_err(|error| Failure::usage(format!("{file}: {error}")))?;
        let checked = Proof::read(&text).and_then(|proof| Ok((proof.check(&keys)?, proof)));
        let (shown, proof) =
            checked.map_err(|reason| Failure::new(exit::DIFFERENT, format!("{file} proves nothing: {reason}")))?;
        output::line(&printable(&format!(
            "event {} at offset {} is leaf {} of {} in {}, signed by {}",
            proof.record.id().unwrap_or("without an id"),
            proof.record.offset,
            proof.leaf_index,
            shown.checkpoint.size,
            shown.checkpoint.origin,
            shown.key
        )));
        Ok(())
    }
}
