//! Stores that speak the MongoDB wire protocol. One file per store; the form of a record and the connection are beside it.

mod connection;
mod mongodb;
mod native;
mod record;
mod state;
mod swap;

pub use mongodb::MONGODB;
