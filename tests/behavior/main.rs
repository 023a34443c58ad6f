//! The behaviour of every sink. The registry decides who is tested: each case runs for every store of this build that has
//! the ability it is about, each time in a new, empty namespace of a real server. `doubles` shows that
//! each case can fail.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that fails says so by panicking"
)]

mod blocks;
mod case;
mod cases;
mod doubles;
mod influxdb;
mod mongodb;
mod neo4j;
mod prometheus;
mod qdrant;
mod runtime;
mod script;
mod series;
mod stores;
mod swap;
mod timescale;
mod vector;
