//! Where one event stands in one sink: applied, superseded, a dead letter, parked, or still ahead.

use std::sync::Arc;

use primal_core::event::Op;
use primal_core::log::EventLog;
use primal_core::sink::{Positions, Stored};
use primal_core::{
    Collection, Epochs, LogError, Moment, Offset, Partition, Sink, SinkError, Target, Timestamp, Version,
};
use primal_runtime::receipts::{self, Receipt};
use primal_runtime::{Parked, dead_letter};
use serde::Serialize;

use crate::scan::{Entry, ScanError, Source};
use crate::state::{Entity, StateError};

/// What became of an event in a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// The store's position is past it, and nothing speaks against it.
    Applied,
    /// A newer event of the same record was applied since.
    Superseded,
    /// The sink refused it.
    Rejected,
    /// It waits behind a refused event of its key.
    Parked,
    /// The sink has not come to it yet.
    Ahead,
    /// The store's position is past it, but what the store holds does not agree.
    Different,
    /// The store could not be asked.
    Unknown,
}

impl Fate {
    /// As printed in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Fate::Applied => "applied",
            Fate::Superseded => "superseded",
            Fate::Rejected => "rejected",
            Fate::Parked => "parked",
            Fate::Ahead => "ahead",
            Fate::Different => "DIFFERENT",
            Fate::Unknown => "unknown",
        }
    }
}

/// An event in a sink.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// The sink.
    pub sink: String,
    /// Table, hash or index; absent when the store could not be asked.
    pub place: Option<String>,
    /// What became of it.
    pub fate: Fate,
    /// The version of the record that the store has in its place.
    pub stored: Option<Version>,
    /// When its range was applied to the live generation, where there is a receipt of it.
    pub applied_at: Option<AppliedAt>,
    /// More about it, in words.
    pub note: String,
}

/// When a range was applied: at both moments, or between them where receipts tell no closer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AppliedAt {
    /// No earlier.
    pub from: Timestamp,
    /// No later.
    pub to: Timestamp,
    /// How often the range was delivered again after that.
    pub again: usize,
}

impl AppliedAt {
    /// The first delivery that covers an event counts.
    fn of(target: &Target, receipts: &[Receipt], event: &Entry) -> Option<Self> {
        let generation = receipts::generation_of(target);
        let ours = receipts.iter().filter(|receipt| {
            receipt.sink == *target.sink
                && receipt.collection == event.collection
                && receipt.generation == generation
                && receipt.partition == event.partition
                && receipt.epoch == event.version.epoch()
        });
        let mut spans: Vec<_> =
            ours.flat_map(|receipt| &receipt.spans).filter(|span| span.covers(event.offset)).collect();
        spans.sort_by_key(|span| span.first);
        let first = spans.first()?;
        Some(AppliedAt { from: first.first, to: first.last, again: spans.len() - 1 })
    }
}

type Told = Result<(Fate, Option<Version>, String), ScanError>;

/// What is asked.
pub struct Question<'a> {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The sink's store.
    pub sink: &'a dyn Sink,
    /// The live build of the event's collection in it.
    pub target: Target,
    /// The collection's lives.
    pub epochs: Arc<Epochs>,
    /// The receipts of all sinks.
    pub receipts: &'a [Receipt],
}

impl Question<'_> {
    /// Where an event stands.
    ///
    /// # Errors
    /// The log's. A store that cannot be asked makes the standing `unknown`.
    pub async fn standing(&self, event: &Entry) -> Result<Standing, ScanError> {
        let (fate, stored, note) = match self.letter(event).await? {
            Some((fate, note)) => (fate, None, note),
            None => match self.sink.positions(&self.target).await {
                Err(error) => (Fate::Unknown, None, error.to_string()),
                Ok(positions) => {
                    let next = self.next(&positions, event.partition);
                    match next > event.offset {
                        true => self.settled(event, &positions).await?,
                        false => (Fate::Ahead, None, self.ahead(event, next).await?),
                    }
                }
            },
        };
        let (sink, place) = (self.target.sink.to_string(), Some(self.target.place()));
        let is_done = matches!(fate, Fate::Applied | Fate::Superseded | Fate::Different);
        let applied_at = is_done.then(|| AppliedAt::of(&self.target, self.receipts, event)).flatten();
        Ok(Standing { sink, place, fate, stored, applied_at, note })
    }

    /// The next offset of a partition that the store has to be told of.
    fn next(&self, positions: &Positions, partition: Partition) -> Offset {
        self.epochs.resume(positions.get(&partition).copied())
    }

    async fn letter(&self, event: &Entry) -> Result<Option<(Fate, String)>, LogError> {
        let origin = dead_letter::Origin::of(&event.collection, event.partition, event.version);
        let mut letters = dead_letter::read_all(&*self.log, &self.target.sink).await?;
        let Some(letter) = letters.remove(&origin) else { return Ok(None) };
        let fate = if letter.kind == dead_letter::Kind::Parked { Fate::Parked } else { Fate::Rejected };
        Ok(Some((fate, format!("{}; dead letter since {}", letter.reason, letter.at))))
    }

    async fn ahead(&self, event: &Entry, next: Offset) -> Result<String, LogError> {
        let before = event.offset - next;
        let mut note = format!("{before} events of partition {} come before it", event.partition);
        let parked = Parked::load(&*self.log, &self.target.sink).await?;
        if let Some(since) = Collection::new(&event.collection).ok().and_then(|c| parked.since(&c, &event.key)) {
            note += &format!("; its key is parked since version {since}");
        }
        Ok(note)
    }

    /// The position is past it: what does the store hold?
    async fn settled(&self, event: &Entry, positions: &Positions) -> Told {
        if let Some(problem) = &event.problem {
            return Ok((Fate::Different, None, format!("it is no event ({problem}) and no dead letter")));
        }
        let Some(reader) = self.sink.reader() else {
            return Ok((Fate::Applied, None, "the store cannot be read back; its position is past it".to_owned()));
        };
        let time = event.time.as_deref().and_then(Timestamp::parse_rfc3339).unwrap_or(event.recorded);
        let Some(identity) = self.target.identity(&event.key, &event.id, event.data.as_deref(), time) else {
            return Ok((Fate::Applied, None, "it leaves no record here".to_owned()));
        };
        Ok(match reader.get(&self.target, &identity).await {
            Err(error) => (Fate::Unknown, None, SinkError::to_string(&error)),
            Ok(None) => self.no_record(event, positions).await?,
            Ok(Some(stored)) => {
                let (fate, note) = self.compare(event, &stored);
                (fate, Some(stored.version), note)
            }
        })
    }

    /// A record is gone after a delete. Without one it is missing.
    async fn no_record(&self, event: &Entry, positions: &Positions) -> Told {
        if event.is_delete() {
            return Ok((Fate::Applied, None, "deleted; the store has no record".to_owned()));
        }
        if self.target.projection.keeps_every_event() {
            return Ok((Fate::Different, None, self.verify("its record is missing")));
        }
        let source = Source { collection: self.target.collection.clone(), epochs: self.epochs.clone() };
        let entity = Entity::new(self.log.clone(), source, &event.key);
        match entity.state_or_none(Moment::Latest).await {
            Ok(Some(last))
                if last.is_delete()
                    && last.version > event.version
                    && self.next(positions, last.partition) > last.offset =>
            {
                let note = format!("deleted since, by version {} ({})", last.version, last.id);
                Ok((Fate::Superseded, None, note))
            }
            Ok(_) | Err(StateError::OnlyAppends { .. }) => {
                Ok((Fate::Different, None, self.verify("its record is missing")))
            }
            Err(StateError::Scan(error)) => Err(error),
            Err(other) => Err(ScanError::Usage(other.to_string())),
        }
    }

    fn compare(&self, event: &Entry, stored: &Stored) -> (Fate, String) {
        // Of events with one id the first is the record.
        let first_counts = self.target.projection.keeps_every_event();
        if stored.version == event.version {
            let deleted = event.op == Some(Op::Delete);
            let expected = event.data.as_deref().and_then(|data| self.target.digest(data).ok());
            let same = stored.event_id == event.id && (deleted || expected == stored.digest());
            return match (same, deleted) {
                (true, true) => (Fate::Applied, "the record is its tombstone".to_owned()),
                (true, false) => (Fate::Applied, "the record is as this event says".to_owned()),
                (false, _) => (Fate::Different, self.verify("the record of this version has other contents")),
            };
        }
        if stored.version > event.version {
            return (Fate::Superseded, format!("by version {} ({})", stored.version, stored.event_id));
        }
        match first_counts && stored.event_id == event.id {
            true => (Fate::Superseded, format!("the same id was applied before, as version {}", stored.version)),
            false => (Fate::Different, self.verify(&format!("the store has only version {}", stored.version))),
        }
    }

    fn verify(&self, what: &str) -> String {
        let Target { sink, collection, .. } = &self.target;
        format!("{what}; `primalcore audit verify --sink {sink} --collection {collection}` tells more")
    }
}
