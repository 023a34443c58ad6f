//! `primalcore status`.

use clap::Args;
use primal_hub::{Row, rows};

use crate::output::{self, grouped};
use crate::{ConfigFile, Outcome};

#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let rows = rows(&hub).await?;
        if self.json {
            return output::json(&rows);
        }
        show(&rows);
        Ok(())
    }
}

/// The table; errors follow it, one line each.
pub(crate) fn show(rows: &[Row]) {
    let number = |n: Option<i64>| n.map_or("?".to_owned(), grouped);
    let is_verified = rows.iter().any(|row| row.verified.is_some());
    let cells = rows.iter().map(|row| {
        let mut cells = vec![
            row.sink.clone(),
            row.collection.clone(),
            row.state.clone(),
            number(row.position),
            grouped(row.log_end),
            number(row.lag_events),
            row.lag_seconds.map_or("?".to_owned(), |s| format!("{s:.1}")),
            grouped(row.applied),
            grouped(row.stale),
            grouped(row.rejected),
            grouped(row.parked),
        ];
        cells.extend(is_verified.then(|| row.verified.map_or(String::new(), grouped)));
        cells
    });
    let mut header = vec![
        "sink",
        "collection",
        "state",
        "position",
        "log end",
        "lag",
        "lag s",
        "applied",
        "stale",
        "rejected",
        "parked",
    ];
    header.extend(is_verified.then_some("verified"));
    output::table(&header, cells.collect());
    for row in rows.iter().filter(|row| row.differences.is_some_and(|differences| differences > 0)) {
        let (sink, collection, count) = (&row.sink, &row.collection, row.differences.unwrap_or_default());
        let at = row.verified_at.map_or(String::new(), |at| format!(" at {at}"));
        output::line(&format!(
            "{sink}: {} records of {collection} differed from the log{at}; `primalcore audit verify --sink {sink} \
             --collection {collection}` shows which",
            grouped(count)
        ));
    }
    let mut told: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        if let Some(error) = row.error.as_deref()
            && !told.contains(&(row.sink.as_str(), error))
        {
            told.push((&row.sink, error));
            output::line(&format!("{}: {error}", row.sink));
        }
    }
}
