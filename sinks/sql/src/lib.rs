//! SQL stores. One file per store; what they share is the layout of a target in columns, the SQL text that both understand,
//! and the values of an event in those columns. What differs (types, bulk writing, errors) stays in the store's file.

mod generation;
mod layout;
mod postgres;
mod postgres_copy;
mod sqlite;
mod text;

pub use postgres::POSTGRES;
pub use sqlite::SQLITE;
