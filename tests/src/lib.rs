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

/// A client of HTTP servers.
///
/// # Panics
/// None can be made.
pub fn http() -> reqwest::Client {
    http_builder().build().unwrap()
}

/// The same, to be set up further. Its TLS needs a provider of cryptography for the process.
pub fn http_builder() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}
