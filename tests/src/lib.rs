//! What tests against real servers share: starting them without containers and ending them whatever happens, the hub as
//! a process, load with a ledger of what was acknowledged, and the checks that follow.

#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

pub mod checks;
mod hub;
pub mod load;
pub mod proxy;
mod servers;

pub use hub::{Hub, free_port, program};
pub use servers::{Server, Servers, shared};
