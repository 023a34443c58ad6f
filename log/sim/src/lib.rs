//! A simulated world: a log in memory, processes that crash and freeze, and fault points between any two steps that touch
//! the log or a store. Time is tokio's, paused; chance is a function of one seed. What is run in it, and what has to hold,
//! is the business of the simulation tests.

mod chance;
mod fault;
mod group;
mod log;
mod process;
mod reader;
mod topic;
mod world;

pub use chance::{hash, mix};
pub use fault::{Fault, Injected, Plan, Sort};
pub use group::Hold;
pub use log::SimLog;
pub use process::{Failed, Process};
pub use topic::Kept;
pub use world::World;
