//! Consumer groups: static members, cooperative rebalances. A partition that moves is asked back from its owner and given
//! on when that one released it; a member that is silent for a session loses what it has, and learns of it when it wakes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use primal_core::error::LogError;
use primal_core::log::{Change, Member, PartitionReader, Subscription, TopicPartition};
use primal_core::{Offset, Timestamp, Topic};
use tokio::time::Instant;

use crate::process::{Life, Process};
use crate::reader::Reader;

/// What a process is to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Its owner in the group.
    Owner,
    /// It had it, and lost it without giving it up.
    Lost,
    /// It gave it up by itself, or never had it.
    Released,
}

#[derive(Default)]
pub(crate) struct Groups {
    groups: BTreeMap<String, Group>,
}

#[derive(Default)]
struct Group {
    places: BTreeSet<TopicPartition>,
    seats: BTreeMap<String, Seat>,
    owners: BTreeMap<TopicPartition, String>,
    /// When each partition was given to its owner.
    given: BTreeMap<TopicPartition, Instant>,
    /// Asked back from their owners.
    leaving: BTreeSet<TopicPartition>,
    /// Lives that lost a partition without giving it up.
    robbed: BTreeSet<(String, u32, TopicPartition)>,
    committed: BTreeMap<TopicPartition, Offset>,
    turn: usize,
}

struct Seat {
    life: Arc<Life>,
    changes: VecDeque<Change>,
    expelled: bool,
}

impl Group {
    fn owned(&self, instance: &str) -> Vec<TopicPartition> {
        self.owners.iter().filter(|(_, owner)| *owner == instance).map(|(place, _)| place.clone()).collect()
    }

    /// Moves towards an even share: what is free is given out, what is another's is asked back.
    fn balance(&mut self) {
        let present: Vec<String> =
            self.seats.iter().filter(|(_, seat)| !seat.expelled).map(|(instance, _)| instance.clone()).collect();
        let (mut given, mut asked) = (BTreeMap::<String, Vec<_>>::new(), BTreeMap::<String, Vec<_>>::new());
        for (index, place) in self.places.iter().enumerate() {
            let Some(wanted) = present.get((index + self.turn) % present.len().max(1)) else { continue };
            match self.owners.get(place) {
                None => given.entry(wanted.clone()).or_default().push(place.clone()),
                Some(owner) if owner != wanted && self.leaving.insert(place.clone()) => {
                    asked.entry(owner.clone()).or_default().push(place.clone());
                }
                Some(_) => {}
            }
        }
        for (instance, places) in given {
            self.owners.extend(places.iter().map(|place| (place.clone(), instance.clone())));
            self.tell(&instance, Change::Assigned(places));
        }
        for (instance, places) in asked {
            self.tell(&instance, Change::Revoked(places));
        }
    }

    fn tell(&mut self, instance: &str, change: Change) {
        if let Change::Assigned(places) = &change {
            self.given.extend(places.iter().map(|place| (place.clone(), Instant::now())));
        }
        if let Some(seat) = self.seats.get_mut(instance) {
            seat.changes.push_back(change);
        }
    }

    fn join(&mut self, instance: &str, life: &Arc<Life>) {
        let before = self.owned(instance);
        if let Some(old) = self.seats.remove(instance) {
            self.robbed.extend(before.iter().map(|place| (old.life.name.clone(), old.life.number, place.clone())));
        }
        self.leaving.retain(|place| !before.contains(place));
        self.seats.insert(instance.to_owned(), Seat { life: life.clone(), changes: VecDeque::new(), expelled: false });
        if !before.is_empty() {
            self.tell(instance, Change::Assigned(before));
        }
        self.balance();
    }

    fn expel(&mut self, life: &Arc<Life>) -> bool {
        let Some(instance) = self.seats.iter().find(|(_, seat)| Arc::ptr_eq(&seat.life, life)).map(|(i, _)| i.clone())
        else {
            return false;
        };
        let places = self.owned(&instance);
        for place in &places {
            self.owners.remove(place);
            self.leaving.remove(place);
            self.robbed.insert((life.name.clone(), life.number, place.clone()));
        }
        if let Some(seat) = self.seats.get_mut(&instance) {
            seat.expelled = true;
            // What it lost before and has not heard of yet is not forgotten over this.
            let unheard = seat.changes.drain(..).flat_map(|change| match change {
                Change::Lost(places) => places,
                Change::Assigned(_) | Change::Revoked(_) => Vec::new(),
            });
            let lost: BTreeSet<TopicPartition> = unheard.chain(places).collect();
            seat.changes.push_back(Change::Lost(lost.into_iter().collect()));
        }
        self.balance();
        true
    }

    fn release(&mut self, instance: &str, places: &[TopicPartition]) {
        for place in places {
            if self.owners.get(place).is_some_and(|owner| owner == instance) && self.leaving.remove(place) {
                self.owners.remove(place);
            }
        }
        // A member that learnt that it was expelled joins again.
        if let Some(seat) = self.seats.get_mut(instance) {
            seat.expelled = false;
        }
        self.balance();
    }
}

impl Groups {
    pub(crate) fn shuffle(&mut self) {
        for group in self.groups.values_mut() {
            group.turn += 1;
            group.balance();
        }
    }

    pub(crate) fn expel(&mut self, life: &Arc<Life>) -> bool {
        self.groups.values_mut().any(|group| group.expel(life))
    }

    pub(crate) fn hold(&self, life: &Life, group: &str, place: &TopicPartition) -> Hold {
        let Some(group) = self.groups.get(group) else { return Hold::Released };
        let owner = group.owners.get(place).and_then(|instance| group.seats.get(instance));
        if owner.is_some_and(|seat| std::ptr::eq(&*seat.life, life)) {
            Hold::Owner
        } else if group.robbed.contains(&(life.name.clone(), life.number, place.clone())) {
            Hold::Lost
        } else {
            Hold::Released
        }
    }
}

impl Process {
    /// What this process is to a partition in a group now.
    pub fn hold(&self, group: &str, place: &TopicPartition) -> Hold {
        self.world.groups().hold(&self.life, group, place)
    }

    /// Since when this process owns a partition, if it does.
    pub fn owner_since(&self, group: &str, place: &TopicPartition) -> Option<Timestamp> {
        let groups = self.world.groups();
        if groups.hold(&self.life, group, place) != Hold::Owner {
            return None;
        }
        groups.groups.get(group)?.given.get(place).map(|at| self.world.at(*at))
    }
}

pub(crate) struct Seated {
    process: Process,
    member: Member,
}

pub(crate) fn join(process: &Process, member: &Member, topics: &[Topic]) -> Result<Box<dyn Subscription>, LogError> {
    let mut places = BTreeSet::new();
    for topic in topics {
        let extents = process.world.log().extents(topic).ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        places.extend((0..).zip(extents).map(|(partition, _)| TopicPartition { topic: topic.clone(), partition }));
    }
    let mut groups = process.world.groups();
    let group = groups.groups.entry(member.group.clone()).or_default();
    group.places.extend(places);
    process.life.left.store(false, Ordering::Relaxed);
    group.join(&member.instance, &process.life);
    process.world.changed.notify_waiters();
    Ok(Box::new(Seated { process: process.clone(), member: member.clone() }))
}

impl Seated {
    /// The seat's group, while the seat is still this process's.
    fn with<T>(&self, act: impl FnOnce(&mut Group) -> T) -> Option<T> {
        let mut groups = self.process.world.groups();
        let group = groups.groups.get_mut(&self.member.group)?;
        let ours = group.seats.get(&self.member.instance)?;
        if !Arc::ptr_eq(&ours.life, &self.process.life) {
            return None;
        }
        Some(act(group))
    }
}

#[async_trait]
impl Subscription for Seated {
    async fn next(&mut self) -> Result<Change, LogError> {
        loop {
            let rung = self.process.world.changed.notified();
            let instance = self.member.instance.clone();
            let waiting = self.with(|group| group.seats.get(&instance).is_some_and(|seat| !seat.changes.is_empty()));
            match waiting {
                None => return Err(LogError::Taken("this member's place was taken".to_owned())),
                Some(false) => rung.await,
                Some(true) => {
                    self.process.step("group.change").await.map_err(unavailable)?;
                    let change = self.with(|group| group.seats.get_mut(&instance)?.changes.pop_front());
                    if let Some(change) = change.flatten() {
                        return Ok(change);
                    }
                }
            }
        }
    }

    async fn start(&mut self, at: &[(TopicPartition, Offset)]) -> Result<Vec<Box<dyn PartitionReader>>, LogError> {
        self.process.step("group.start").await.map_err(unavailable)?;
        let reader = |(place, offset): &(TopicPartition, Offset)| {
            let reader = Reader::new(&self.process, &place.topic, place.partition, *offset..Offset::MAX);
            Box::new(reader) as Box<dyn PartitionReader>
        };
        Ok(at.iter().map(reader).collect())
    }

    async fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.process.step("group.release").await.map_err(unavailable)?;
        let instance = self.member.instance.clone();
        self.with(|group| group.release(&instance, partitions));
        self.process.world.changed.notify_waiters();
        Ok(())
    }

    async fn commit(&mut self, at: &[(TopicPartition, Offset)]) -> Result<(), LogError> {
        self.process.step("group.commit").await.map_err(unavailable)?;
        self.with(|group| group.committed.extend(at.iter().cloned()));
        Ok(())
    }

    async fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        self.process.step("group.committed").await.map_err(unavailable)?;
        let found = self.with(|group| partitions.iter().map(|place| group.committed.get(place).copied()).collect());
        Ok(found.unwrap_or_else(|| vec![None; partitions.len()]))
    }

    async fn close(self: Box<Self>) {}
}

impl Drop for Seated {
    /// A static member does not leave its group; its partitions wait for it until its session ends.
    fn drop(&mut self) {
        self.process.life.left.store(true, Ordering::Relaxed);
        self.process.world.expel_later(&self.process.life);
    }
}

pub(crate) fn unavailable(failed: crate::process::Failed) -> LogError {
    LogError::Unavailable(format!("injected at {}", failed.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_expelled_again_before_it_woke_hears_of_all_it_lost() {
        let place = |partition| TopicPartition { topic: Topic::parked(), partition };
        let life = Life::new("worker", 1);
        let mut group = Group { places: [place(0), place(1)].into(), ..Group::default() };
        let heard = |group: &mut Group| group.seats.get_mut("w").map(|seat| seat.changes.drain(..).collect::<Vec<_>>());
        let all = vec![place(0), place(1)];
        group.join("w", &life);
        assert_eq!(heard(&mut group), Some(vec![Change::Assigned(all.clone())]));
        assert!(group.expel(&life) && group.expel(&life));
        assert_eq!(heard(&mut group), Some(vec![Change::Lost(all.clone())]), "nothing was its own any more");
        group.release("w", &all);
        assert!(group.expel(&life));
        assert_eq!(heard(&mut group), Some(vec![Change::Lost(all)]), "an assignment it never heard of counts as well");
    }
}
