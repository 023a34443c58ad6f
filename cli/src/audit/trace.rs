//! `primalcore audit trace`: what led to what.

use clap::Args;
use primal_audit::{Step, trace};

use crate::output::{self, printable};
use crate::state::Format;
use crate::{ConfigFile, Failure, Outcome};

/// What led to what: the events with a correlation id, and the event that has it as its own id, as a tree of causes and
/// effects.
#[derive(Args)]
pub(crate) struct Trace {
    #[command(flatten)]
    config: ConfigFile,
    /// The correlation id
    #[arg(long, value_name = "ID")]
    correlation: String,
    /// Only these collections; all of the config when absent
    #[arg(long = "collection", value_name = "A,B", value_delimiter = ',')]
    collections: Vec<String>,
    /// How to print; json is the list of events from the top of the tree, each with its depth
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Trace {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let sources = hub.sources(&self.collections)?;
        let steps = tokio::select! {
            steps = trace(hub.log.clone(), &sources, &self.correlation) => steps?,
            () = output::closed() => return Ok(()),
        };
        if steps.is_empty() {
            let names: Vec<_> = sources.iter().map(|source| source.collection.as_str()).collect();
            return Err(Failure::failed(format!(
                "no event in {} has the correlation id {:?}; `primalcore audit log --format csv` shows which there are",
                names.join(", "),
                self.correlation
            )));
        }
        if self.format == Format::Json {
            return output::json(&steps);
        }
        let mut branches = Branches::default();
        for step in &steps {
            if !output::more(&line(step, &branches.before(step))) {
                break;
            }
        }
        Ok(())
    }
}

fn line(step: &Step, branch: &str) -> String {
    let entry = &step.entry;
    let op = entry.op.map_or("no event", |op| op.as_str());
    let mut text =
        format!("{branch}{}  {}/{}  {op} {}  {}", entry.recorded, entry.collection, entry.key, entry.kind, entry.id);
    if let Some(actor) = &entry.actor {
        text += &format!("  by {actor}");
    }
    if let Some(cause) = entry.causation.as_ref().filter(|_| step.depth == 0) {
        text += &format!("  (caused by {cause}, which is none of these)");
    }
    printable(&text)
}

/// The lines that lead from causes to effects.
#[derive(Default)]
struct Branches {
    /// For each depth above the present one, whether more comes at it.
    open: Vec<bool>,
}

impl Branches {
    /// What stands before a step.
    fn before(&mut self, step: &Step) -> String {
        self.open.truncate(step.depth.saturating_sub(1));
        let mut text: String = self.open.iter().map(|open| if *open { "│  " } else { "   " }).collect();
        if step.depth > 0 {
            text += if step.is_last { "└─ " } else { "├─ " };
            self.open.push(!step.is_last);
        }
        text
    }
}
