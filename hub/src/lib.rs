//! The hub assembled: from a config file to a log, a producer, a gateway, workers, verification and replay. Everything
//! that the command line does goes through here, and so do the tests.

mod audit;
mod auditing;
mod background;
mod config;
mod files;
mod hub;
mod mapping;
mod run;
mod seals;
mod snapshots;
mod status;
mod verifying;
mod yaml;

pub use auditing::AuditConfig;
pub use background::Background;
pub use config::{Config, GatewayConfig, LogConfig, SinkConfig};
pub use hub::{Hub, HubError};
pub use run::Running;
pub use snapshots::SnapshotConfig;
pub use status::{Row, rows};
pub use verifying::Verified;
