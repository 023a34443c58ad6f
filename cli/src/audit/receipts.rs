//! `primalcore audit receipts`: what each sink did with which offsets, and when.

use clap::Args;
use primal_audit::{Checked, Disagreement};
use primal_core::{Moment, Timestamp};
use primal_runtime::receipts::{Receipt, Span};

use crate::output::{self, grouped};
use crate::{ConfigFile, Failure, Outcome, exit, past};

/// What each sink did with which offsets, and when: a row for each block of 10,000 offsets of each build.
#[derive(Args)]
pub(crate) struct Receipts {
    #[command(flatten)]
    config: ConfigFile,
    /// Only this sink; also one that is not in the config any more
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// Only this collection
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Done at or after: a date, a time (UTC without a zone), how long ago (2h), earliest, or latest
    #[arg(long, value_name = "T", value_parser = past, default_value = "earliest")]
    from: Moment,
    /// Done before
    #[arg(long, value_name = "T", value_parser = past, default_value = "latest")]
    to: Moment,
    /// Compare them with the log: whether what a sink was given is what the log has; exit code 3 when it is not
    #[arg(long)]
    check: bool,
    /// Print JSON, with every span of a row
    #[arg(long)]
    json: bool,
}

impl Receipts {
    pub(crate) async fn run(self) -> Outcome {
        let hub = self.config.open().await?;
        let all = primal_runtime::receipts::read_all(&*hub.log).await?;
        let found: Vec<Receipt> = all.iter().filter_map(|receipt| self.part(receipt)).collect();
        if found.is_empty() {
            return Err(self.nothing(&all));
        }
        if self.check {
            return self.compared(&hub.check_receipts(&found).await?);
        }
        if self.json {
            return output::json(&found);
        }
        show(&found);
        Ok(())
    }

    fn compared(&self, checked: &Checked) -> Outcome {
        if self.json {
            output::json(checked)?;
        } else {
            output::line(&format!("{} events were given to the stores as the log has them", grouped(checked.events)));
            if checked.untold > 0 {
                let untold = grouped(checked.untold);
                output::line(&format!(
                    "{untold} ranges cannot be told of: some was left out, or is not in the log any more"
                ));
            }
            for Disagreement { sink, collection, partition, from, to } in &checked.differing {
                let last = to - 1;
                output::line(&format!(
                    "{sink} was given other events of {collection}, partition {partition}, offsets {from} to {last}"
                ));
            }
        }
        match checked.differing.len() {
            0 => Ok(()),
            count => {
                Err(Failure::new(exit::DIFFERENT, format!("{count} ranges of the log are not what was delivered")))
            }
        }
    }

    /// What of a row is asked for.
    fn part(&self, receipt: &Receipt) -> Option<Receipt> {
        let is = |asked: &Option<String>, name: &str| asked.as_ref().is_none_or(|asked| asked == name);
        if !is(&self.sink, &receipt.sink) || !is(&self.collection, &receipt.collection) {
            return None;
        }
        let after = |at: Timestamp| match self.from {
            Moment::Earliest => true,
            Moment::Time(from) => at >= from,
            Moment::Latest => false,
        };
        let before = |at: Timestamp| match self.to {
            Moment::Earliest => false,
            Moment::Time(to) => at < to,
            Moment::Latest => true,
        };
        let spans: Vec<Span> =
            receipt.spans.iter().filter(|span| after(span.last) && before(span.first)).cloned().collect();
        (!spans.is_empty()).then(|| Receipt { spans, ..receipt.clone() })
    }

    fn nothing(&self, all: &[Receipt]) -> Failure {
        let mut names: Vec<String> = all.iter().map(|r| format!("{}/{}", r.sink, r.collection)).collect();
        names.dedup();
        Failure::failed(match names.is_empty() {
            true => "the log has no receipts; `primalcore run` leaves them".to_owned(),
            false => format!("no receipt is like that; there are some of {}", names.join(", ")),
        })
    }
}

fn show(receipts: &[Receipt]) {
    let cells = receipts.iter().map(|receipt| {
        let total = receipt.total();
        vec![
            receipt.sink.clone(),
            receipt.collection.clone(),
            receipt.generation.clone(),
            match receipt.epoch {
                0 => receipt.partition.to_string(),
                epoch => format!("{}@e{epoch}", receipt.partition),
            },
            format!("{} to {}", total.from, total.to - 1),
            grouped(total.batches),
            grouped(total.applied),
            grouped(total.stale),
            grouped(total.folded),
            grouped(total.left_out),
            total.first.to_string(),
            total.last.to_string(),
        ]
    });
    let header = [
        "sink",
        "collection",
        "generation",
        "partition",
        "offsets",
        "batches",
        "applied",
        "stale",
        "folded",
        "left out",
        "first",
        "last",
    ];
    output::table(&header, cells.collect());
}
