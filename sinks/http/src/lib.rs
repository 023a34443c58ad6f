//! Stores that speak HTTP. One file per store; the client and what a status means are shared.

#[expect(dead_code, reason = "the stores come next")]
mod client;
