//! The hub assembled: from a config file to a log, a producer, a gateway, workers, verification and replay. Everything
//! that the command line does goes through here, and so do the tests.

#[cfg(feature = "archive")]
mod archive;
mod archiving;
mod audit;
mod auditing;
mod background;
mod config;
mod files;
mod hub;
mod mapping;
mod retention;
mod run;
mod seals;
mod snapshots;
mod status;
mod verifying;
mod yaml;

#[cfg(feature = "archive")]
pub use archive::Dropped;
pub use archiving::ArchiveConfig;
pub use auditing::AuditConfig;
pub use background::Background;
pub use config::{Config, GatewayConfig, LogConfig, SinkConfig};
pub use hub::{Hub, HubError};
pub use retention::Keeping;
pub use run::Running;
pub use snapshots::SnapshotConfig;
pub use status::{Row, Stopped, rows, stopped};
pub use verifying::Verified;
