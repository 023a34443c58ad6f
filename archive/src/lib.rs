//! Cold storage: old ranges of the log as Parquet files in an object store, and log and archive read as one. The only crate
//! that names object stores and Parquet; how often something is archived, and of which collections, is the hub's to say.

mod archive;
mod archiver;
mod file;
mod index;
mod log;
mod manifest;
mod reader;
mod rows;
mod store;
#[cfg(test)]
mod tests;
mod verify;

pub use archive::{Archive, Kept, Life};
pub use archiver::{Moved, Request};
pub use file::{FILE_BYTES, FILE_RECORDS};
pub use log::ArchivedLog;
pub use manifest::{Group, Manifest};
pub use store::{Location, S3};
pub use verify::{Finding, Report};
