//! `primalcore check`.

use clap::Args;
use primal_core::Env;
use primal_hub::Hub;

use crate::output;
use crate::{ConfigFile, Failure, Outcome};

#[derive(Args)]
pub(crate) struct Check {
    #[command(flatten)]
    config: ConfigFile,
    /// Only the config, no network
    #[arg(long)]
    offline: bool,
}

impl Check {
    pub(crate) async fn run(self) -> Outcome {
        let config = self.config.load()?;
        if self.offline {
            let (sinks, collections) = (config.sinks.len(), config.collections.len());
            output::line(&format!("the config is good: {collections} collections, {sinks} sinks"));
            return Ok(());
        }
        let mut rows = Vec::new();
        let mut broken = 0;
        let mut row = |what: &str, kind: &str, result: Result<(String, String), String>| {
            let (state, version, notes) = match result {
                Ok((version, notes)) => ("ok", version, notes),
                Err(error) => {
                    broken += 1;
                    ("broken", String::new(), error)
                }
            };
            rows.push(vec![what.to_owned(), kind.to_owned(), state.to_owned(), version, notes]);
        };
        for sink in &config.sinks {
            let health = sink.sink.check().await;
            let health = health.map(|h| (h.version, h.notes.join("; "))).map_err(|e| e.to_string());
            row(&sink.name, sink.spec.name, health);
        }
        match Hub::open(config, Env::system()).await {
            Err(error) => row("log", "", Err(error.to_string())),
            Ok(hub) => {
                row("log", "", Ok((String::new(), "reachable, all topics are there".to_owned())));
                for (collection, lives) in &hub.lives {
                    let lives = lives.as_ref().map_err(Clone::clone);
                    let said = lives.map(|epochs| (String::new(), format!("{} partitions", epochs.partitions())));
                    row(collection.as_str(), "collection", said);
                }
                #[cfg(feature = "archive")]
                if let Some((location, said)) = hub.check_archive().await {
                    row(&location, "archive", said.map(|said| (String::new(), said)));
                }
            }
        }
        output::table(&["what", "type", "state", "version", "notes"], rows);
        if broken > 0 {
            return Err(Failure::failed(format!("{broken} of these are broken")));
        }
        Ok(())
    }
}
