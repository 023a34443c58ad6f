//! Bulk requests (https://www.elastic.co/guide/en/elasticsearch/reference/7.17/docs-bulk.html): two lines an event, and the
//! status of each item in the answer, which is good even if all of them failed.

use std::fmt::Write;

use primal_core::batch::{BatchEvent, Mode};
use primal_core::sink::{Projection, Target};
use primal_core::{Fault, Position};
use serde_json::{Value, json};

use crate::search::{fault, index};

/// What became of an item.
#[derive(Debug, PartialEq)]
pub(super) enum Done {
    Written,
    /// What is there is as new, or another won.
    Stale,
    /// It can never be indexed so.
    Refused(String),
    /// It failed for a reason that is not its own.
    Failed(Fault, String),
}

/// Events to be written, each with what the document must be at, if that was read before.
pub(super) struct Bulk<'a> {
    projection: Projection,
    mode: Mode,
    events: Vec<(BatchEvent<'a>, Option<(i64, i64)>)>,
}

impl<'a> Bulk<'a> {
    pub(super) fn new(target: &Target, mode: Mode) -> Self {
        Bulk { projection: target.projection, mode, events: Vec::new() }
    }

    pub(super) fn push(&mut self, event: BatchEvent<'a>, at: Option<(i64, i64)>) {
        self.events.push((event, at));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn events(&self) -> impl Iterator<Item = &BatchEvent<'a>> {
        self.events.iter().map(|(event, _)| event)
    }

    pub(super) fn keep(&mut self, mut which: impl FnMut(usize) -> bool) {
        let mut index = 0;
        self.events.retain(|_| {
            index += 1;
            which(index - 1)
        });
    }

    /// The request. `as_text`: payloads that cannot be indexed, as one string.
    pub(super) fn lines(&self, as_text: bool) -> String {
        let size = self.events().map(|event| event.data.map_or(0, str::len) + event.key.len() + 320).sum();
        let mut lines = String::with_capacity(size);
        for (event, at) in &self.events {
            self.action(&mut lines, event, *at);
            self.document(&mut lines, event, as_text);
        }
        lines
    }

    fn action(&self, lines: &mut String, event: &BatchEvent<'_>, at: Option<(i64, i64)>) {
        let id = quoted(event.identity(self.projection));
        // Writing to a String cannot fail.
        let _ = match (self.projection, self.mode, at) {
            (_, _, Some((sequence, term))) => {
                writeln!(lines, "{{\"index\":{{\"_id\":{id},\"if_seq_no\":{sequence},\"if_primary_term\":{term}}}}}")
            }
            (Projection::Events, _, None) => writeln!(lines, "{{\"create\":{{\"_id\":{id}}}}}"),
            (_, mode, None) => {
                let rule = if mode == Mode::Repair { "external_gte" } else { "external" };
                let version = event.version;
                writeln!(lines, "{{\"index\":{{\"_id\":{id},\"version\":{version},\"version_type\":\"{rule}\"}}}}")
            }
        };
    }

    fn document(&self, lines: &mut String, event: &BatchEvent<'_>, as_text: bool) {
        let (primal, version, time) = (event.primal(), event.version, event.time());
        let (key, id) = (quoted(event.key), quoted(event.id));
        let _ = write!(
            lines,
            "{{\"_key\":{key},\"_primal_version\":{version},\"_event_id\":{id},\"_time\":\"{time}\",\"_alpha\":{},\
             \"_lambda\":{},\"_k\":{}",
            primal.alpha, primal.lambda, primal.k
        );
        if self.projection == Projection::Events {
            let _ = write!(lines, ",\"_op\":\"{}\",\"_event_type\":{}", event.op.as_str(), quoted(event.kind()));
        }
        match event.data {
            None => lines.push_str(",\"_deleted\":true"),
            Some(data) if as_text => {
                let _ = write!(lines, ",\"_unindexed\":true,\"_text\":{}", quoted(data));
            }
            // A line of its own ends the document: JSON has line ends between its parts only, where they mean nothing.
            Some(data) => {
                lines.push_str(",\"data\":");
                lines.extend(data.chars().map(|c| if c == '\n' || c == '\r' { ' ' } else { c }));
            }
        }
        lines.push_str("}\n");
    }
}

/// The move of a position: over what it was when it was read, or into nothing.
pub(super) fn position(sink: &str, partition: i32, next: Position, at: Option<(i64, i64)>) -> String {
    let id = index::position_id(sink, partition);
    let action = match at {
        Some((sequence, term)) => {
            json!({ "index": { "_id": id, "if_seq_no": sequence, "if_primary_term": term } })
        }
        None => json!({ "create": { "_id": id } }),
    };
    let document = json!({ "_sink": sink, "_partition": partition, "_position": next.0 });
    format!("{action}\n{document}\n")
}

/// What became of each item.
pub(super) fn read(answer: &Value) -> Vec<Done> {
    let items = answer.get("items").and_then(Value::as_array);
    let item = |item: &Value| {
        let item = item.as_object().and_then(|item| item.values().next()).cloned().unwrap_or_default();
        let status = item.get("status").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok());
        let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let said = match (text("/error/reason"), text("/error/caused_by/reason")) {
            (reason, "") => format!("{}: {reason}", text("/error/type")),
            (reason, cause) => format!("{}: {reason}: {cause}", text("/error/type")),
        };
        match status.unwrap_or(0) {
            200..300 => Done::Written,
            409 => Done::Stale,
            400 => Done::Refused(said),
            status => Done::Failed(fault(status, &said), format!("status {status}: {said}")),
        }
    };
    items.into_iter().flatten().map(item).collect()
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_has_its_own_answer() {
        let answer = json!({ "errors": true, "items": [
            { "index": { "status": 201 } },
            { "index": { "status": 409, "error": { "type": "version_conflict_engine_exception", "reason": "v" } } },
            { "create": { "status": 400, "error": { "type": "mapper_parsing_exception", "reason": "failed to parse",
                "caused_by": { "reason": "empty name" } } } },
            { "index": { "status": 429, "error": { "type": "rejected_execution", "reason": "queue" } } },
            { "index": { "status": 403, "error": { "type": "cluster_block_exception",
                "reason": "index blocked: disk usage exceeded flood-stage watermark" } } },
        ] });
        assert_eq!(
            read(&answer),
            [
                Done::Written,
                Done::Stale,
                Done::Refused("mapper_parsing_exception: failed to parse: empty name".into()),
                Done::Failed(Fault::Unavailable, "status 429: rejected_execution: queue".into()),
                Done::Failed(
                    Fault::Full,
                    "status 403: cluster_block_exception: index blocked: disk usage exceeded flood-stage watermark"
                        .into()
                ),
            ]
        );
    }
}
