//! Workers: what carries events from the log to one sink. The runtime owns delivery, which is the batches, their order,
//! retries, the circuit breaker, dead letters and parked keys, and the fence; a sink only writes what it is given.

mod breaker;
pub mod dead_letter;
mod deliver;
pub mod job;
mod options;
mod pace;
mod parked;
mod partition;
mod receipting;
pub mod receipts;
mod seen;
pub mod status;
mod triage;
mod worker;

pub use job::{Filled, Job, JobError};
pub use options::{OnReject, Options};
pub use pace::Pace;
pub use parked::Parked;
pub use seen::Seen;
pub use worker::{Feed, Worker, WorkerError};
