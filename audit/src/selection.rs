//! A part of a collection: entities by key, or by what some event of theirs says.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use primal_core::log::{EventLog, Limits};
use primal_core::{LogError, Offset, Partition, RecordRef, Records};

use crate::nearest::{Field, nearest};
use crate::scan::{ScanError, Source};

/// Which events are meant; each empty set means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of these entities.
    pub keys: BTreeSet<String>,
    /// Of these CloudEvents types.
    pub kinds: BTreeSet<String>,
    /// With one of these correlation ids.
    pub correlations: BTreeSet<String>,
}

impl Selection {
    /// Whether everything is meant.
    pub fn is_all(&self) -> bool {
        self.keys.is_empty() && self.has_only_keys()
    }

    /// Whether nothing but keys tells what is meant.
    pub fn has_only_keys(&self) -> bool {
        self.kinds.is_empty() && self.correlations.is_empty()
    }

    /// Whether a record is meant.
    pub fn takes(&self, record: &RecordRef<'_>) -> bool {
        self.fields().iter().all(|(field, values)| values.is_empty() || has(*field, values, record))
    }

    /// The partitions that may hold what is meant; `None` where any may.
    pub fn partitions(&self, source: &Source) -> Option<BTreeSet<Partition>> {
        let of_keys = || self.keys.iter().flat_map(|key| source.epochs.partitions_of(key)).collect();
        (!self.keys.is_empty()).then(of_keys)
    }

    fn fields(&self) -> [(Field, &BTreeSet<String>); 3] {
        [(Field::Key, &self.keys), (Field::Type, &self.kinds), (Field::Correlation, &self.correlations)]
    }
}

/// Events of a collection: a selection, of these offsets per partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Within {
    /// The offsets; nothing of a partition that is not among them.
    pub ranges: BTreeMap<Partition, Range<Offset>>,
    /// Which of the events there.
    pub selection: Selection,
}

impl Within {
    /// Whether an event is one of them.
    pub fn takes(&self, partition: Partition, record: &RecordRef<'_>) -> bool {
        self.ranges.get(&partition).is_some_and(|range| range.contains(&record.offset)) && self.selection.takes(record)
    }
}

fn has(field: Field, values: &BTreeSet<String>, record: &RecordRef<'_>) -> bool {
    let value = field.of(record).and_then(|value| std::str::from_utf8(value).ok());
    value.is_some_and(|value| values.contains(value))
}

/// Makes sure that each value of a selection is on some event of the sources; the newest events are looked at first.
///
/// # Errors
/// [`ScanError::Usage`] that names one that is on none, and the nearest that is.
pub async fn known(log: &dyn EventLog, sources: &[Source], selection: &Selection) -> Result<(), ScanError> {
    let mut left = selection.clone();
    // Emptied sets take everything, so it is looked at what is left, not asked whether that takes a record.
    for source in sources {
        let partitions = if selection.has_only_keys() { selection.partitions(source) } else { None };
        look(log, source, partitions.as_ref(), &mut left).await?;
    }
    let missing = left.fields().into_iter().find_map(|(field, values)| values.first().map(|value| (field, value)));
    let Some((field, value)) = missing else { return Ok(()) };
    let names = sources.iter().map(|source| source.collection.as_str()).collect::<Vec<_>>().join(", ");
    let close = match field {
        Field::Correlation => None,
        _ => nearest(log, sources, field, value).await?,
    };
    let close = close.map_or(String::new(), |close| format!(", did you mean `{close}`?"));
    Err(ScanError::Usage(format!("no event of {names} in the log has the {} {value:?}{close}", field.as_str())))
}

/// Takes what is found out of `left`.
async fn look(
    log: &dyn EventLog,
    source: &Source,
    only: Option<&BTreeSet<Partition>>,
    left: &mut Selection,
) -> Result<(), LogError> {
    /// How much is read at a time, from the end backwards.
    const STEP: Offset = 100_000;
    let topic = source.collection.topic();
    let extents = log.extents(&topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
    for (partition, extent) in (0..).zip(extents) {
        if only.is_some_and(|only| !only.contains(&partition)) {
            continue;
        }
        let mut end = extent.end;
        while end > extent.start && !left.is_all() {
            let start = (end - STEP).max(extent.start);
            let mut reader = log.read(&topic, partition, start..end).await?;
            let mut records = Records::new();
            while reader.fetch(&mut records, Limits { records: 10_000, bytes: 4 << 20 }).await? {
                for record in records.iter() {
                    found(Field::Key, &mut left.keys, &record);
                    found(Field::Type, &mut left.kinds, &record);
                    found(Field::Correlation, &mut left.correlations, &record);
                }
                records.clear();
            }
            end = start;
        }
    }
    Ok(())
}

fn found(field: Field, values: &mut BTreeSet<String>, record: &RecordRef<'_>) {
    if values.is_empty() {
        return;
    }
    if let Some(value) = field.of(record).and_then(|value| std::str::from_utf8(value).ok()) {
        values.remove(value);
    }
}

#[cfg(test)]
mod tests {
    use primal_core::header;

    use super::*;
    use crate::testing::World;

    fn keys(keys: &[&str]) -> Selection {
        Selection { keys: keys.iter().map(|key| (*key).to_owned()).collect(), ..Selection::default() }
    }

    #[tokio::test]
    async fn what_no_event_has_is_named_with_the_nearest() {
        let world = World::new().await;
        let things = world.source("things", 2).await;
        let others = world.source("others", 1).await;
        world.put(&things, 1, "apple", Some("{}")).await;
        world.put(&others, 2, "banana", Some("{}")).await;
        let log = &*world.log;
        let both = [things.clone(), others];
        known(log, &both, &keys(&["apple", "banana"])).await.unwrap();
        let told = known(log, &both, &keys(&["apple", "bananna"])).await.unwrap_err().to_string();
        assert_eq!(told, r#"no event of things, others in the log has the key "bananna", did you mean `banana`?"#);
        let told = known(log, &[things], &keys(&["banana"])).await.unwrap_err().to_string();
        assert!(told.starts_with(r#"no event of things in the log has the key "banana""#), "{told}");
        let kinds = |kind: &str| Selection { kinds: [kind.to_owned()].into(), ..Selection::default() };
        known(log, &both, &kinds("thing.put")).await.unwrap();
        let told = known(log, &both, &kinds("thing.putt")).await.unwrap_err().to_string();
        assert!(told.ends_with("did you mean `thing.put`?"), "{told}");
        let correlations = Selection { correlations: ["c1".to_owned()].into(), ..Selection::default() };
        let told = known(log, &both, &correlations).await.unwrap_err().to_string();
        assert!(told.ends_with(r#"has the correlation id "c1""#), "{told}");
    }

    #[test]
    fn a_selection_takes_what_fits_all_of_it() {
        let mut records = Records::new();
        let mut push = |offset, key: &str, kind: &str, correlation: Option<&str>| {
            records.push(offset, primal_core::Timestamp(0), Some(key.as_bytes()), None, |block| {
                header::push(block, header::TYPE, Some(kind.as_bytes()));
                if let Some(correlation) = correlation {
                    header::push(block, header::CORRELATION, Some(correlation.as_bytes()));
                }
            });
        };
        push(0, "a", "x", Some("c"));
        push(1, "a", "y", None);
        push(2, "b", "x", None);
        let set = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<BTreeSet<_>>();
        let taken = |selection: Selection, range: Range<Offset>| {
            let within = Within { ranges: BTreeMap::from([(0, range)]), selection };
            records.iter().filter(|record| within.takes(0, record)).map(|record| record.offset).collect::<Vec<_>>()
        };
        assert_eq!(taken(Selection::default(), 0..3), [0, 1, 2]);
        assert_eq!(taken(keys(&["a"]), 0..3), [0, 1]);
        assert_eq!(taken(keys(&["a"]), 1..3), [1]);
        assert_eq!(taken(Selection { kinds: set(&["x"]), ..keys(&["a", "b"]) }, 0..3), [0, 2]);
        assert_eq!(taken(Selection { correlations: set(&["c"]), ..Selection::default() }, 0..3), [0]);
        assert!(!Within::default().takes(1, &records.get(0).unwrap()));
    }
}
