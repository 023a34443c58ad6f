//! A sink in this process's memory, with every promise of the contract kept: for tests, for benchmarks of all that is not
//! a store, and as the shortest reading of what a sink has to do.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use primal_core::batch::{Batch, BatchEvent};
use primal_core::error::Rejected;
use primal_core::sink::{
    BUFFER, Build, Builds, Capability, Class, Content, Health, OptionSpec, Outcome, Page, Positions, Projection,
    Reader, Rebuild, Sink, SinkSpec, Stored, Swap, SwapKind, Target,
};
use primal_core::{Collection, Fault, SinkError};
use serde::Deserialize;

/// This process's memory.
pub static MEMORY: SinkSpec = SinkSpec {
    name: "memory",
    family: "memory",
    summary: "this process's memory; gone when it ends",
    capability: Capability {
        class: Class::Transactional,
        projections: &[
            Projection::Document,
            Projection::Table,
            Projection::Events,
            Projection::Series,
            Projection::Vector,
        ],
        swap: SwapKind::Atomic,
        reads: true,
        max_batch: 20_000,
        max_payload: 64 << 20,
        buffer_bytes: BUFFER,
    },
    options: &[OptionSpec {
        name: "name",
        default: Some("default"),
        help: "stores of one name in one process are one store",
    }],
    build: |settings| {
        let config: Config = settings.read()?;
        Ok(Arc::new(Memory { store: store(&config.name) }) as Arc<dyn Sink>)
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "default_name")]
    name: String,
}

fn default_name() -> String {
    "default".to_owned()
}

type Store = Arc<Mutex<Tables>>;

fn store(name: &str) -> Store {
    static STORES: LazyLock<Mutex<HashMap<String, Store>>> = LazyLock::new(Mutex::default);
    STORES.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone()
}

/// Everything under one lock, so each call is a transaction.
#[derive(Default)]
struct Tables {
    /// By place; what a place holds goes along when it is renamed.
    records: HashMap<String, hashbrown::HashMap<String, Stored>>,
    /// By sink and position name.
    positions: HashMap<(String, String), Positions>,
    /// By sink and collection.
    builds: HashMap<(String, Collection), Builds>,
}

struct Memory {
    store: Store,
}

impl Memory {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn builds(&self, target: &Target) -> Builds {
        let key = (target.sink.to_string(), target.collection.clone());
        self.builds.get(&key).cloned().unwrap_or_else(first)
    }

    fn builds_mut(&mut self, target: &Target) -> &mut Builds {
        self.builds.entry((target.sink.to_string(), target.collection.clone())).or_insert_with(first)
    }

    /// Checks generation and position; a batch that passes is written whole.
    fn fence(&self, target: &Target, batch: &Batch<'_>) -> Result<(), SinkError> {
        let live = self.builds(target).live;
        if let Some(reason) = target.wrong_generation(live) {
            return Err(SinkError::new(Fault::Fenced, reason));
        }
        let Some(advance) = batch.advance else { return Ok(()) };
        let found = self.positions.get(&position_key(target)).and_then(|p| p.get(&batch.partition)).copied();
        if found == advance.expected {
            return Ok(());
        }
        Err(SinkError::new(Fault::Fenced, target.moved_meanwhile(batch)))
    }

    fn drop_build(&mut self, target: &Target) {
        self.records.remove(&target.place());
        self.positions.remove(&position_key(target));
    }
}

fn first() -> Builds {
    Builds { live: 1, ..Builds::default() }
}

fn position_key(target: &Target) -> (String, String) {
    (target.sink.to_string(), target.position_name())
}

#[async_trait]
impl Sink for Memory {
    async fn check(&self) -> Result<Health, SinkError> {
        Ok(Health { version: "memory".to_owned(), notes: Vec::new() })
    }

    async fn builds(&self, sink: &str, collection: &Collection) -> Result<Builds, SinkError> {
        let key = (sink.to_owned(), collection.clone());
        Ok(self.tables().builds.get(&key).cloned().unwrap_or_else(first))
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        self.tables().records.entry(target.place()).or_default();
        Ok(())
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        Ok(self.tables().positions.get(&position_key(target)).cloned().unwrap_or_default())
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        // Everything that can be done before the lock is.
        let written = written(target, batch)?;
        let mut tables = self.tables();
        tables.fence(target, batch)?;
        let records = tables.records.entry(target.place()).or_default();
        let mut outcome = Outcome::default();
        for record in written {
            match records.get_mut(&record.identity) {
                Some(stored) if !target.replaces(batch.mode, record.version, stored.version) => {
                    outcome.stale += 1;
                    continue;
                }
                Some(stored) => *stored = record,
                None => drop(records.insert(record.identity.clone(), record)),
            }
            outcome.applied += 1;
        }
        if let Some(advance) = batch.advance {
            tables.positions.entry(position_key(target)).or_default().insert(batch.partition, advance.next);
        }
        Ok(outcome)
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    fn swap(&self) -> Option<&dyn Swap> {
        Some(self)
    }

    async fn close(&self) {}
}

/// What all events of a batch leave behind; checked before anything is written.
fn written(target: &Target, batch: &Batch<'_>) -> Result<Vec<Stored>, SinkError> {
    let mut written = Vec::with_capacity(batch.events.len());
    let mut refused: Vec<Rejected> = Vec::new();
    for event in &batch.events {
        match left(target, event) {
            Ok(record) => written.push(record),
            Err(SinkError { fault: Fault::Rejected(rejected), .. }) => refused.extend(rejected),
            Err(other) => return Err(other),
        }
    }
    match refused.first().map(|rejected| rejected.reason.clone()) {
        Some(reason) => Err(SinkError::new(Fault::Rejected(refused), reason)),
        None => Ok(written),
    }
}

/// What an event leaves behind.
fn left(target: &Target, event: &BatchEvent<'_>) -> Result<Stored, SinkError> {
    let (identity, content) = match (event.data, target.projection) {
        (Some(_), Projection::Series) => {
            let point = target.point(event)?;
            (point.identity(), Content::Row(point.fields))
        }
        (None, _) => (event.identity(target.projection).to_owned(), Content::Deleted),
        (Some(data), _) => {
            let content = match target.columns() {
                Some(_) => Content::Row(target.cells(event)?),
                // The vector itself is not kept: nobody searches this store.
                None => Content::Document(document(target, event, data)?),
            };
            (event.identity(target.projection).to_owned(), content)
        }
    };
    Ok(Stored {
        identity,
        version: event.version,
        event_id: event.id.to_owned(),
        time: event.time(),
        primal: event.primal(),
        content,
    })
}

fn document(target: &Target, event: &BatchEvent<'_>, data: &str) -> Result<String, SinkError> {
    let document = target.document(data).map_err(|reason| SinkError::rejected(event.record().offset, reason))?;
    Ok(document.into_owned())
}

/// Records in a page of a scan.
const PAGE: usize = 10_000;

#[async_trait]
impl Reader for Memory {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        Ok(self.tables().records.get(&target.place()).and_then(|records| records.get(identity)).cloned())
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        let tables = self.tables();
        let Some(records) = tables.records.get(&target.place()) else { return Ok(Page::default()) };
        let after = |stored: &&Stored| cursor.is_none_or(|cursor| stored.identity.as_str() > cursor);
        let mut page: Vec<&Stored> = records.values().filter(after).collect();
        if page.len() > PAGE {
            page.select_nth_unstable_by(PAGE, |a, b| a.identity.cmp(&b.identity));
            page.truncate(PAGE);
        }
        page.sort_unstable_by(|a, b| a.identity.cmp(&b.identity));
        let page: Vec<Stored> = page.into_iter().cloned().collect();
        let next = page.last().filter(|_| page.len() == PAGE).map(|last| last.identity.clone());
        Ok(Page { records: page, next })
    }
}

#[async_trait]
impl Swap for Memory {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        let generation = target.beside()?;
        self.tables().builds_mut(target).rebuild = Some(Rebuild { generation, plan: plan.to_owned() });
        Ok(())
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        let generation = to.beside()?;
        let mut tables = self.tables();
        let builds = tables.builds(to);
        let from = to.with_build(Build::Live(builds.live));
        let next = tables.positions.get(&position_key(to)).cloned().unwrap_or_default();
        let live = tables.positions.get(&position_key(&from)).cloned().unwrap_or_default();
        let behind = live.iter().any(|(partition, position)| next.get(partition).is_none_or(|n| n < position));
        if builds.live == generation || (caught_up && behind) {
            return Ok(false);
        }
        let old = to.with_build(Build::Beside(builds.live));
        for (a, b) in [(from.place(), old.place()), (to.place(), from.place())] {
            if let Some(records) = tables.records.remove(&a) {
                tables.records.insert(b, records);
            }
        }
        if let Some(older) = builds.previous.filter(|older| *older != generation) {
            tables.drop_build(&to.with_build(Build::Beside(older)));
        }
        let rebuild = builds.rebuild.filter(|rebuild| rebuild.generation != generation);
        *tables.builds_mut(to) = Builds { live: generation, previous: Some(builds.live), rebuild };
        Ok(true)
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        let mut tables = self.tables();
        tables.drop_build(target);
        if let Build::Beside(generation) = target.build {
            let builds = tables.builds_mut(target);
            builds.rebuild.take_if(|rebuild| rebuild.generation == generation);
            builds.previous.take_if(|previous| *previous == generation);
        }
        Ok(())
    }
}
