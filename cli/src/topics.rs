//! `primalcore topics`.

use clap::Args;
use primal_core::{Collection, lives};

use crate::output::{self, grouped};
use crate::{ConfigFile, Failure, Outcome};

#[derive(Args)]
pub(crate) struct Topics {
    #[command(flatten)]
    config: ConfigFile,
    /// Begin a new epoch of this collection, after its topic was re-created or its partition count was changed
    #[arg(long, value_name = "COLLECTION")]
    renew: Option<String>,
}

impl Topics {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        if let Some(name) = self.renew {
            let collection = Collection::new(&name).map_err(Failure::usage)?;
            if !hub.config.collections.contains_key(&collection) {
                return Err(Failure::usage(format!("unknown collection {name:?}")));
            }
            let epochs = lives::renew(&*hub.log, &collection).await.map_err(Failure::failed)?;
            let (epoch, partitions) = (epochs.current().epoch, epochs.partitions());
            output::line(&format!("{name} is in epoch {epoch} now, with {partitions} partitions; restart the hub"));
            return Ok(());
        }
        let mut rows = Vec::new();
        for (collection, lives) in &hub.lives {
            let extents = hub.log.extents(&collection.topic()).await.map_err(Failure::failed)?.unwrap_or_default();
            let sum = |of: fn(&primal_core::log::Extent) -> i64| grouped(extents.iter().map(of).sum::<i64>());
            let (epoch, note) = match lives {
                Ok(epochs) => (epochs.current().epoch.to_string(), String::new()),
                Err(problem) => ("?".to_owned(), problem.clone()),
            };
            rows.push(vec![
                collection.to_string(),
                extents.len().to_string(),
                epoch,
                sum(|e| e.start),
                sum(|e| e.end),
                note,
            ]);
        }
        output::table(&["collection", "partitions", "epoch", "start", "end", "note"], rows);
        Ok(())
    }
}
