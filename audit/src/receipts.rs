//! Receipts against the log: whether the events that a sink was given are those that the log has at their offsets.

use primal_core::event::EventRef;
use primal_core::log::{EventLog, Limits};
use primal_core::{Collection, Epochs, LogError, Offset, Partition, Records};
use primal_runtime::receipts::{Receipt, digest};
use serde::Serialize;

/// A range whose events are not those that were given to a sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// The sink.
    pub sink: String,
    /// The collection.
    pub collection: String,
    /// The partition.
    pub partition: Partition,
    /// The first offset.
    pub from: Offset,
    /// The offset behind the last.
    pub to: Offset,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Events that were delivered as the log has them; each delivery counts.
    pub events: u64,
    /// Ranges that cannot be told of: events were left out, or are not in the log any more.
    pub untold: u64,
    /// Ranges that are otherwise.
    pub differing: Vec<Disagreement>,
}

/// Compares receipts of a collection with the log, by the ids and offsets of the events.
///
/// # Errors
/// The log's.
pub async fn check(
    log: &dyn EventLog,
    collection: &Collection,
    epochs: &Epochs,
    receipts: &[Receipt],
) -> Result<Checked, LogError> {
    let topic = collection.topic();
    let extents = log.extents(&topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
    let mut checked = Checked::default();
    for receipt in receipts.iter().filter(|receipt| receipt.collection == collection.as_str()) {
        let partition = receipt.partition;
        let extent = usize::try_from(partition).ok().and_then(|index| extents.get(index));
        for span in &receipt.spans {
            let is_there = extent.is_some_and(|extent| extent.start <= span.from && span.to <= extent.end);
            if span.left_out > 0 || !is_there || epochs.at(partition, span.from) != receipt.epoch {
                checked.untold += 1;
                continue;
            }
            let mut reader = log.read(&topic, partition, span.from..span.to).await?;
            let (mut records, mut sum, mut events) = (Records::new(), 0u64, 0);
            while reader.fetch(&mut records, Limits { records: 10_000, bytes: 4 << 20 }).await? {
                for event in records.iter().filter_map(|record| EventRef::decode(record).ok()) {
                    events += 1;
                    sum = sum.wrapping_add(digest(event.id, event.record.offset));
                }
                records.clear();
            }
            if sum == span.digest {
                checked.events += events;
            } else {
                let (sink, collection) = (receipt.sink.clone(), receipt.collection.clone());
                checked.differing.push(Disagreement { sink, collection, partition, from: span.from, to: span.to });
            }
        }
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use primal_core::Timestamp;
    use primal_runtime::receipts::Span;

    use super::*;
    use crate::testing::World;

    #[tokio::test]
    async fn ranges_are_as_the_log_has_them_or_named() {
        let world = World::new().await;
        let source = world.source("things", 1).await;
        for at in 1..=4 {
            world.put(&source, at, "k", Some("{}")).await;
        }
        let span = |from: Offset, to: Offset, ids: &[(&str, Offset)]| Span {
            from,
            to,
            first: Timestamp(5),
            last: Timestamp(5),
            digest: ids.iter().fold(0, |sum, (id, offset)| sum.wrapping_add(digest(id, *offset))),
            ..Span::default()
        };
        let receipt = Receipt {
            sink: "pg".to_owned(),
            collection: "things".to_owned(),
            generation: "1".to_owned(),
            partition: 0,
            epoch: 0,
            block: 0,
            instance: String::new(),
            spans: vec![
                span(0, 2, &[("k@2", 1), ("k@1", 0)]),
                span(2, 3, &[("k@x", 2)]),
                Span { left_out: 1, ..span(3, 4, &[]) },
                span(3, 5, &[("k@4", 3)]),
            ],
        };
        let checked = check(&*world.log, &source.collection, &source.epochs, &[receipt]).await.unwrap();
        let (sink, collection) = ("pg".to_owned(), "things".to_owned());
        let differing = vec![Disagreement { sink, collection, partition: 0, from: 2, to: 3 }];
        assert_eq!(checked, Checked { events: 2, untold: 2, differing });
    }
}
