//! Proof that a store holds what the log says. So far: verification by key, version and digest.

mod verify;

pub use verify::{Difference, Report, Scope, VerifyError, verify};
