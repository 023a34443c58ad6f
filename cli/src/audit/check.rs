//! `primalcore audit check`: needs neither a hub nor a config nor a network.

use std::path::PathBuf;

use clap::Args;
use primal_seal::{Growth, Proof, Shown};

use crate::output::{self, printable};
use crate::{Failure, Outcome, exit};

#[derive(Args)]
pub(crate) struct Check {
    /// The proof, as `audit prove` made it, of an event or of growth
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
        let told = match Growth::read(&text) {
            Ok(growth) => growth
                .check(&keys)
                .map(|(old, new)| format!("{} has only grown from {} records to {}", new.origin, old.size, new.size)),
            Err(_) => Proof::read(&text).and_then(|proof| Ok(line(&proof, &proof.check(&keys)?))),
        };
        let told = told.map_err(|reason| Failure::new(exit::DIFFERENT, format!("{file} proves nothing: {reason}")))?;
        output::line(&printable(&told));
        Ok(())
    }
}

fn line(proof: &Proof, shown: &Shown) -> String {
    format!(
        "event {} at offset {} is leaf {} of {} in {}, signed by {}",
        proof.record.id().unwrap_or("without an id"),
        proof.record.offset,
        proof.leaf_index,
        shown.checkpoint.size,
        shown.checkpoint.origin,
        shown.key
    )
}
