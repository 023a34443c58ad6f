//! The simulated store's contents, shared by all processes. Generations stand under names of their own, and which one is
//! live is a pointer, so a write in flight lands in the generation that it was meant for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use primal_core::batch::Mode;
use primal_core::sink::{Build, Builds, Class, Positions, Stored, Target};
use primal_core::{Fault, Position, SinkError, Version};

use crate::judge::{Judge, Writing};

/// The records of one build, by identity.
pub type Records = BTreeMap<String, Stored>;

/// A store of one class.
pub struct Store {
    /// Its guarantee.
    pub class: Class,
    /// Whether it says which event it refused.
    pub names_rejects: bool,
    /// Who watches.
    pub judge: Arc<Judge>,
    lenient: AtomicBool,
    tables: Mutex<Tables>,
}

/// What it holds.
pub struct Tables {
    /// By the build's name.
    pub records: BTreeMap<String, Records>,
    /// By the build's name.
    pub positions: BTreeMap<String, Positions>,
    /// Of the one collection.
    pub builds: Builds,
    /// A rebuild that was cancelled, and has to be gone on with until it is live.
    pub abandoned: Option<u64>,
}

/// A record that one event leaves behind.
#[derive(Clone)]
pub struct Change {
    /// What identifies it.
    pub identity: String,
    /// The event's version.
    pub version: Version,
    /// The record; `None` removes it, in a store that keeps no tombstones.
    pub after: Option<Stored>,
}

impl Store {
    /// An empty one.
    pub fn new(class: Class, names_rejects: bool, judge: Arc<Judge>) -> Arc<Self> {
        let builds = Builds { live: 1, ..Builds::default() };
        let tables = Tables { records: BTreeMap::new(), positions: BTreeMap::new(), builds, abandoned: None };
        Arc::new(Store { class, names_rejects, judge, lenient: AtomicBool::new(false), tables: Mutex::new(tables) })
    }

    /// From now on it takes what it refused before.
    pub fn be_lenient(&self) {
        self.lenient.store(true, Ordering::Relaxed);
    }

    /// Whether it refuses a payload.
    pub fn refuses(&self, data: Option<&str>) -> bool {
        !self.lenient.load(Ordering::Relaxed) && data.is_some_and(|data| data.contains("poison"))
    }

    /// Its contents.
    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies one change as its class does; whether something was written.
    ///
    /// # Errors
    /// The build is not there.
    pub fn apply(&self, tables: &mut Tables, writing: &Writing, change: &Change) -> Result<bool, SinkError> {
        let name = writing.target.position_name();
        let position = tables.positions.get(&name).and_then(|positions| positions.get(&writing.partition)).copied();
        let records = tables.records.get_mut(&name);
        let records = records.ok_or_else(|| missing(&name))?;
        let before = records.get(&change.identity);
        let every = writing.target.projection.keeps_every_event();
        let newer = before.is_none_or(|before| match (writing.mode, every) {
            (Mode::Apply, true) => false,
            (Mode::Apply, false) => self.class == Class::Overwrite || change.version > before.version,
            (Mode::Repair, true) => change.version <= before.version,
            (Mode::Repair, false) => self.class == Class::Overwrite || change.version >= before.version,
        });
        if !newer {
            return Ok(false);
        }
        self.judge.record(writing, &change.identity, change.version, before, change.after.as_ref(), position);
        match &change.after {
            Some(after) => records.insert(change.identity.clone(), after.clone()),
            None => records.remove(&change.identity),
        };
        Ok(true)
    }

    /// Moves the position.
    ///
    /// # Errors
    /// The build is not there.
    pub fn save(&self, tables: &mut Tables, writing: &Writing, next: Position) -> Result<(), SinkError> {
        let name = writing.target.position_name();
        let before = tables.positions.get(&name).and_then(|positions| positions.get(&writing.partition)).copied();
        let records = tables.records.get(&name).ok_or_else(|| missing(&name))?;
        // A generation that was dropped means nothing any more, even if a late worker has prepared it again.
        if is_known(&tables.builds, &writing.target.build) {
            self.judge.position(writing, before, next, records);
        }
        tables.positions.entry(name).or_default().insert(writing.partition, next);
        Ok(())
    }
}

fn is_known(builds: &Builds, build: &Build) -> bool {
    let rebuild = builds.rebuild.as_ref().map(|rebuild| rebuild.generation);
    match build {
        Build::Live(generation) | Build::Beside(generation) => {
            [Some(builds.live), builds.previous, rebuild].contains(&Some(*generation))
        }
        Build::Named(_) => true,
    }
}

fn missing(name: &str) -> SinkError {
    SinkError::new(Fault::Internal, format!("there is no {name}"))
}

impl Tables {
    /// Whether a write comes from the live generation, or from one beside it, as it believes.
    ///
    /// # Errors
    /// It is fenced.
    pub fn check_build(&self, target: &Target) -> Result<(), SinkError> {
        let live = self.builds.live;
        let right = match target.build {
            Build::Live(generation) => generation == live,
            Build::Beside(generation) => generation != live,
            Build::Named(_) => true,
        };
        let fenced = || SinkError::new(Fault::Fenced, format!("generation {live} is live, not {:?}", target.build));
        if right { Ok(()) } else { Err(fenced()) }
    }

    /// Whether the position is the expected one.
    ///
    /// # Errors
    /// It is fenced.
    pub fn check_position(&self, writing: &Writing, expected: Option<Position>) -> Result<(), SinkError> {
        let positions = self.positions.get(&writing.target.position_name());
        let found = positions.and_then(|positions| positions.get(&writing.partition)).copied();
        if found == expected {
            return Ok(());
        }
        Err(SinkError::new(Fault::Fenced, format!("the position is {found:?}, expected {expected:?}")))
    }
}

impl Tables {
    /// Looks at the records of the live generation.
    pub fn records_of_live(&self, look: impl FnOnce(&Records)) {
        let none = Records::new();
        look(self.records.get(&self.live()).unwrap_or(&none));
    }

    /// How far the live generation is.
    pub fn live_positions(&self) -> Positions {
        self.positions.get(&self.live()).cloned().unwrap_or_default()
    }

    /// The live generation's name.
    pub fn live(&self) -> String {
        format!("{}__g{}", crate::setup::Setup::collection(), self.builds.live)
    }
}
