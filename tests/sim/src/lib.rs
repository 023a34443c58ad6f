//! Deterministic simulation: the real producer, workers, replay and verification run over a simulated log and simulated
//! stores, one for each guarantee class, on virtual time and one seed. Between any two steps that touch the log or a store
//! something may go wrong, and after each step the rules have to hold.

#![expect(clippy::expect_used, reason = "a test that fails says so by panicking")]

pub mod bugs;
mod client;
mod damage;
mod facts;
mod judge;
mod operator;
mod run;
mod setup;
mod shrink;
mod sink;
mod store;

pub use bugs::Bug;
pub use judge::Violation;
pub use run::{Outcome, run};
pub use setup::Setup;
pub use shrink::shrink;
