//! What the store remembers beside the records, in one collection: a document for the generations of each collection, and
//! one for each position, so that writers of two partitions never touch the same.

use ::mongodb::ClientSession;
use ::mongodb::bson::{Bson, Document, doc};
use primal_core::batch::Advance;
use primal_core::sink::{Builds, Positions, Rebuild, Target};
use primal_core::{Collection, Fault, Partition, Position, SinkError};

use crate::connection::{Connection, DUPLICATE, number};

/// The collection's name.
pub(crate) const STATE: &str = "_primal_state";

/// The document of a collection's generations.
pub(crate) fn generations(sink: &str, collection: &Collection) -> String {
    format!("generation/{sink}/{collection}")
}

/// What the ids of a target's positions begin with; the partition follows.
pub(crate) fn positions(target: &Target) -> String {
    format!("position/{}/{}/", target.sink, target.position_name())
}

/// The ids that begin so. They end with `/`, and `0` is the next character.
pub(crate) fn beginning_with(prefix: &str) -> Document {
    doc! { "$gte": prefix, "$lt": format!("{}0", prefix.trim_end_matches('/')) }
}

pub(crate) fn builds_of(found: Option<&Document>) -> Builds {
    let number = |name: &str| found.map(|found| number(found, name) as u64).filter(|n| *n > 0);
    let plan = || found.and_then(|found| found.get_str("plan").ok()).unwrap_or_default().to_owned();
    let rebuild = number("rebuild").map(|generation| Rebuild { generation, plan: plan() });
    Builds { live: number("live").unwrap_or(1), previous: number("previous"), rebuild }
}

pub(crate) fn document_of(builds: &Builds) -> Document {
    let mut document = doc! { "live": builds.live as i64 };
    if let Some(previous) = builds.previous {
        document.insert("previous", previous as i64);
    }
    if let Some(rebuild) = &builds.rebuild {
        document.extend(doc! { "rebuild": rebuild.generation as i64, "plan": &rebuild.plan });
    }
    document
}

fn moved(target: &Target, partition: Partition, found: Option<Position>, advance: Advance) -> SinkError {
    let said = |at: Option<Position>| at.map_or("none".to_owned(), |at| at.to_string());
    let (found, expected) = (said(found), said(advance.expected));
    let message = format!("the position of {}/{partition} is {found}, expected {expected}", target.position_name());
    SinkError::new(Fault::Fenced, message)
}

impl Connection {
    /// Documents of the state by a filter of their ids.
    pub(crate) async fn state(
        &self,
        session: Option<&mut ClientSession>,
        ids: Document,
    ) -> Result<Vec<Document>, SinkError> {
        // All in one answer: there are as many as a collection has partitions.
        let find = doc! { "find": STATE, "filter": { "_id": ids }, "batchSize": 100_000, "singleBatch": true };
        let answer = self.run(session, "reading the state of", find, false).await?;
        let found = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        let document = |value: &Bson| value.as_document().cloned();
        Ok(found.map(|found| found.iter().filter_map(document).collect()).unwrap_or_default())
    }

    pub(crate) async fn positions_of(
        &self,
        session: Option<&mut ClientSession>,
        target: &Target,
    ) -> Result<Positions, SinkError> {
        let prefix = positions(target);
        let found = self.state(session, beginning_with(&prefix)).await?;
        let one = |found: &Document| {
            let partition = found.get_str("_id").ok()?.strip_prefix(&prefix)?.parse().ok()?;
            Some((partition, Position::from_i64(number(found, "at"))))
        };
        Ok(found.iter().filter_map(one).collect())
    }

    /// Asks generation and position, in one call.
    pub(crate) async fn fence(
        &self,
        session: Option<&mut ClientSession>,
        target: &Target,
        partition: Partition,
        advance: Option<Advance>,
    ) -> Result<(), SinkError> {
        let generation = generations(&target.sink, &target.collection);
        let position = format!("{}{partition}", positions(target));
        let found = self.state(session, doc! { "$in": [&generation, &position] }).await?;
        let by_id = |id: &str| found.iter().find(|document| document.get_str("_id").is_ok_and(|found| found == id));
        if let Some(why) = target.wrong_generation(builds_of(by_id(&generation)).live) {
            return Err(SinkError::new(Fault::Fenced, why));
        }
        let at = by_id(&position).map(|found| Position::from_i64(number(found, "at")));
        match advance {
            Some(advance) if advance.expected != at => Err(moved(target, partition, at, advance)),
            _ => Ok(()),
        }
    }

    /// Moves a position by compare-and-set.
    pub(crate) async fn advance(
        &self,
        session: Option<&mut ClientSession>,
        target: &Target,
        partition: Partition,
        advance: Advance,
    ) -> Result<(), SinkError> {
        let (id, next) = (format!("{}{partition}", positions(target)), advance.next.as_i64());
        let command = match advance.expected {
            None => doc! { "insert": STATE, "documents": [{ "_id": id, "at": next }] },
            Some(expected) => {
                let update = doc! { "q": { "_id": id, "at": expected.as_i64() }, "u": { "$set": { "at": next } } };
                doc! { "update": STATE, "updates": [update] }
            }
        };
        let answer = self.run(session, "moving a position in", command, true).await?;
        match first_error(&answer) {
            None if number(&answer, "n") == 1 => Ok(()),
            None | Some((_, DUPLICATE, _)) => {
                let message = format!("the position of {}/{partition} was moved meanwhile", target.position_name());
                Err(SinkError::new(Fault::Fenced, message))
            }
            Some((_, code, why)) => Err(self.said("moving a position in", code, &why)),
        }
    }

    /// One update of a document of the state; how many it was for.
    pub(crate) async fn update_state(
        &self,
        session: Option<&mut ClientSession>,
        doing: &str,
        updates: Vec<Document>,
    ) -> Result<i64, SinkError> {
        let answer = self.run(session, doing, doc! { "update": STATE, "updates": updates }, true).await?;
        match first_error(&answer) {
            None => Ok(number(&answer, "n")),
            Some((_, code, why)) => Err(self.said(doing, code, &why)),
        }
    }

    /// The error of a statement, which servers answer among successes.
    pub(crate) fn said(&self, doing: &str, code: i32, why: &str) -> SinkError {
        SinkError::new(crate::connection::fault(code), format!("{doing} {}: {why} (code {code})", self.address))
    }
}

/// The first statement of a command that failed: its place, code and reason. The command itself is answered as a success.
pub(crate) fn first_error(answer: &Document) -> Option<(usize, i32, String)> {
    let error = answer.get_array("writeErrors").ok()?.first()?.as_document()?;
    let why = error.get_str("errmsg").unwrap_or("no reason given").to_owned();
    Some((number(error, "index") as usize, number(error, "code") as i32, why))
}
