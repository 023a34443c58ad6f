//! `primalcore audit event`: everything about one event.

use clap::Args;
use primal_audit::{AppliedAt, Entry, Scan, Span, Standing};
use primal_core::{RecordRef, header};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::output;
use crate::state::{Format, payload};
use crate::{ConfigFile, Failure, Outcome};

/// One event: its headers and payload, its place in the log, and where it stands in every sink that wants it.
#[derive(Args)]
pub(crate) struct Event {
    #[command(flatten)]
    config: ConfigFile,
    /// The event's id
    #[arg(value_name = "ID")]
    id: String,
    /// Only these collections; all of the config when absent
    #[arg(long = "collection", value_name = "A,B", value_delimiter = ',')]
    collections: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    entry: Entry,
    headers: Vec<(String, Option<String>)>,
    data: Option<Box<RawValue>>,
    sinks: Vec<Standing>,
}

impl Event {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let sources = hub.sources(&self.collections)?;
        let parts = Span::whole().parts(&*hub.log, &sources).await?;
        let id = self.id.clone().into_bytes();
        let mut scan = Scan::new(hub.log.clone(), parts, move |record: RecordRef<'_>| {
            record.headers.get(header::ID) == Some(id.as_slice())
        });
        let mut found = Vec::new();
        while let Some(entry) = scan.next().await? {
            let (headers, data, sinks) = (entry.headers.clone(), entry.payload(), hub.standings(&entry).await?);
            found.push(Found { entry, headers, data, sinks });
        }
        if found.is_empty() {
            let names: Vec<_> = sources.iter().map(|source| source.collection.as_str()).collect();
            return Err(Failure::failed(format!(
                "no event in {} has the id {:?}; `primalcore audit log` shows the ids",
                names.join(", "),
                self.id
            )));
        }
        if self.format == Format::Json {
            return output::json(&found);
        }
        if found.len() > 1 {
            output::line(&format!("the log has {} events with this id; stores apply each as it comes", found.len()));
        }
        found.iter().for_each(show);
        Ok(())
    }
}

fn show(Found { entry, headers, sinks, .. }: &Found) {
    let mut pairs = vec![
        ("collection", entry.collection.clone()),
        ("key", entry.key.clone()),
        ("op", entry.op.map_or_else(|| "no event".to_owned(), |op| op.as_str().to_owned())),
        ("version", entry.version.to_string()),
        ("place", format!("partition {}, offset {}", entry.partition, entry.offset)),
        ("recorded", entry.recorded.to_string()),
    ];
    if let Some(problem) = &entry.problem {
        pairs.push(("problem", problem.clone()));
    }
    let headers =
        headers.iter().map(|(name, value)| (name.as_str(), value.clone().unwrap_or_else(|| "null".to_owned())));
    pairs.extend(headers);
    output::pairs(&pairs);
    payload(entry);
    let rows = sinks.iter().map(|standing| {
        vec![
            standing.sink.clone(),
            standing.place.clone().unwrap_or_default(),
            standing.fate.as_str().to_owned(),
            standing.stored.map_or(String::new(), |version| version.to_string()),
            standing.applied_at.as_ref().map_or(String::new(), moment),
            output::printable(&standing.note),
        ]
    });
    if sinks.is_empty() {
        output::line("no sink wants this collection");
    } else {
        output::table(&["sink", "place", "event is", "stored version", "applied at", "note"], rows.collect());
    }
}

/// To the second, where receipts say so closely.
fn moment(applied: &AppliedAt) -> String {
    let AppliedAt { from, to, again } = applied;
    let when = match to.since(*from).as_secs() {
        0 => to.to_string(),
        _ => format!("between {from} and {to}"),
    };
    if *again == 0 { when } else { format!("{when}, delivered again {again} times") }
}
