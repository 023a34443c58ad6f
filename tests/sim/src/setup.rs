//! What a seed means: the store's class, the shape of the log, how many workers, what the operator does, and which sorts of
//! faults happen how often. Each run has only some sorts, so that rare ones are not drowned by common ones.

use std::collections::{BTreeMap, BTreeSet};

use primal_core::sink::{BUFFER, Capability, Class, Projection, SinkSpec, SwapKind};
use primal_core::{Collection, SettingsError};
use primal_log_sim::{Plan, Sort, mix};
use primal_runtime::{OnReject, Options};

/// The sink's name.
pub const SINK: &str = "store";
/// The group that its workers form.
pub const GROUP: &str = "primalcore.store";
/// The longest payload that the store takes.
pub const MAX_PAYLOAD: usize = 200;

/// What the operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Rebuilds the collection beside the live generation and swaps.
    Shadow,
    /// Makes the previous generation live again.
    Rollback,
    /// Writes everything again in place.
    Repair,
    /// Writes one key again in place.
    RepairKey,
    /// Compares the store with the log.
    Verify,
    /// Rebuilds the collection, and makes the generation before it live again.
    Return,
    /// Cancels a rebuild midway, and gives it again later.
    Abandon,
    /// Damages a record, and writes its key again in place.
    MendKey,
    /// Damages a record, and writes everything again in place.
    MendAll,
}

impl Action {
    /// Whether a generation is built and swapped in.
    pub fn rebuilds(self) -> bool {
        matches!(self, Action::Shadow | Action::Return | Action::Abandon)
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Decides everything below.
    pub seed: u64,
    /// The store's guarantee.
    pub class: Class,
    /// How the collection appears.
    pub projection: Projection,
    /// What happens behind a rejected event.
    pub on_reject: OnReject,
    /// Whether the store says which event it refused.
    pub names_rejects: bool,
    /// Partitions of the topic.
    pub partitions: u32,
    /// How many workers share them.
    pub workers: u32,
    /// Entities.
    pub keys: u64,
    /// Events published.
    pub events: u64,
    /// Events in a batch, at most.
    pub batch: usize,
    /// What the operator does, in order.
    pub actions: Vec<Action>,
    /// Whether dead letters are redriven at the end.
    pub redrive: bool,
    /// The faults.
    pub plan: Plan,
}

impl Setup {
    /// Reads a seed.
    pub fn new(seed: u64) -> Self {
        let mut setup = Setup::plain(seed);
        let draw = |what: u64, count: usize| (mix(mix(seed, 0xac7), what) % count as u64) as usize;
        for index in 0..draw(0, 3) as u64 {
            let place = draw(10 + index, setup.actions.len() + 1);
            let further = [Action::Return, Action::Abandon, Action::MendKey, Action::MendAll];
            setup.actions.extend(further.get(draw(20 + index, further.len())));
            if let Some(rest) = setup.actions.get_mut(place..) {
                rest.rotate_right(1);
            }
        }
        setup
    }

    /// The same without the operator's longer tasks: what seeds meant before there were any.
    pub fn plain(seed: u64) -> Self {
        let draw = |what: u64, count: u64| mix(mix(seed, 0x5e7), what) % count;
        let classes = [Class::Transactional, Class::Versioned, Class::Overwrite, Class::Append];
        let class = classes.get(draw(0, 4) as usize).copied().unwrap_or(Class::Transactional);
        let events = match class {
            Class::Append => true,
            Class::Overwrite => false,
            _ => draw(1, 3) == 0,
        };
        let actions = match draw(2, 4) {
            0 | 1 => Vec::new(),
            _ => (0..1 + draw(3, 3)).map(|index| action(draw(40 + index, 6))).collect(),
        };
        Setup {
            seed,
            class,
            projection: if events { Projection::Events } else { Projection::Document },
            on_reject: if draw(4, 3) == 0 { OnReject::Skip } else { OnReject::Park },
            names_rejects: draw(5, 2) == 0,
            partitions: 1 + draw(6, 4) as u32,
            workers: 1 + draw(7, 3) as u32,
            keys: 1 + draw(8, 5),
            events: 20 + draw(9, 50),
            batch: 1 + draw(10, 8) as usize,
            actions,
            redrive: draw(11, 2) == 0,
            plan: plan(seed),
        }
    }

    /// The same with the faults of these places only.
    #[must_use]
    pub fn only(mut self, places: BTreeSet<(String, u64)>) -> Self {
        self.plan.only = Some(places);
        self
    }

    /// The collection.
    pub fn collection() -> Collection {
        Collection::new("things").expect("the name fits the rules")
    }

    /// The store's own account of itself.
    pub fn spec(&self) -> SinkSpec {
        SinkSpec {
            name: "simulated",
            family: "simulated",
            summary: "a store in memory whose steps can be seen",
            capability: Capability {
                class: self.class,
                projections: &[Projection::Document, Projection::Events],
                swap: SwapKind::Atomic,
                reads: true,
                max_batch: 100,
                max_payload: MAX_PAYLOAD,
                buffer_bytes: BUFFER,
            },
            options: &[],
            build: |_| {
                Err(SettingsError { message: "never built from settings".to_owned(), ..SettingsError::default() })
            },
        }
    }

    /// The delivery settings.
    pub fn options(&self) -> Options {
        let linger_ms = if self.seed.is_multiple_of(7) { 20 } else { 0 };
        Options { batch_events: Some(self.batch), linger_ms, on_reject: self.on_reject, ..Options::default() }
    }
}

fn action(drawn: u64) -> Action {
    match drawn {
        0 | 1 => Action::Shadow,
        2 => Action::Rollback,
        3 => Action::Repair,
        4 => Action::RepairKey,
        _ => Action::Verify,
    }
}

fn plan(seed: u64) -> Plan {
    let mut rates = BTreeMap::new();
    for sort in Sort::ALL {
        let drawn = mix(mix(seed, 0xfa), sort as u64);
        // In ten thousand steps; a run has about two thousand.
        let rate = match sort {
            Sort::Error => [0, 50, 200],
            Sort::Delay => [0, 30, 120],
            _ => [0, 10, 40],
        };
        rates.insert(sort, rate.get(drawn as usize % 3).copied().unwrap_or(0));
    }
    Plan { seed, rates, only: None, told: false }
}

impl Setup {
    /// Whether the store can hold an event once it takes what it refused before. An append has no meaning where only
    /// states are kept, and a payload that is too long stays so; both keep what follows them in their key waiting.
    pub fn can_hold(&self, fact: &crate::facts::Fact) -> bool {
        let meaningless = fact.op == Some(primal_core::Op::Append) && !self.projection.keeps_every_event();
        !meaningless && fact.data.as_ref().is_none_or(|data| data.len() <= MAX_PAYLOAD)
    }
}
