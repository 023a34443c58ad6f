//! The contracts that every part of the hub leans on: events and their wire form, batches, the log, sinks, errors, and
//! the settings that a config file is read into. No client of any store and no client of any log lives here.

pub mod batch;
pub mod blocks;
pub mod columns;
pub mod digest;
pub mod env;
pub mod epoch;
pub mod error;
pub mod event;
mod fence;
pub mod header;
pub mod keyed;
pub mod lives;
pub mod log;
pub mod mapping;
pub mod moment;
pub mod name;
pub mod nearest;
pub mod primal;
pub mod record;
pub mod settings;
pub mod sink;
pub mod table;
pub mod time;

pub use batch::{Batch, BatchEvent, Mode};
pub use digest::Digest;
pub use env::{Clock, Env, Random};
pub use epoch::{Epochs, Position, Version};
pub use error::{Fault, LogError, Rejected, Retry, SinkError};
pub use event::{Event, Op};
pub use log::EventLog;
pub use mapping::Mapping;
pub use moment::Moment;
pub use name::{Collection, Topic};
pub use primal::Primal;
pub use record::{RecordRef, Records};
pub use settings::{Settings, SettingsError};
pub use sink::{Projection, Reader, Sink, SinkSpec, Swap, Target};
pub use table::Table;
pub use time::Timestamp;

/// A place in a partition of the log, counted from 0 as Kafka does.
pub type Offset = i64;
/// A partition's number, counted from 0.
pub type Partition = i32;
