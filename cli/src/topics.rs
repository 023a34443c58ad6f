//! `primalcore topics`.

use clap::Args;
use primal_core::log::Extent;
use primal_core::time::Span;
use primal_core::{Collection, lives};

use crate::output::{self, grouped, remark};
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
        let (mut rows, mut warnings) = (Vec::new(), Vec::new());
        for (collection, lives) in &hub.lives {
            let keeping = hub.keeping(collection).await?;
            let sum = |of: fn(&Extent) -> i64| grouped(keeping.extents.iter().map(of).sum::<i64>());
            let (epoch, note) = match lives {
                Ok(epochs) => (epochs.current().epoch.to_string(), String::new()),
                Err(problem) => ("?".to_owned(), problem.clone()),
            };
            let retention = [
                keeping.retention.time.map(|time| Span(time).to_string()),
                keeping.retention.bytes.map(|bytes| format!("{} bytes", grouped(bytes))),
            ];
            let retention: Vec<_> = retention.into_iter().flatten().collect();
            rows.push(vec![
                collection.to_string(),
                keeping.extents.len().to_string(),
                epoch,
                keeping.archived.as_ref().map_or_else(String::new, |ends| grouped(ends.iter().sum::<i64>())),
                sum(|e| e.start),
                sum(|e| e.end),
                if retention.is_empty() { "for ever".to_owned() } else { retention.join(", ") },
                note,
            ]);
            // What cannot be used says so in its note.
            if lives.is_ok() {
                warnings.extend(keeping.warnings);
            }
        }
        let header = ["collection", "partitions", "epoch", "archived to", "start", "end", "kept", "note"];
        output::table(&header, rows);
        warnings.iter().for_each(|warning| remark(&format!("warning: {warning}")));
        Ok(())
    }
}
