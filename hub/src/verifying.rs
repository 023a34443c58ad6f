//! Verification while the hub runs: each collection of each sink that can be read back, one at a time, every so often. How
//! far each was found clean is kept in the compacted topic `primal.verified`, so that a restart forgets nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use primal_audit::Report;
use primal_core::keyed::Keyed;
use primal_core::{LogError, Offset, Partition, Timestamp, Topic};
use primal_runtime::Feed;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config::SinkConfig;
use crate::hub::{Hub, HubError};

/// A sink that could not be verified is tried again after this long, or when its next turn comes.
const AGAIN: Duration = Duration::from_secs(30);

/// What is known of one collection in one sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When it was last looked at, in microseconds since 1970.
    pub at: i64,
    /// Records that differed then.
    pub differences: u64,
    /// Per partition the offset before which all was found as the log says.
    pub to: BTreeMap<Partition, Offset>,
}

impl Verified {
    /// The offsets of all partitions together.
    pub fn total(&self) -> Offset {
        self.to.values().sum()
    }

    /// A look that finds differences moves no offset.
    fn take_in(&mut self, report: &Report, now: Timestamp) {
        self.at = now.0;
        self.differences = report.differences();
        if report.is_clean() {
            self.to.clone_from(&report.verified_to);
        }
    }

    fn show(&self, sink: &str, collection: &str) {
        for (partition, offset) in &self.to {
            let partition = partition.to_string();
            let labels = [("sink", sink), ("collection", collection), ("partition", &partition)];
            let labels = labels.map(|(name, value)| (name, value.to_owned()));
            gauge!("primalcore_sink_verified_offset", &labels).set(*offset as f64);
        }
        let labels = [("sink", sink.to_owned()), ("collection", collection.to_owned())];
        gauge!("primalcore_sink_differences", &labels).set(self.differences as f64);
    }
}

fn row(sink: &SinkConfig, feed: &Feed) -> String {
    format!("{}/{}", sink.name, feed.collection)
}

fn count(sink: &SinkConfig, feed: &Feed, result: &'static str) {
    let labels = [("sink", sink.name.clone()), ("collection", feed.collection.to_string()), ("result", result.into())];
    counter!("primalcore_sink_verifications_total", &labels).increment(1);
}

impl Hub {
    /// What background verification has found, by `sink/collection`.
    ///
    /// # Errors
    /// The log's.
    pub async fn verified(&self) -> Result<BTreeMap<String, Verified>, LogError> {
        let rows = Keyed::rows(&*self.log, Topic::verified()).await?;
        Ok(rows.into_iter().filter_map(|(row, value)| Some((row, serde_json::from_slice(&value).ok()?))).collect())
    }

    /// Verifies every so often until the shutdown. What fails is told and tried again.
    pub(crate) async fn keep_verified(
        self: Arc<Self>,
        sinks: Vec<String>,
        every: Duration,
        shutdown: CancellationToken,
    ) {
        let mut known = self.verified().await.unwrap_or_default();
        for (row, verified) in &known {
            if let Some((sink, collection)) = row.split_once('/') {
                verified.show(sink, collection);
            }
        }
        loop {
            let pause = self.verify_what_is_due(&sinks, every, &mut known);
            let Some(pause) = shutdown.run_until_cancelled(pause).await else { return };
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Verifies those whose turn has come; how long until the next turn.
    async fn verify_what_is_due(
        &self,
        sinks: &[String],
        every: Duration,
        known: &mut BTreeMap<String, Verified>,
    ) -> Duration {
        let mut pause = every;
        for sink in self.sinks(sinks).unwrap_or_default() {
            if sink.sink.reader().is_none() {
                continue;
            }
            let feeds = sink.collections.iter().filter_map(|collection| self.feed(sink, collection).ok());
            let feeds: Vec<Feed> = feeds.collect();
            for feed in feeds {
                let row = row(sink, &feed);
                let since = known.get(&row).map(|verified| self.env.now().since(Timestamp(verified.at)));
                if let Some(left) = since.and_then(|since| every.checked_sub(since)).filter(|left| !left.is_zero()) {
                    pause = pause.min(left);
                    continue;
                }
                match self.look_twice(sink, &feed).await {
                    Ok(report) => {
                        let verified = known.entry(row.clone()).or_default();
                        verified.take_in(&report, self.env.now());
                        verified.show(&sink.name, feed.collection.as_str());
                        self.note(row, verified).await;
                        tell(sink, &feed, &report);
                    }
                    Err(error) => {
                        count(sink, &feed, "failed");
                        tracing::warn!(sink = sink.name, collection = %feed.collection, %error, "not verified; trying again");
                        pause = pause.min(AGAIN);
                    }
                }
            }
        }
        pause
    }

    /// A generation that is swapped in, or a rollback, in the middle of it looks like differences: only what a second look
    /// finds too counts.
    async fn look_twice(&self, sink: &SinkConfig, feed: &Feed) -> Result<Report, HubError> {
        let report = self.verify(sink, feed, |_| {}).await?;
        if report.is_clean() { Ok(report) } else { self.verify(sink, feed, |_| {}).await }
    }

    async fn note(&self, row: String, verified: &Verified) {
        let written = async {
            let value = serde_json::to_vec(verified).map_err(|e| e.to_string())?;
            let table = Keyed::open(&*self.log, Topic::verified()).await.map_err(|e| e.to_string())?;
            table.put(&*self.log, [(row, Some(value))]).await.map_err(|e| e.to_string())
        };
        if let Err(error) = written.await {
            tracing::debug!(error, "what was verified could not be written");
        }
    }
}

fn tell(sink: &SinkConfig, feed: &Feed, report: &Report) {
    let (name, collection) = (&sink.name, &feed.collection);
    if report.is_clean() {
        count(sink, feed, "clean");
        tracing::info!(sink = name, %collection, records = report.records, "verified");
        return;
    }
    count(sink, feed, "different");
    tracing::error!(
        sink = name,
        %collection,
        differences = report.differences(),
        "differs from the log; `primalcore audit verify --sink {name} --collection {collection}` shows what"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use primal_audit::Found;

    #[test]
    fn offsets_move_only_where_nothing_differs() {
        let mut verified = Verified::default();
        let clean = Report { verified_to: BTreeMap::from([(0, 7), (1, 5)]), ..Report::default() };
        verified.take_in(&clean, Timestamp(1));
        assert_eq!((verified.total(), verified.differences), (12, 0));
        let missing = Found { count: 2, ..Found::default() };
        let different = Report { missing, verified_to: BTreeMap::from([(0, 9), (1, 9)]), ..Report::default() };
        verified.take_in(&different, Timestamp(2));
        assert_eq!((verified.total(), verified.differences, verified.at), (12, 2, 2));
        verified.take_in(&Report { verified_to: BTreeMap::from([(0, 9)]), ..Report::default() }, Timestamp(3));
        assert_eq!((verified.total(), verified.differences), (9, 0));
    }
}
