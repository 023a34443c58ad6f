//! A simulated process. Whatever it does to the log or to a store it does through steps, and a step is where it can be
//! delayed, refused, frozen or ended. A process that has ended makes no further step, though its tasks still exist.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use primal_core::Env;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fault::Sort;
use crate::world::World;

/// A step was refused; the text says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed(pub &'static str);

/// One life of a process.
pub(crate) struct Life {
    pub name: String,
    pub number: u32,
    died: CancellationToken,
    ending: CancellationToken,
    frozen_until: Mutex<Option<Instant>>,
    /// Whether it has dropped its place in the group.
    pub left: AtomicBool,
}

impl Life {
    pub(crate) fn new(name: &str, number: u32) -> Arc<Self> {
        Arc::new(Life {
            name: name.to_owned(),
            number,
            died: CancellationToken::new(),
            ending: CancellationToken::new(),
            frozen_until: Mutex::default(),
            left: AtomicBool::new(false),
        })
    }

    fn frozen_until(&self) -> Option<Instant> {
        let until = *self.frozen_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.filter(|until| *until > Instant::now())
    }

    /// Whether it tells its group that it is there.
    pub(crate) fn is_silent(&self) -> bool {
        self.died.is_cancelled() || self.left.load(Ordering::Relaxed) || self.frozen_until().is_some()
    }
}

/// A process, as what runs in it sees it.
#[derive(Clone)]
pub struct Process {
    pub(crate) world: Arc<World>,
    pub(crate) life: Arc<Life>,
}

impl Process {
    /// The world that it lives in.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Its name, the same in all its lives.
    pub fn name(&self) -> &str {
        &self.life.name
    }

    /// Time and chance of this life.
    pub fn env(&self) -> Env {
        self.world.env(&format!("{}#{}", self.life.name, self.life.number))
    }

    /// A number drawn for its next step, without making one.
    pub fn draw(&self) -> u64 {
        self.world.peek_draw(&self.life.name)
    }

    /// Passes a fault point.
    ///
    /// # Errors
    /// An error was injected.
    pub async fn step(&self, what: &'static str) -> Result<(), Failed> {
        self.pass(what, true, true).await.map(|_| ())
    }

    /// Passes a fault point that cannot fail.
    pub async fn pass_by(&self, what: &'static str) {
        let _ = self.pass(what, false, true).await;
    }

    /// Passes a fault point and gives the time that the other side takes, instead of waiting for it.
    ///
    /// # Errors
    /// An error was injected.
    pub async fn send(&self, what: &'static str) -> Result<Duration, Failed> {
        self.pass(what, true, false).await
    }

    async fn pass(&self, what: &'static str, can_fail: bool, wait: bool) -> Result<Duration, Failed> {
        self.alive().await;
        let (mut pause, fault) = self.world.decide(&self.life, what, can_fail);
        match fault.map(|fault| (fault.sort, fault.lasts)) {
            None => {}
            Some((Sort::Delay, lasts)) => pause += lasts,
            Some((Sort::Error, _)) => return Err(Failed(what)),
            Some((Sort::Crash, _)) => self.kill(),
            Some((Sort::Freeze, lasts)) => {
                *self.life.frozen_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + lasts);
                self.world.expel_later(&self.life);
            }
            Some((Sort::Restart, _)) => self.life.ending.cancel(),
            Some((Sort::Rebalance, _)) => self.world.rebalance(),
        }
        if wait && !pause.is_zero() {
            tokio::time::sleep(pause).await;
        } else {
            tokio::task::yield_now().await;
        }
        self.alive().await;
        Ok(pause)
    }

    /// Waits while it is frozen; for ever when it has ended, or when the world goes in circles.
    async fn alive(&self) {
        while let Some(until) = self.life.frozen_until() {
            tokio::time::sleep_until(until).await;
        }
        if self.life.died.is_cancelled() || self.world.in_circles() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.life.died.cancel();
        self.world.expel_later(&self.life);
    }

    /// Whether it was ended.
    pub fn is_over(&self) -> bool {
        self.life.died.is_cancelled()
    }

    /// Waits until it was ended.
    pub async fn died(&self) {
        self.life.died.cancelled().await;
    }

    /// What tells it to end in good order.
    pub fn ending(&self) -> &CancellationToken {
        &self.life.ending
    }
}
