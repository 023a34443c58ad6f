//! The whole pipeline on real servers: Kafka, PostgreSQL, Redis and SQLite, with the real programs where a process has to
//! be killed.

mod contract;
mod hub;
mod kafka;
mod week;
