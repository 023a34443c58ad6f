//! The whole pipeline on real servers: Kafka, PostgreSQL, Redis and SQLite, with the real programs where a process has to
//! be killed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that fails says so by panicking"
)]

mod archive;
mod contract;
mod kafka;
mod letters;
mod receipts;
mod replay;
mod replay_jobs;
mod seals;
mod told;
mod verified;
mod week;
