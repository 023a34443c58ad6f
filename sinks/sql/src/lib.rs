//! SQL stores. One file per store; what they share is the SQL text that all understand. What differs (types, bulk writing,
//! errors) stays in the store's file.

mod blocks;
mod generation;
mod jsonb;
mod layout;
mod postgres;
mod postgres_arrays;
mod postgres_blocks;
mod sqlite;
mod text;
mod timescaledb;

pub use postgres::POSTGRES;
pub use sqlite::SQLITE;
pub use timescaledb::TIMESCALEDB;
