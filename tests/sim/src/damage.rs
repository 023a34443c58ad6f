//! Damage that somebody did to the store by hand: a record of the live generation is gone, has other contents, or is of an
//! older version, though the position says that all is there.

use primal_core::sink::{Class, Content, Stored};
use primal_core::{Partition, Version};
use primal_log_sim::mix;

use crate::setup::Setup;
use crate::store::{Records, Store, Tables};

/// A record that was damaged.
pub struct Damage {
    /// The generation's name.
    build: String,
    /// The entity.
    pub key: String,
    partition: Partition,
    before: Stored,
    after: Option<Stored>,
}

impl Store {
    /// Damages a record that the live position covers, and that has no dead letter; `None` where there is none, or where
    /// nothing can be written in place.
    pub fn damage(&self, setup: &Setup, drawn: u64) -> Option<Damage> {
        if setup.class == Class::Overwrite {
            return None;
        }
        let mut tables = self.tables();
        let positions = tables.live_positions();
        let mut covered = Vec::new();
        tables.records_of_live(|live| {
            for stored in live.values() {
                let offset = stored.version.0 as i64 - 1;
                covered.extend(self.judge.with_facts(|facts| {
                    let partition = facts.partition_of(offset, &stored.event_id)?;
                    let is_covered = positions.get(&partition).is_some_and(|position| position.offset() > offset);
                    let fact = facts.at(partition, offset).filter(|_| facts.letter(partition, offset).is_none())?;
                    is_covered.then(|| (fact.key.clone(), partition, stored.clone()))
                }));
            }
        });
        let chosen = (mix(drawn, 0) % covered.len().max(1) as u64) as usize;
        let (key, partition, before) = covered.into_iter().nth(chosen)?;
        let after = damaged(&before, mix(drawn, 1), setup.projection.keeps_every_event());
        let damage = Damage { build: tables.live(), key, partition, before, after };
        self.judge.damaged(Some(&damage.before.identity));
        put(&mut tables, &damage, damage.after.as_ref());
        Some(damage)
    }

    /// Whether a repair has mended it.
    pub fn is_mended(&self, damage: &Damage) {
        let mut tables = self.tables();
        let offset = damage.before.version.0 as i64 - 1;
        let identity = &damage.before.identity;
        let records =
            |tables: &Tables| tables.records.get(&damage.build).and_then(|records| records.get(identity)).cloned();
        // A worker that was frozen may write a dead letter late, and what has one is not written by a repair.
        let late = self.judge.with_facts(|facts| facts.letter(damage.partition, offset).is_some());
        if late && records(&tables) == damage.after {
            put(&mut tables, damage, Some(&damage.before));
        }
        let position = tables.positions.get(&damage.build).and_then(|all| all.get(&damage.partition)).copied();
        let to = position.map_or(0, primal_core::Position::offset);
        if let Some(wrong) = self.judge.wrong(records(&tables).as_ref(), damage.partition, identity, to) {
            self.judge.broken("mended", wrong);
        }
        self.judge.damaged(None);
    }
}

fn damaged(before: &Stored, drawn: u64, every: bool) -> Option<Stored> {
    let contents = Content::Document("{\"damaged\":true}".to_owned());
    match drawn % 3 {
        0 => Some(Stored { content: contents, ..before.clone() }),
        1 if !every => Some(Stored { version: Version(0), content: contents, ..before.clone() }),
        _ => None,
    }
}

fn put(tables: &mut Tables, damage: &Damage, record: Option<&Stored>) {
    let records: &mut Records = tables.records.entry(damage.build.clone()).or_default();
    let identity = &damage.before.identity;
    match record {
        Some(record) => records.insert(identity.clone(), record.clone()),
        None => records.remove(identity),
    };
}
