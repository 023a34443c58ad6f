//! `primalcore publish`.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use primal_producer::lines::{self, Cause, How};
use primal_replay::Progress;
use serde::Serialize;
use tokio::io::{AsyncBufRead, BufReader};

use crate::output::{self, Bar, grouped};
use crate::{ConfigFile, Failure, Outcome};

#[derive(Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    config: ConfigFile,
    /// Batches on their way at once; events of one key keep their order
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
    /// Leave bad lines out and go on
    #[arg(long)]
    skip_bad: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// NDJSON, one event a line; `-` is standard input
    #[arg(value_name = "FILE|-", default_value = "-")]
    file: PathBuf,
}

#[derive(Serialize)]
struct Published {
    sent: u64,
    repeated: u64,
    skipped: u64,
    seconds: f64,
    events_per_second: f64,
    error: Option<String>,
}

impl Publish {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let input: Pin<Box<dyn AsyncBufRead + Send>> = if self.file.as_os_str() == "-" {
            Box::pin(BufReader::with_capacity(1 << 20, tokio::io::stdin()))
        } else {
            let file = tokio::fs::File::open(&self.file).await;
            let file = file.map_err(|e| Failure::usage(format!("{} cannot be opened: {e}", self.file.display())))?;
            Box::pin(BufReader::with_capacity(1 << 20, file))
        };
        let bar = Arc::new(Bar::new());
        bar.begin("publish", 0);
        let told = bar.clone();
        let how = How { concurrency: self.concurrency.into(), skip_bad: self.skip_bad };
        let started = Instant::now();
        let result =
            lines::publish(&Arc::new(hub.producer()), input, how, Arc::new(move |events| told.advance(events))).await;
        bar.finish();
        let seconds = started.elapsed().as_secs_f64();
        let (summary, cause) = match result {
            Ok(summary) => (summary, None),
            Err(error) => (error.summary, Some(error.cause)),
        };
        let all = summary.sent + summary.repeated;
        let published = Published {
            sent: summary.sent,
            repeated: summary.repeated,
            skipped: summary.skipped,
            seconds,
            events_per_second: all as f64 / seconds.max(1e-9),
            error: cause.as_ref().map(ToString::to_string),
        };
        if self.json {
            output::json(&published)?;
        } else {
            output::line(&said(&published));
        }
        match cause {
            None => Ok(()),
            Some(cause @ Cause::Line { .. }) => Err(Failure::failed(format!(
                "{cause}; nothing after this line was sent (--skip-bad leaves bad lines out)"
            ))),
            Some(cause) => Err(Failure::failed(cause)),
        }
    }
}

fn said(published: &Published) -> String {
    let Published { sent, repeated, skipped, seconds, events_per_second, .. } = published;
    let mut text =
        format!("{} events in {seconds:.2} s, {} events/s", grouped(*sent), grouped(*events_per_second as i64));
    if *repeated > 0 {
        text += &format!("; {} were in the log already", grouped(*repeated));
    }
    if *skipped > 0 {
        text += &format!("; {} bad lines left out", grouped(*skipped));
    }
    text
}
