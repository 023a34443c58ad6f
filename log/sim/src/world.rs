//! The world that all processes share: the log, the groups, the clock, the faults, and the trace of what happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use primal_core::log::TopicSpec;
use primal_core::{Clock, Env, Partition, Timestamp, Topic};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::chance::{hash, mix};
use crate::fault::{Fault, Injected, Plan, Sort};
use crate::group::Groups;
use crate::process::{Life, Process};
use crate::topic::{Kept, Topics};

/// How long a member may be silent before its partitions are given to others.
pub(crate) const SESSION: Duration = Duration::from_secs(3);
/// The first moment of every world: 2026-01-01.
const DAWN: i64 = 1_767_225_600_000_000;
/// A run that makes more steps than this goes in circles.
const STEPS: u64 = 150_000;

/// A simulated world.
pub struct World {
    plan: Plan,
    dawn: Instant,
    book: Mutex<Book>,
    log: Mutex<Topics>,
    groups: Mutex<Groups>,
    /// Rung when records were appended.
    pub(crate) appended: Notify,
    /// Rung when a member has news.
    pub(crate) changed: Notify,
}

#[derive(Default)]
struct Book {
    calm: bool,
    steps: u64,
    trace: u64,
    counters: BTreeMap<String, (u64, u64)>,
    lives: BTreeMap<String, u32>,
    injected: Vec<Injected>,
    lines: Vec<String>,
}

impl World {
    /// A new one. The runtime's clock has to be paused.
    pub fn new(plan: Plan) -> Arc<Self> {
        Arc::new(World {
            plan,
            dawn: Instant::now(),
            book: Mutex::default(),
            log: Mutex::default(),
            groups: Mutex::default(),
            appended: Notify::new(),
            changed: Notify::new(),
        })
    }

    /// Starts a process, or starts it again.
    pub fn process(self: &Arc<Self>, name: &str) -> Process {
        let mut book = self.book();
        let number = book.lives.entry(name.to_owned()).or_default();
        *number += 1;
        Process { world: self.clone(), life: Life::new(name, *number) }
    }

    /// From now on nothing goes wrong any more.
    pub fn calm(&self) {
        self.book().calm = true;
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    pub(crate) fn at(&self, moment: Instant) -> Timestamp {
        let passed = moment.duration_since(self.dawn).as_micros();
        Timestamp(DAWN + i64::try_from(passed).unwrap_or(0))
    }

    /// The world's time, and chance for a purpose.
    pub fn env(self: &Arc<Self>, purpose: &str) -> Env {
        Env::seeded(Arc::new(Watch(self.clone())), mix(self.plan.seed, hash(purpose)))
    }

    /// The faults that were injected so far.
    pub fn injected(&self) -> Vec<Injected> {
        self.book().injected.clone()
    }

    /// How many steps were made, and a number that stands for all of them and their times.
    pub fn trace(&self) -> (u64, u64) {
        let book = self.book();
        (book.steps, book.trace)
    }

    /// The steps as lines, where the plan asks for them: milliseconds, process, life, step.
    pub fn lines(&self) -> Vec<String> {
        self.book().lines.clone()
    }

    /// Whether so many steps were made that something must be going in circles.
    pub fn in_circles(&self) -> bool {
        self.book().steps > STEPS
    }

    /// Adds something that happened to the trace.
    pub fn note(&self, what: u64) {
        let mut book = self.book();
        book.trace = mix(book.trace, what);
    }

    /// Makes a topic without being a process.
    pub fn create(&self, topic: &Topic, spec: TopicSpec) {
        self.log().create(topic, spec);
    }

    /// Looks at the records of a partition without being a process.
    pub fn records(&self, topic: &Topic, partition: Partition, from: usize) -> Vec<Kept> {
        let log = self.log();
        let records = log.partition(topic, partition).map(|log| &log.records);
        records.and_then(|records| records.get(from..)).map(<[Kept]>::to_vec).unwrap_or_default()
    }

    pub(crate) fn peek_draw(&self, name: &str) -> u64 {
        let steps = self.book().counters.get(name).map_or(0, |(_, steps)| *steps);
        mix(self.plan.draw(hash(name), steps), 3)
    }

    /// What happens at a step: how long it takes, and which fault it has.
    pub(crate) fn decide(&self, life: &Life, what: &'static str, can_fail: bool) -> (Duration, Option<Fault>) {
        let now = Instant::now().duration_since(self.dawn).as_micros() as u64;
        let mut book = self.book();
        book.steps += 1;
        let counter = book.counters.entry(life.name.clone()).or_insert_with(|| (hash(&life.name), 0));
        let (id, step) = *counter;
        counter.1 += 1;
        let drawn = self.plan.draw(id, step);
        book.trace = mix(book.trace, mix(now, mix(id, hash(what))));
        if self.plan.told {
            let line = format!("{:>9} {}#{}:{step} {what}", now / 1000, life.name, life.number);
            book.lines.push(line);
        }
        let pause = match drawn % 16 {
            0..=8 => 0,
            9..=13 => 1,
            14 => 2 + drawn % 5,
            _ => 5 + drawn % 40,
        };
        let place = (life.name.clone(), step);
        let allowed = !book.calm && self.plan.only.as_ref().is_none_or(|only| only.contains(&place));
        let fault = self.plan.fault(drawn).filter(|fault| allowed && (can_fail || fault.sort != Sort::Error));
        if let Some(fault) = fault {
            book.trace = mix(book.trace, fault.sort as u64);
            book.injected.push(Injected { process: place.0, step, what, fault });
        }
        (Duration::from_millis(pause), fault)
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Topics> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shares out the partitions of all groups anew.
    pub(crate) fn rebalance(&self) {
        self.groups().shuffle();
        self.changed.notify_waiters();
    }

    /// Takes a member's partitions away when it is still silent after its session.
    pub(crate) fn expel_later(self: &Arc<Self>, life: &Arc<Life>) {
        let (world, life) = (self.clone(), life.clone());
        tokio::spawn(async move {
            tokio::time::sleep(SESSION).await;
            if life.is_silent() && world.groups().expel(&life) {
                world.note(hash("expelled"));
                world.changed.notify_waiters();
            }
        });
    }
}

struct Watch(Arc<World>);

impl Clock for Watch {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}
