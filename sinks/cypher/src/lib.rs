//! Graph stores that are asked in Cypher. One file per store; the statements and what an event is as a node are beside it.

mod client;
mod cypher;
mod neo4j;
mod node;
mod swap;

pub use neo4j::NEO4J;
