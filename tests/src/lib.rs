//! What tests against real servers share: starting them without containers and ending them whatever happens, the hub as
//! a process, load with a ledger of what was acknowledged, and the checks that follow.

#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::io::Read;
use std::path::Path;

pub mod checks;
mod hub;
pub mod job;
pub mod load;
pub mod proxy;
mod servers;

pub use hub::{Hub, free_port, program};
pub use servers::{Server, Servers, shared};

/// The week of events of `examples/`, one a line.
///
/// # Panics
/// The file is not there.
pub fn week() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/week.ndjson.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(file).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

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
