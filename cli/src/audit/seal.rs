//! `primalcore audit seal`.

use clap::Args;

use crate::output::{self, grouped, remark};
use crate::{ConfigFile, Outcome};

#[derive(Args)]
pub(crate) struct Seal {
    #[command(flatten)]
    config: ConfigFile,
    /// Only these collections; all of the config when absent
    #[arg(long = "collection", value_name = "A,B", value_delimiter = ',')]
    collections: Vec<String>,
    /// Print JSON, with the signed checkpoints
    #[arg(long)]
    json: bool,
}

impl Seal {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let mut sealer = hub.sealer().await?;
        let sealed = hub.seal(&mut sealer, &self.collections).await?;
        if self.json {
            return output::json(&sealed);
        }
        if sealed.is_empty() {
            remark("everything is sealed already");
            return Ok(());
        }
        let row = |sealed: &primal_seal::Sealed| {
            let offsets = format!("{} to {}", sealed.first, sealed.next - 1);
            vec![sealed.origin.clone(), grouped(sealed.added), grouped(sealed.size), offsets]
        };
        output::table(&["tree", "sealed now", "sealed", "offsets"], sealed.iter().map(row).collect());
        Ok(())
    }
}
