//! Stores that speak the Redis protocol. One file per store; the scripts and the form of a stored record are shared.

mod envelope;
mod redis;
mod script;

pub use redis::REDIS;
