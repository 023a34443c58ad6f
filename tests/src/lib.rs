//! What tests against real servers share: starting them without containers, and ending them whatever happens.

mod servers;

pub use servers::{Server, shared};
