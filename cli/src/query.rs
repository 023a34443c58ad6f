//! `primalcore query` and `primalcore snapshot`: collections as they were at a moment, in SQL.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::{Args, ValueEnum};
use primal_audit::{Memory, Part, Remembered};
use primal_core::log::Extent;
use primal_core::{Collection, Moment};
use primal_hub::{Background, Hub};
use primal_query::{Answer, History, QueryError, Source};
use tokio_util::sync::CancellationToken;

use crate::output::{self, grouped, remark};
use crate::{ConfigFile, Failure, Outcome, past};

/// Between two looks for snapshots that are due.
const LOOK: Duration = Duration::from_secs(10);

/// Ask the log in SQL: each collection is a table, its rows are the entities as they were at a moment
#[derive(Args)]
pub(crate) struct Query {
    #[command(flatten)]
    config: ConfigFile,
    /// The statement; `SHOW TABLES` and `DESCRIBE flights` say what there is
    sql: String,
    /// When, by recorded time: a date, a time (UTC without a zone), how long ago (2h), or latest
    #[arg(long, value_name = "T", value_parser = past, default_value = "latest")]
    as_of: Moment,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Into this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// Comma-separated values, names first
    Csv,
    /// One object a line
    Json,
    /// A Parquet file; needs --out
    Parquet,
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Sql(message) => Failure::usage(message),
            QueryError::Log(error) => error.into(),
            other => Failure::failed(other),
        }
    }
}

fn history(hub: &Hub) -> History {
    History { log: hub.log.clone(), snapshots: hub.config.snapshots.path.clone() }
}

/// A collection with its columns.
fn source(hub: &Hub, name: &Collection) -> Result<Source, Failure> {
    let found = hub.source(name.as_str())?;
    let table = hub.config.collections.get(name).and_then(|config| config.table.clone());
    Ok(Source { collection: found.collection, epochs: found.epochs, table })
}

/// Snapshots as a memory of where keys are.
pub(crate) struct Snapshots(pub(crate) Arc<Hub>);

#[async_trait]
impl Memory for Snapshots {
    async fn last(&self, part: &Part, key: &str) -> Option<Remembered> {
        let source = source(&self.0, &part.source.collection).ok()?;
        let extent = Extent { start: part.from, end: part.to };
        match history(&self.0).recall(&source, part.partition, extent, key).await {
            Ok(found) => found.map(|(until, version)| Remembered { until, version }),
            Err(error) => {
                tracing::warn!(%error, "reading without a snapshot");
                None
            }
        }
    }
}

impl Query {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let as_of = match self.as_of {
            Moment::Time(at) => Some(at),
            Moment::Latest => None,
            Moment::Earliest => {
                return Err(Failure::usage("--as-of earliest: nothing was there before the first event"));
            }
        };
        if self.format == Format::Parquet && self.out.is_none() {
            return Err(Failure::usage("--format parquet needs --out FILE: it is no text"));
        }
        let sources = hub.config.collections.keys().map(|name| source(&hub, name)).collect::<Result<Vec<_>, _>>()?;
        let answer = history(&hub).query(&sources, as_of, &self.sql).await?;
        self.print(&answer)?;
        if self.format == Format::Table {
            let moment = as_of.map_or("now".to_owned(), |at| format!("as of {at} (recorded time, UTC)"));
            remark(&format!("{} rows, {moment}", grouped(answer.rows() as i64)));
        }
        Ok(())
    }

    fn print(&self, answer: &Answer) -> Outcome {
        let format = match self.format {
            Format::Table => {
                output::table(&answer.names(), answer.texts()?);
                return Ok(());
            }
            Format::Csv => primal_query::Format::Csv,
            Format::Json => primal_query::Format::Json,
            Format::Parquet => primal_query::Format::Parquet,
        };
        match &self.out {
            None => Ok(answer.write(format, &mut std::io::stdout())?),
            Some(path) => {
                let file = File::create(path);
                let mut file = file.map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
                Ok(answer.write(format, &mut file)?)
            }
        }
    }
}

/// Keep the states of collections along the log, so that questions about the past need not read it from its start. They
/// are only a cache: without them the answers are the same
#[derive(Args)]
pub(crate) struct Snapshot {
    #[command(flatten)]
    config: ConfigFile,
    /// Only these; all of the config unless named
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    collection: Vec<String>,
    /// Events of a partition between two; the config's `snapshots.every` unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    every: Option<u64>,
}

impl Snapshot {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let every = self.every.unwrap_or(hub.config.snapshots.every);
        for found in hub.sources(&self.collection)? {
            let mut count = 0;
            let source = source(&hub, &found.collection)?;
            history(&hub).snapshot(&source, every, |_| count += 1).await?;
            output::line(&format!("{}: {count} snapshots made", found.collection));
        }
        Ok(())
    }
}

/// Makes the snapshots that are due while the hub runs, where the config asks for them.
pub(crate) fn keep(hub: &Arc<Hub>, background: &Background, shutdown: CancellationToken) {
    if !hub.config.snapshots.asked {
        return;
    }
    let hub = hub.clone();
    background.spawn(async move {
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            for name in hub.config.collections.keys() {
                let Ok(source) = source(&hub, name) else { continue };
                let tell = |made: &primal_query::Snapshot| tracing::info!(path = %made.path.display(), "snapshot");
                let making = history(&hub);
                let making = making.snapshot(&source, hub.config.snapshots.every, tell);
                match shutdown.run_until_cancelled(making).await {
                    Some(Err(error)) => tracing::warn!(collection = %name, %error, "no snapshot"),
                    Some(Ok(())) => {}
                    None => return,
                }
            }
        }
    });
}
