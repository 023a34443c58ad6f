//! Groups: one process runs the workers, and in it one member per group owns all partitions.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use primal_core::error::LogError;
use primal_core::log::{Change, Member, PartitionReader, Subscription, TopicPartition};
use primal_core::{Offset, Topic};

use crate::reader::Reader;
use crate::{Inner, Known};

#[derive(Default)]
pub(crate) struct Groups {
    lock: Option<File>,
    joined: HashSet<String>,
}

struct Owner {
    log: Arc<Inner>,
    group: String,
    places: Vec<(TopicPartition, Known)>,
    told: bool,
}

pub(crate) async fn join(
    log: &Arc<Inner>,
    member: &Member,
    topics: &[Topic],
) -> Result<Box<dyn Subscription>, LogError> {
    let mut places = Vec::new();
    for topic in topics {
        let known = log.known(topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        for partition in 0..known.partitions as i32 {
            places.push((TopicPartition { topic: topic.clone(), partition }, known));
        }
    }
    let mut groups = log.groups.lock().unwrap_or_else(PoisonError::into_inner);
    if groups.lock.is_none() {
        groups.lock = Some(lock(log)?);
    }
    if !groups.joined.insert(member.group.clone()) {
        return Err(LogError::Taken(format!("a worker of {} is running in this process already", member.group)));
    }
    Ok(Box::new(Owner { log: log.clone(), group: member.group.clone(), places, told: false }))
}

/// Says that this process runs the workers, for as long as the file is open.
fn lock(log: &Inner) -> Result<File, LogError> {
    let path = log.path.with_added_extension("lock");
    let failed = |e: std::io::Error| LogError::Internal(format!("the lock {} failed: {e}", path.display()));
    let mut file = File::options().create(true).read(true).write(true).truncate(false).open(&path).map_err(failed)?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        return Err(LogError::Taken(format!(
            "process {} runs the workers of {} already; end it first, or use Kafka as the log to run several",
            holder.trim(),
            log.path.display()
        )));
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
    write!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

#[async_trait]
impl Subscription for Owner {
    async fn next(&mut self) -> Result<Change, LogError> {
        if self.told {
            std::future::pending::<()>().await;
        }
        self.told = true;
        Ok(Change::Assigned(self.places.iter().map(|(place, _)| place.clone()).collect()))
    }

    async fn start(&mut self, at: &[(TopicPartition, Offset)]) -> Result<Vec<Box<dyn PartitionReader>>, LogError> {
        let reader = |(place, offset): &(TopicPartition, Offset)| {
            let (_, known) = self
                .places
                .iter()
                .find(|(known, _)| known == place)
                .ok_or_else(|| LogError::NoTopic(place.topic.clone()))?;
            let (pool, shared) = (self.log.pool.clone(), self.log.shared.clone());
            let range = *offset..Offset::MAX;
            let reader = Reader::new(pool, shared, place.topic.clone(), *known, place.partition, range);
            Ok(Box::new(reader) as Box<dyn PartitionReader>)
        };
        at.iter().map(reader).collect()
    }

    async fn release(&mut self, _: &[TopicPartition]) -> Result<(), LogError> {
        Ok(())
    }

    /// Every sink keeps its own position, and no other tool watches this log's groups, so nothing is kept.
    async fn commit(&mut self, _: &[(TopicPartition, Offset)]) -> Result<(), LogError> {
        Ok(())
    }

    async fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        Ok(vec![None; partitions.len()])
    }

    async fn close(self: Box<Self>) {}
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.log.groups.lock().unwrap_or_else(PoisonError::into_inner).joined.remove(&self.group);
    }
}
