//! What led to what: the events of one correlation as a tree, by the id that each names as its cause.

use std::collections::HashMap;
use std::sync::Arc;

use primal_core::log::EventLog;
use primal_core::{RecordRef, header};
use serde::Serialize;

use crate::scan::{Entry, Scan, ScanError, Source, Span};

/// The most events that a trace takes in; they are all held in memory.
const MOST: usize = 100_000;

/// One event in its tree.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// How far from the beginning: 0 for an event whose cause is not among these.
    pub depth: usize,
    /// Whether it is the last one that its cause led to.
    #[serde(skip)]
    pub is_last: bool,
    /// The event.
    #[serde(flatten)]
    pub entry: Entry,
}

/// All events with this correlation, and the event whose id it is, each followed by what it led to.
///
/// # Errors
/// The log's; or there are too many for one tree.
pub async fn trace(log: Arc<dyn EventLog>, sources: &[Source], correlation: &str) -> Result<Vec<Step>, ScanError> {
    let parts = Span::whole().parts(&*log, sources).await?;
    let wanted = correlation.as_bytes().to_vec();
    let mut scan = Scan::new(log, parts, move |record: RecordRef<'_>| {
        let is = |name| record.headers.get(name) == Some(wanted.as_slice());
        is(header::CORRELATION) || is(header::ID)
    });
    let mut entries = Vec::new();
    while let Some(entry) = scan.next().await? {
        entries.push(Entry { headers: Vec::new(), data: None, ..entry });
        if entries.len() > MOST {
            return Err(ScanError::Usage(format!(
                "{correlation:?} has more than {MOST} events; `primalcore audit log --correlation {correlation}` lists them"
            )));
        }
    }
    Ok(tree(entries))
}

/// Entries in order of time become a tree, written down from the top. An event that is its own cause, over whatever
/// detour, begins a tree of its own.
fn tree(entries: Vec<Entry>) -> Vec<Step> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        // An id that was repeated is the same event, and the first counts.
        places.entry(&entry.id).or_insert(index);
    }
    let cause = |entry: &Entry| entry.causation.as_deref().and_then(|id| places.get(id).copied());
    let causes: Vec<Option<usize>> =
        entries.iter().enumerate().map(|(index, entry)| cause(entry).filter(|cause| *cause != index)).collect();
    let mut effects: Vec<Vec<usize>> = vec![Vec::new(); entries.len()];
    for (index, cause) in causes.iter().enumerate() {
        if let Some(effects) = cause.and_then(|cause| effects.get_mut(cause)) {
            effects.push(index);
        }
    }
    let mut entries: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
    let mut steps = Vec::with_capacity(entries.len());
    let roots = (0..entries.len()).filter(|index| causes.get(*index).is_some_and(Option::is_none));
    // Behind the roots everything once more: what is left by then is a circle.
    for start in roots.chain(0..entries.len()).collect::<Vec<_>>() {
        let mut waiting = vec![(start, 0, true)];
        while let Some((index, depth, is_last)) = waiting.pop() {
            let Some(entry) = entries.get_mut(index).and_then(Option::take) else { continue };
            steps.push(Step { depth, is_last, entry });
            let effects = effects.get(index).map(Vec::as_slice).unwrap_or_default();
            // Of what is not told yet: in a circle the way back is none.
            let left: Vec<usize> =
                effects.iter().copied().filter(|e| entries.get(*e).is_some_and(Option::is_some)).collect();
            let last = left.last().copied();
            waiting.extend(left.into_iter().rev().map(|effect| (effect, depth + 1, Some(effect) == last)));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::entry;

    fn shown(events: &[(&str, Option<&str>)]) -> Vec<String> {
        let entries = events.iter().map(|(id, cause)| Entry { causation: cause.map(str::to_owned), ..entry(id) });
        let line =
            |step: &Step| format!("{}{}{}", " ".repeat(step.depth), step.entry.id, if step.is_last { "." } else { "" });
        tree(entries.collect()).iter().map(line).collect()
    }

    #[test]
    fn effects_follow_their_causes_in_order_of_time() {
        let events =
            [("a", None), ("b", Some("a")), ("c", Some("b")), ("d", Some("a")), ("e", Some("b")), ("f", Some("gone"))];
        assert_eq!(shown(&events), ["a.", " b", "  c", "  e.", " d.", "f."]);
    }

    #[test]
    fn a_cause_that_was_recorded_later_is_still_the_cause() {
        assert_eq!(shown(&[("effect", Some("cause")), ("cause", None)]), ["cause.", " effect."]);
    }

    #[test]
    fn circles_and_repeated_ids_end() {
        assert_eq!(shown(&[("self", Some("self"))]), ["self."]);
        assert_eq!(shown(&[("a", Some("b")), ("b", Some("a")), ("c", Some("a"))]), ["a.", " b", " c."]);
        assert_eq!(shown(&[("a", None), ("a", None), ("b", Some("a"))]), ["a.", " b.", "a."]);
    }

    #[test]
    fn a_chain_may_be_long() {
        let names: Vec<String> = (0..50_000).map(|n| n.to_string()).collect();
        let events: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(i, name)| (name.as_str(), i.checked_sub(1).map(|i| names[i].as_str())))
            .collect();
        let entries = events.iter().map(|(id, cause)| Entry { causation: cause.map(str::to_owned), ..entry(id) });
        assert_eq!(tree(entries.collect()).last().map(|step| step.depth), Some(49_999));
    }
}
