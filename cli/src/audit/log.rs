//! `primalcore audit log`: who wrote what when.

use std::time::Duration;

use clap::{Args, ValueEnum};
use primal_audit::{Entry, Field, Scan, Source, Span, nearest};
use primal_core::{Moment, RecordRef, header};
use primal_hub::Hub;

use crate::output::{self, Columns};
use crate::{ConfigFile, Failure, Outcome, past};

/// How often the log is asked for more when it is followed.
const ASK: Duration = Duration::from_millis(300);
/// Rows that a table is measured by.
const BLOCK: usize = 500;

/// Who wrote what when: the events of the log in order of recorded time, oldest first.
#[derive(Args)]
pub(crate) struct Log {
    #[command(flatten)]
    config: ConfigFile,
    /// Only these collections; all of the config when absent
    #[arg(long = "collection", value_name = "A,B", value_delimiter = ',')]
    collections: Vec<String>,
    /// Only this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only this CloudEvents type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only what this actor did
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Only events with this correlation id
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// Recorded at or after: a date, a time (UTC without a zone), how long ago (2h), earliest, or latest
    #[arg(long, value_name = "T", value_parser = past, default_value = "earliest")]
    from: Moment,
    /// Recorded before
    #[arg(long, value_name = "T", value_parser = past, default_value = "latest")]
    to: Moment,
    /// At most so many events, the oldest of the range
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Go on with what comes, until Ctrl-C or until the reader closes the pipe
    #[arg(long, conflicts_with = "to")]
    follow: bool,
    /// How to print; json has one object a line
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// For spreadsheets
    Csv,
}

const TABLE: &[&str] = &["recorded", "collection", "key", "op", "type", "actor", "correlation", "event id"];
const CSV: &[&str] = &[
    "recorded",
    "time",
    "collection",
    "partition",
    "offset",
    "version",
    "key",
    "op",
    "type",
    "source",
    "id",
    "actor",
    "correlation",
    "causation",
];

impl Log {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let sources = hub.sources(&self.collections)?;
        let span = Span { from: self.from, to: self.to, key: self.key.clone() };
        let parts = span.parts(&*hub.log, &sources).await?;
        let mut scan = Scan::new(hub.log.clone(), parts, self.wanted());
        let told = tokio::select! {
            told = self.tell(&mut scan) => told?,
            () = output::closed() => return Ok(()),
        };
        if told == 0 && !self.follow {
            self.nothing(&hub, &sources).await?;
        }
        Ok(())
    }

    fn wanted(&self) -> impl Fn(RecordRef<'_>) -> bool + Send + 'static {
        let fields = self.fields().map(|(field, value)| (field, value.cloned()));
        let correlation = self.correlation.clone();
        move |record| {
            let is = |field: Field, value: &String| field.of(&record) == Some(value.as_bytes());
            fields.iter().all(|(field, value)| value.as_ref().is_none_or(|value| is(*field, value)))
                && correlation.as_ref().is_none_or(|id| record.headers.get(header::CORRELATION) == Some(id.as_bytes()))
        }
    }

    fn fields(&self) -> [(Field, Option<&String>); 3] {
        [(Field::Key, self.key.as_ref()), (Field::Type, self.kind.as_ref()), (Field::Actor, self.actor.as_ref())]
    }

    /// Prints, and says how many.
    async fn tell(&self, scan: &mut Scan) -> Result<u64, Failure> {
        let mut printer = Printer::new(self.format, self.follow);
        let mut told = 0;
        loop {
            while self.limit.is_none_or(|limit| told < limit)
                && let Some(entry) = scan.next().await?
            {
                told += 1;
                if !printer.print(&entry)? {
                    return Ok(told);
                }
            }
            if !printer.flush() || !self.follow || self.limit.is_some_and(|limit| told >= limit) {
                return Ok(told);
            }
            while !scan.grow().await? {
                tokio::time::sleep(ASK).await;
            }
        }
    }

    /// Nothing was found: because a name is wrong?
    async fn nothing(&self, hub: &Hub, sources: &[Source]) -> Outcome {
        for (field, value) in self.fields() {
            let Some(value) = value else { continue };
            let hint = match nearest(&*hub.log, sources, field, value).await? {
                Some(known) if known == *value => continue,
                Some(close) => format!(", did you mean `{close}`?"),
                None => String::new(),
            };
            return Err(Failure::usage(format!("no event has the {} {value:?}{hint}", field.as_str())));
        }
        output::remark("no event is like that");
        Ok(())
    }
}

/// Prints entries one after the other.
struct Printer {
    format: Format,
    columns: Columns,
    is_begun: bool,
}

impl Printer {
    fn new(format: Format, follow: bool) -> Self {
        let block = if follow { 1 } else { BLOCK };
        Printer { format, columns: Columns::new(TABLE, block), is_begun: false }
    }

    /// `false` once the reader has closed the pipe.
    fn print(&mut self, entry: &Entry) -> Result<bool, Failure> {
        let begins = !std::mem::replace(&mut self.is_begun, true);
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let op = entry.op.map_or("no event", |op| op.as_str()).to_owned();
        Ok(match self.format {
            Format::Json => output::json_line(entry)?,
            Format::Table => self.columns.row(vec![
                entry.recorded.to_string(),
                entry.collection.clone(),
                entry.key.clone(),
                op,
                entry.kind.clone(),
                text(&entry.actor),
                text(&entry.correlation),
                entry.id.clone(),
            ]),
            Format::Csv => {
                let row = [
                    entry.recorded.to_string(),
                    text(&entry.time),
                    entry.collection.clone(),
                    entry.partition.to_string(),
                    entry.offset.to_string(),
                    entry.version.to_string(),
                    entry.key.clone(),
                    op,
                    entry.kind.clone(),
                    entry.source.clone(),
                    entry.id.clone(),
                    text(&entry.actor),
                    text(&entry.correlation),
                    text(&entry.causation),
                ];
                (!begins || output::more(&CSV.join(","))) && output::more(&output::csv(&row))
            }
        })
    }

    /// `false` once the reader has closed the pipe.
    fn flush(&mut self) -> bool {
        // A header without rows says nothing.
        self.format != Format::Table || !self.is_begun || self.columns.flush()
    }
}
