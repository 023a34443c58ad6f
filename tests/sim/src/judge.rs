//! The rules. The judge sees every change of the store at the moment it happens, knows the log, and notes the first rule
//! that is broken. What a class does not promise it does not ask: the late write of a worker that lost its partition is a
//! named hole where the store compares nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use primal_core::batch::Mode;
use primal_core::event::Op;
use primal_core::log::TopicPartition;
use primal_core::sink::{Build, Class, Content, Stored, Target};
use primal_core::{Partition, Position, Timestamp, Version};
use primal_log_sim::{Hold, Process, World, hash};
use primal_runtime::OnReject;
use tokio_util::sync::CancellationToken;

use crate::facts::{Fact, Facts, Why};
use crate::setup::{GROUP, Setup};
use crate::store::Records;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: &'static str,
    /// What was seen.
    pub seen: String,
}

/// Who writes what, as the judge has to know it.
#[derive(Clone)]
pub struct Writing {
    /// The process.
    pub process: Process,
    /// Where to.
    pub target: Target,
    /// Where from.
    pub partition: Partition,
    /// Whether the position moves with it.
    pub advancing: bool,
    /// How equal versions are treated.
    pub mode: Mode,
    /// When the batch was handed to the sink.
    pub began: Timestamp,
}

/// Watches one run.
pub struct Judge {
    setup: Setup,
    world: Arc<World>,
    inner: Mutex<Inner>,
    /// Cancelled at the first broken rule.
    pub stop: CancellationToken,
}

struct Inner {
    facts: Facts,
    broken: Option<Violation>,
    /// Partitions that a worker wrote to after it lost them, in a store that compares nothing.
    holes: BTreeSet<Partition>,
    redriving: bool,
    /// What is wrong in the store on purpose, until it was mended.
    damaged: Option<String>,
}

impl Judge {
    /// Of a run.
    pub fn new(setup: &Setup, world: Arc<World>) -> Arc<Self> {
        let facts = Facts::new(world.clone(), setup);
        let inner = Inner { facts, broken: None, holes: BTreeSet::new(), redriving: false, damaged: None };
        Arc::new(Judge { setup: setup.clone(), world, inner: Mutex::new(inner), stop: CancellationToken::new() })
    }

    /// Notes a broken rule; the first one counts.
    pub fn broken(&self, rule: &'static str, seen: impl Into<String>) {
        self.inner().broken.get_or_insert(Violation { rule, seen: seen.into() });
        self.stop.cancel();
    }

    /// The first rule that was broken.
    pub fn verdict(&self) -> Option<Violation> {
        self.inner().broken.clone()
    }

    /// Dead letters are applied from now on, so parked events may be written.
    pub fn redriving(&self) {
        self.inner().redriving = true;
    }

    /// A record is wrong on purpose from now on, or no record is any more.
    pub fn damaged(&self, identity: Option<&str>) {
        self.world.note(hash(identity.unwrap_or("mended")));
        self.inner().damaged = identity.map(str::to_owned);
    }

    /// How a record differs from what the log says of its identity before an offset.
    pub fn wrong(&self, stored: Option<&Stored>, partition: Partition, identity: &str, to: i64) -> Option<String> {
        let projection = self.setup.projection;
        let every = projection.keeps_every_event();
        self.with_facts(|facts| {
            let counts = |fact: &&Fact| {
                let known = fact.op.is_some() && facts.letter(partition, fact.offset).is_none();
                known && fact.offset < to && fact.identity(projection) == identity
            };
            let mut all = facts.of(partition).iter().filter(counts);
            let wanted = if every { all.next() } else { all.next_back() }?;
            let Some(stored) = stored else { return Some(format!("{identity} is not there")) };
            if stored.version < wanted.version() || (every && stored.version != wanted.version()) {
                return Some(format!("{identity} has version {}, expected {}", stored.version, wanted.version()));
            }
            let fact = facts.at(partition, stored.version.0 as i64 - 1)?;
            differs(fact, identity, Some(stored), every).map(|wrong| format!("{identity}: {wrong}"))
        })
    }

    /// Looks at the log as it is now.
    pub fn with_facts<T>(&self, look: impl FnOnce(&Facts) -> T) -> T {
        let mut inner = self.inner();
        inner.facts.refresh();
        look(&inner.facts)
    }

    /// Whether a partition's contents are beyond what its class promises.
    pub fn is_hole(&self, partition: Partition) -> bool {
        self.inner().holes.contains(&partition)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the writer of a live generation is to its partition.
    fn hold(&self, writing: &Writing) -> Hold {
        if !writing.advancing || !matches!(writing.target.build, Build::Live(_)) {
            return if writing.process.is_over() { Hold::Lost } else { Hold::Owner };
        }
        let place = TopicPartition { topic: writing.target.collection.topic(), partition: writing.partition };
        match writing.process.owner_since(GROUP, &place) {
            // It lost the partition and has it again; this is from before.
            Some(since) if writing.began < since => Hold::Lost,
            _ => writing.process.hold(GROUP, &place),
        }
    }

    /// A record is about to change from `before` to `after`; `None` is no record.
    pub fn record(
        &self,
        writing: &Writing,
        identity: &str,
        version: Version,
        before: Option<&Stored>,
        after: Option<&Stored>,
        position: Option<Position>,
    ) {
        self.world.note(hash(identity) ^ version.0);
        let class = self.setup.class;
        let hold = self.hold(writing);
        if class == Class::Overwrite && hold != Hold::Owner {
            self.late(writing, hold);
        }
        let offset = version.0 as i64 - 1;
        let fact = self.with_facts(|facts| facts.at(writing.partition, offset).cloned());
        let Some(fact) = fact else {
            return self.broken("content", format!("{identity} got version {version}, which the log does not have"));
        };
        if let Some(wrong) = differs(&fact, identity, after, self.setup.projection.keeps_every_event()) {
            self.broken("content", format!("{identity} at version {version}: {wrong}"));
        }
        if let Some(before) = before {
            let fits = match (writing.mode, self.setup.projection.keeps_every_event()) {
                (Mode::Repair, true) => version <= before.version,
                (Mode::Repair, false) => version >= before.version,
                (Mode::Apply, true) => false,
                // Where nothing is compared, an attempt whose answer was lost is written again.
                (Mode::Apply, false) if class == Class::Overwrite => version >= before.version,
                (Mode::Apply, false) => version > before.version,
            };
            // Without a comparison in the store, what lies ahead of the position is written once more after a crash.
            let again = class == Class::Overwrite && position.is_none_or(|position| offset >= position.offset());
            if !fits && !again && !self.is_hole(writing.partition) {
                let what = format!("{identity} went from version {} to {version}", before.version);
                self.broken("order", format!("{what}, written by {}", writing.process.name()));
            }
        }
        self.parked(writing, &fact, hold);
    }

    /// An event that waits behind a rejected one must not be applied.
    fn parked(&self, writing: &Writing, fact: &Fact, hold: Hold) {
        let late = hold == Hold::Lost && self.setup.class != Class::Transactional;
        let live = matches!(writing.target.build, Build::Live(_));
        let park = self.setup.on_reject == OnReject::Park;
        if !park || late || !live || !writing.advancing || self.inner().redriving {
            return;
        }
        // A worker reads which keys are parked after the position. What another parks after that, having lost the partition
        // and not knowing it yet, comes too late.
        let place = TopicPartition { topic: writing.target.collection.topic(), partition: writing.partition };
        let Some(owner_since) = writing.process.owner_since(GROUP, &place) else { return };
        let since = self.with_facts(|facts| facts.parked_since(&fact.key, owner_since));
        if let Some(since) = since.filter(|since| *since < fact.version()) {
            let (key, version) = (&fact.key, fact.version());
            self.broken("parked", format!("{key} got version {version}, though it is parked since {since}"));
        }
    }

    fn late(&self, writing: &Writing, hold: Hold) {
        self.inner().holes.insert(writing.partition);
        if hold == Hold::Released {
            let process = writing.process.name();
            self.broken("drain", format!("{process} wrote to partition {} after it gave it up", writing.partition));
        }
    }

    /// The position is about to move.
    pub fn position(&self, writing: &Writing, before: Option<Position>, after: Position, records: &Records) {
        self.world.note(after.0);
        let hold = self.hold(writing);
        if self.setup.class == Class::Overwrite && hold != Hold::Owner {
            self.late(writing, hold);
        }
        let compared = matches!(self.setup.class, Class::Transactional | Class::Versioned);
        if compared && before.is_some_and(|before| after < before) {
            self.broken("fence", format!("the position went from {before:?} back to {after}"));
        }
        if self.is_hole(writing.partition) {
            return;
        }
        let from = before.map_or(0, Position::offset);
        if let Some(missing) = self.missing(records, writing.partition, from, after.offset()) {
            let place = writing.target.position_name();
            self.broken("position", format!("{place} says {after} of partition {}, but {missing}", writing.partition));
        }
    }

    /// What the store has not, though a position says that it was applied.
    pub fn missing(&self, records: &Records, partition: Partition, from: i64, to: i64) -> Option<String> {
        let projection = self.setup.projection;
        let every = projection.keeps_every_event();
        let damaged = self.inner().damaged.clone();
        self.with_facts(|facts| {
            for fact in facts.of(partition).iter().filter(|fact| (from..to).contains(&fact.offset)) {
                let letter = facts.letter(partition, fact.offset);
                if letter.is_some() || damaged.as_deref() == Some(fact.identity(projection)) {
                    continue;
                }
                if fact.op.is_none() {
                    return Some(format!("the record at {} is no event and has no dead letter", fact.offset));
                }
                let superseded = !every
                    && facts.of(partition).iter().any(|later| {
                        later.offset > fact.offset
                            && later.offset < to
                            && later.key == fact.key
                            && facts.letter(partition, later.offset).is_none()
                    });
                if superseded {
                    continue;
                }
                let stored = records.get(fact.identity(projection));
                // A rebuild that runs ahead of the live generation may have applied a delete that the live one parked.
                let deleted =
                    |later: &Fact| later.offset >= fact.offset && later.key == fact.key && later.op == Some(Op::Delete);
                let there = match stored {
                    None => self.setup.class == Class::Overwrite && facts.of(partition).iter().any(deleted),
                    Some(_) if every => true,
                    Some(stored) => stored.version >= fact.version(),
                };
                if !there {
                    let found = stored.map(|stored| stored.version);
                    let (op, identity) = (fact.op, fact.identity(projection));
                    return Some(format!("{op:?} of {identity} at {} is not there: {found:?}", fact.offset));
                }
            }
            None
        })
    }

    /// Another generation is about to become live. `settled` says whether the old one's position covers a record.
    pub fn swapped(&self, old: &Records, new: &Records, settled: impl Fn(&Stored) -> bool, caught_up: bool) {
        self.world.note(hash("swapped"));
        if !caught_up || self.setup.class == Class::Overwrite {
            return;
        }
        for (identity, before) in old {
            let after = new.get(identity).map(|stored| stored.version);
            // Where the position comes after the data, the live generation may be ahead of it.
            let ahead = self.setup.class != Class::Transactional && !settled(before);
            // With transactions only an earlier rebuild brings in what the live generation has parked.
            let rebuilt = self.setup.actions.iter().filter(|action| action.rebuilds()).count() > 1;
            let parked = || (rebuilt || self.setup.class != Class::Transactional) && self.may_be_ahead(before);
            if after.is_none_or(|after| after < before.version) && !ahead && !parked() {
                self.broken("swap", format!("{identity} went from version {} to {after:?}", before.version));
            }
        }
    }

    /// Whether a record may be there though its event has a dead letter: an event that was applied with those before it in
    /// one batch may be parked behind one of them when it is delivered again in another, where the position comes after the
    /// data; and a rebuild may have been ahead of the live generation, which then parked it.
    pub fn may_be_ahead(&self, stored: &Stored) -> bool {
        let twice =
            self.setup.class != Class::Transactional || self.setup.actions.iter().any(|action| action.rebuilds());
        let offset = stored.version.0 as i64 - 1;
        let parked = |facts: &Facts| {
            let here = |(partition, all): (Partition, &[Fact])| {
                all.iter().any(|fact| fact.offset == offset && fact.id == stored.event_id)
                    && facts.letter(partition, offset) == Some(Why::Parked)
            };
            facts.partitions().any(here)
        };
        twice && self.with_facts(parked)
    }

    /// The log has an acknowledged event where the receipt says.
    pub fn acknowledged(&self, id: &str, partition: Partition, offset: i64) {
        let found = self.with_facts(|facts| facts.at(partition, offset).is_some_and(|fact| fact.id == id));
        if !found {
            self.broken("receipt", format!("{id} was acknowledged at {partition}/{offset}, and is not there"));
        }
    }

    /// Whether each event with an id of the client is in the log once, and those of a key in the client's order.
    pub fn published_once(&self) {
        let number = |fact: &Fact| fact.id.strip_prefix('e').and_then(|number| number.parse::<u64>().ok());
        let turned = self.with_facts(|facts| {
            let mut last = BTreeMap::new();
            let mut all = facts.partitions().flat_map(|(_, facts)| facts);
            all.find(|fact| {
                let Some(number) = number(fact) else { return false };
                last.insert(fact.key.clone(), number).is_some_and(|before| before > number)
            })
            .cloned()
        });
        if let Some(fact) = turned {
            self.broken("publish", format!("{} of {} is in the log behind a later one", fact.id, fact.key));
        }
        let twice = self.with_facts(|facts| {
            let mut seen = BTreeSet::new();
            let all = facts.partitions().flat_map(|(_, facts)| facts);
            all.filter(|fact| fact.id.starts_with('e')).find(|fact| !seen.insert(fact.id.clone())).cloned()
        });
        if let Some(fact) = twice {
            self.broken("publish", format!("{} is in the log twice, again at {}", fact.id, fact.offset));
        }
    }

    /// Whether everything behind a rejected event of its key has a dead letter too.
    pub fn all_parked(&self, live: &Records) {
        if self.setup.on_reject != OnReject::Park {
            return;
        }
        let projection = self.setup.projection;
        let holes = self.inner().holes.clone();
        let passed = self.with_facts(|facts| {
            for (partition, all) in facts.partitions().filter(|(partition, _)| !holes.contains(partition)) {
                for fact in all.iter().filter(|fact| fact.op.is_some()) {
                    let first = facts.first_rejected(partition, &fact.key).is_some_and(|first| first < fact.offset);
                    let letter = facts.letter(partition, fact.offset);
                    let stored = match live.get(fact.identity(projection)) {
                        Some(stored) => projection.keeps_every_event() || stored.version >= fact.version(),
                        None => self.setup.class == Class::Overwrite,
                    };
                    if first && letter.is_none() && !stored {
                        return Some(format!("{} at {}/{}", fact.key, partition, fact.offset));
                    }
                    if letter == Some(Why::Parked) && !first {
                        return Some(format!("{} at {}/{} waits for nothing", fact.key, partition, fact.offset));
                    }
                }
            }
            None
        });
        if let Some(passed) = passed {
            self.broken("parked", passed);
        }
    }
}

/// How a stored record differs from the log's event of its version.
fn differs(fact: &Fact, identity: &str, after: Option<&Stored>, every: bool) -> Option<String> {
    let expected = if every { &fact.id } else { &fact.key };
    if expected != identity {
        return Some(format!("the log has {expected} there"));
    }
    match after {
        None if fact.op == Some(Op::Delete) => None,
        None => Some("it was removed by something that is no delete".to_owned()),
        Some(stored) if stored.event_id != fact.id => Some(format!("event {} instead of {}", stored.event_id, fact.id)),
        Some(stored) => {
            let data = match &stored.content {
                Content::Document(data) => Some(data),
                _ => None,
            };
            (data != fact.data.as_ref()).then(|| format!("{data:?} instead of {:?}", fact.data))
        }
    }
}
