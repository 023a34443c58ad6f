//! The state of one entity as the log says it: at a moment, at a version, and all its versions. Only the partitions where
//! the key may be are read.

use std::sync::Arc;

use async_trait::async_trait;
use primal_core::event::Op;
use primal_core::log::EventLog;
use primal_core::{LogError, Moment, Offset, RecordRef, Timestamp, Version};

use crate::diff::{Change, changes};
use crate::nearest::{Field, nearest};
use crate::scan::{Entry, Part, Scan, ScanError, Source, Span};

/// So many of the newest events are looked at first; in tests so few that it takes several looks.
const FIRST_LOOK: Offset = if cfg!(test) { 2 } else { 20_000 };

/// Which state is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// The last put or delete that the log took at or before this moment; of the earliest the first that it has.
    Moment(Moment),
    /// The event of this version.
    Version(Version),
}

/// Why there is no state to tell.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The log could not be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The log has no such key.
    #[error("{collection} has no key {key:?} in the log{hint}")]
    NoKey {
        /// The collection.
        collection: String,
        /// The key that was asked for.
        key: String,
        /// The nearest key, or what retention has dropped.
        hint: String,
    },
    /// The key has facts only.
    #[error(
        "key {key:?} of {collection} has no state, only appended events; `primalcore audit log --collection {collection} --key {key}` lists them"
    )]
    OnlyAppends {
        /// The collection.
        collection: String,
        /// The key.
        key: String,
    },
    /// The key came later.
    #[error(
        "key {key:?} of {collection} was not there at {at}; the first event of it that the log has is version {version}, recorded at {since}{hint}"
    )]
    NotYet {
        /// The collection.
        collection: String,
        /// The key.
        key: String,
        /// The moment that was asked for.
        at: Moment,
        /// The first version.
        version: Version,
        /// When that was recorded.
        since: Timestamp,
        /// What retention has dropped.
        hint: String,
    },
    /// The key has other versions.
    #[error("key {key:?} of {collection} has no version {wanted}; the nearest are {nearest}; --history lists all")]
    NoVersion {
        /// The collection.
        collection: String,
        /// The key.
        key: String,
        /// The version that was asked for.
        wanted: Version,
        /// Those before and after it.
        nearest: String,
    },
}

impl From<LogError> for StateError {
    fn from(error: LogError) -> Self {
        StateError::Scan(error.into())
    }
}

/// What is remembered of a key in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// All before this offset was looked at.
    pub until: Offset,
    /// The last put or delete of the key there, if there is any.
    pub version: Option<Version>,
}

/// Something that remembers where the last event of a key is, so that not all of a partition has to be read for it. It is
/// believed only as far as the log has that event.
#[async_trait]
pub trait Memory: Send + Sync {
    /// What is remembered of a key, of the newest offset in the part; `None` where nothing is.
    async fn last(&self, part: &Part, key: &str) -> Option<Remembered>;
}

/// One entity.
pub struct Entity {
    log: Arc<dyn EventLog>,
    source: Source,
    key: String,
    memory: Option<Arc<dyn Memory>>,
}

impl Entity {
    /// The entity of a key.
    pub fn new(log: Arc<dyn EventLog>, source: Source, key: &str) -> Self {
        Entity { log, source, key: key.to_owned(), memory: None }
    }

    /// With a memory of where keys are: answers stay the same and come sooner.
    #[must_use]
    pub fn with(self, memory: Arc<dyn Memory>) -> Self {
        Entity { memory: Some(memory), ..self }
    }

    /// Its state.
    ///
    /// # Errors
    /// There is none, and why; or the log's.
    pub async fn state(&self, as_of: AsOf) -> Result<Entry, StateError> {
        match as_of {
            AsOf::Version(version) => self.of_version(version).await,
            AsOf::Moment(moment) => match self.last(moment).await? {
                Some(entry) => Ok(entry),
                None => Err(self.absent(moment).await?),
            },
        }
    }

    /// Its state at a moment; `None` where it was not there yet.
    ///
    /// # Errors
    /// The log never had such a key; or the log's.
    pub async fn state_or_none(&self, moment: Moment) -> Result<Option<Entry>, StateError> {
        match self.state(AsOf::Moment(moment)).await {
            Ok(entry) => Ok(Some(entry)),
            Err(StateError::NotYet { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All its events up to a moment, oldest first.
    ///
    /// # Errors
    /// The log's.
    pub async fn versions(&self, until: Moment) -> Result<Versions, StateError> {
        Ok(Versions { scan: self.scan(until).await?, before: None })
    }

    /// What holds its events up to a moment, that moment included.
    async fn parts(&self, until: Moment) -> Result<Vec<Part>, ScanError> {
        let to = match until {
            Moment::Time(at) => Moment::Time(Timestamp(at.0.saturating_add(1))),
            other => other,
        };
        let span = Span { to, key: Some(self.key.clone()), ..Span::whole() };
        span.parts(&*self.log, std::slice::from_ref(&self.source)).await
    }

    async fn scan(&self, until: Moment) -> Result<Scan, ScanError> {
        Ok(self.scan_parts(self.parts(until).await?))
    }

    fn scan_parts(&self, parts: Vec<Part>) -> Scan {
        let key = self.key.clone();
        Scan::new(self.log.clone(), parts, move |record: RecordRef<'_>| record.key == Some(key.as_bytes()))
    }

    async fn first(&self) -> Result<Option<Entry>, StateError> {
        let mut scan = self.scan(Moment::Latest).await?;
        while let Some(entry) = scan.next().await? {
            if entry.is_state() {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Looks from the end backwards, further with each look: the state asked for is mostly a new one.
    async fn last(&self, moment: Moment) -> Result<Option<Entry>, StateError> {
        if moment == Moment::Earliest {
            return self.first().await;
        }
        let mut last: Option<Entry> = None;
        for part in self.parts(moment).await? {
            let found = self.last_in(&part).await?;
            last = last.into_iter().chain(found).max_by_key(|entry| entry.version);
        }
        Ok(last)
    }

    async fn last_in(&self, part: &Part) -> Result<Option<Entry>, StateError> {
        let remembered = match &self.memory {
            // What is read at once anyway needs no memory.
            Some(memory) if part.to - part.from > FIRST_LOOK => memory.last(part, &self.key).await,
            _ => None,
        };
        let Some(Remembered { until, version }) = remembered else { return self.backwards(part).await };
        let newer = Part { from: until.clamp(part.from, part.to), ..part.clone() };
        if let Some(found) = self.backwards(&newer).await? {
            return Ok(Some(found));
        }
        let older = Part { to: newer.from, ..part.clone() };
        let Some(version) = version else { return Ok(None) };
        let at = version.offset();
        if (older.from..older.to).contains(&at) {
            let found = self.backwards(&Part { from: at, to: at + 1, ..part.clone() }).await?;
            if found.as_ref().is_some_and(|entry| entry.version == version) {
                return Ok(found);
            }
        }
        self.backwards(&older).await
    }

    async fn backwards(&self, part: &Part) -> Result<Option<Entry>, StateError> {
        let (mut to, mut look, mut found) = (part.to, FIRST_LOOK, None);
        while found.is_none() && to > part.from {
            let from = (to - look).max(part.from);
            let mut scan = self.scan_parts(vec![Part { from, to, ..part.clone() }]);
            while let Some(entry) = scan.next().await? {
                found = Some(entry).filter(Entry::is_state).or(found);
            }
            (to, look) = (from, look.saturating_mul(4));
        }
        Ok(found)
    }

    async fn of_version(&self, wanted: Version) -> Result<Entry, StateError> {
        let mut scan = self.scan(Moment::Latest).await?;
        let (mut before, mut after): (Option<Version>, Option<Version>) = (None, None);
        while let Some(entry) = scan.next().await? {
            match entry.version {
                _ if entry.op.is_none() => {}
                version if version == wanted => return Ok(entry),
                version if version < wanted => before = before.max(Some(version)),
                version => after = Some(after.map_or(version, |after| after.min(version))),
            }
        }
        let nearest: Vec<_> = before.into_iter().chain(after).map(|version| version.to_string()).collect();
        if nearest.is_empty() {
            return Err(self.unknown().await?);
        }
        let (collection, key) = self.names();
        Err(StateError::NoVersion { collection, key, wanted, nearest: nearest.join(" and ") })
    }

    /// Why there is no state at a moment.
    async fn absent(&self, at: Moment) -> Result<StateError, StateError> {
        let mut scan = self.scan(Moment::Latest).await?;
        let mut appends = false;
        while let Some(entry) = scan.next().await? {
            if entry.is_state() {
                let (collection, key) = self.names();
                let (version, since, hint) = (entry.version, entry.recorded, self.dropped().await?);
                return Ok(StateError::NotYet { collection, key, at, version, since, hint });
            }
            appends |= entry.op == Some(Op::Append);
        }
        if appends {
            let (collection, key) = self.names();
            return Ok(StateError::OnlyAppends { collection, key });
        }
        self.unknown().await
    }

    async fn unknown(&self) -> Result<StateError, StateError> {
        let sources = std::slice::from_ref(&self.source);
        let hint = match nearest(&*self.log, sources, Field::Key, &self.key).await? {
            Some(close) => format!(", did you mean `{close}`?"),
            None => self.dropped().await?,
        };
        let (collection, key) = self.names();
        Ok(StateError::NoKey { collection, key, hint })
    }

    /// What retention has dropped of its partitions, in words.
    async fn dropped(&self) -> Result<String, StateError> {
        let gone: Offset = self.parts(Moment::Latest).await?.iter().map(|part| part.from).sum();
        Ok(if gone > 0 {
            format!(" ({gone} older events of its partition are gone by retention)")
        } else {
            String::new()
        })
    }

    fn names(&self) -> (String, String) {
        (self.source.collection.to_string(), self.key.clone())
    }
}

/// The versions of an entity, one after the other.
pub struct Versions {
    scan: Scan,
    before: Option<String>,
}

impl Versions {
    /// The next event, and what it changed against the state before it; an append changes nothing.
    ///
    /// # Errors
    /// The log's.
    pub async fn next(&mut self) -> Result<Option<(Entry, Vec<Change>)>, LogError> {
        let Some(entry) = self.scan.next().await? else { return Ok(None) };
        if !entry.is_state() {
            return Ok(Some((entry, Vec::new())));
        }
        let changed = changes(self.before.as_deref(), entry.data.as_deref());
        self.before.clone_from(&entry.data);
        Ok(Some((entry, changed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn at(micros: i64) -> AsOf {
        AsOf::Moment(Moment::Time(Timestamp(micros)))
    }

    #[tokio::test]
    async fn the_last_put_or_delete_at_or_before_a_moment_is_the_state() {
        let world = World::new().await;
        let source = world.source("things", 4).await;
        world.put(&source, 10, "k", Some(r#"{"n":1}"#)).await;
        world.put(&source, 15, "other", Some("{}")).await;
        world.put(&source, 20, "k", Some(r#"{"n":2}"#)).await;
        world.append(&source, 25, "k", Op::Append, Some(r#"{"fact":1}"#), None).await;
        world.put(&source, 30, "k", None).await;
        for micros in 31..40 {
            world
                .append(
                    &source,
                    micros,
                    "filler",
                    Op::Put,
                    Some("{}"),
                    source.epochs.partitions_of("k").first().copied(),
                )
                .await;
        }
        world.append(&source, 40, "facts", Op::Append, Some("{}"), None).await;
        let entity = Entity::new(world.log.clone(), source.clone(), "k");
        let latest = AsOf::Moment(Moment::Latest);
        let cases = [
            (at(10), "k@10"),
            (at(19), "k@10"),
            (at(20), "k@20"),
            (at(29), "k@20"),
            (at(30), "k@30"),
            (latest, "k@30"),
        ];
        for (as_of, id) in cases {
            assert_eq!(entity.state(as_of).await.unwrap().id, id, "{as_of:?}");
        }
        let first = entity.state(AsOf::Moment(Moment::Earliest)).await.unwrap();
        assert_eq!((first.id.as_str(), first.data.as_deref()), ("k@10", Some(r#"{"n":1}"#)));
        assert_eq!(entity.state(AsOf::Version(first.version)).await.unwrap().id, "k@10");
        assert!(entity.state_or_none(Moment::Time(Timestamp(9))).await.unwrap().is_none());

        let refused = |error: StateError| error.to_string();
        let early = refused(entity.state(at(9)).await.unwrap_err());
        assert!(early.contains("was not there at") && early.contains("00.00001Z"), "{early}");
        let version = refused(entity.state(AsOf::Version(Version(99))).await.unwrap_err());
        assert!(version.contains("no version 99; the nearest are"), "{version}");
        let slip = Entity::new(world.log.clone(), source.clone(), "othre");
        assert!(refused(slip.state(latest).await.unwrap_err()).contains("did you mean `other`?"));
        let facts = Entity::new(world.log.clone(), source, "facts");
        assert!(refused(facts.state(latest).await.unwrap_err()).contains("only appended events"));
    }

    /// Remembers what it is told to, and whether it was asked.
    struct Note(Remembered, std::sync::atomic::AtomicBool);

    #[async_trait]
    impl Memory for Note {
        async fn last(&self, _: &Part, _: &str) -> Option<Remembered> {
            self.1.store(true, std::sync::atomic::Ordering::Relaxed);
            Some(self.0)
        }
    }

    #[tokio::test]
    async fn a_memory_is_believed_only_where_the_log_agrees() {
        let world = World::new().await;
        let source = world.source("things", 1).await;
        world.put(&source, 1, "k", Some(r#"{"n":1}"#)).await;
        world.put(&source, 2, "k", Some(r#"{"n":2}"#)).await;
        for micros in 3..20 {
            world.put(&source, micros, "filler", Some("{}")).await;
        }
        let entity = || Entity::new(world.log.clone(), source.clone(), "k");
        let told = async |until: Offset, version: Option<u64>| {
            let note = Arc::new(Note(Remembered { until, version: version.map(Version) }, false.into()));
            let state = entity().with(note.clone()).last(Moment::Latest).await.unwrap();
            assert!(note.1.load(std::sync::atomic::Ordering::Relaxed));
            state.map(|entry| entry.id)
        };
        let right = Some("k@2".to_owned());
        assert_eq!(told(10, Some(2)).await, right);
        // Of another log: there is no such event, or it is of another key.
        assert_eq!(told(10, Some(7)).await, right);
        assert_eq!(told(10, Some(1 << 40 | 2)).await, right);
        assert_eq!(told(1_000, Some(999)).await, right);
        // What came after it is seen without it, and what was before it is not looked for.
        assert_eq!(told(1, None).await, right);
        assert_eq!(told(10, None).await, None);
    }

    #[tokio::test]
    async fn a_key_is_followed_over_a_change_of_the_partition_count() {
        let world = World::new().await;
        let mut source = world.source("things", 7).await;
        // "21" was in partition 0 of 2, and is in another one of 7 since; there its offset is lower.
        let before = primal_core::Epochs::first(2);
        for micros in 1..=5 {
            world.append(&source, micros, "21", Op::Put, Some(r#"{"old":true}"#), Some(0)).await;
        }
        world.put(&source, 10, "21", Some(r#"{"old":false}"#)).await;
        source.epochs = Arc::new(before.extended(&[5, 0, 0, 0, 0, 0, 0]));
        let entity = Entity::new(world.log.clone(), source, "21");
        assert_eq!(entity.state(AsOf::Moment(Moment::Latest)).await.unwrap().id, "21@10");
        assert_eq!(entity.state(at(9)).await.unwrap().id, "21@5");
        let mut versions = entity.versions(Moment::Latest).await.unwrap();
        let mut changed = Vec::new();
        while let Some((_, changes)) = versions.next().await.unwrap() {
            changed.push(changes.len());
        }
        assert_eq!(changed, [1, 0, 0, 0, 0, 1]);
    }
}
