//! Stores that are spoken to over HTTP. One file per store; what the two search engines share is in `search`.

mod clickhouse;
mod client;
mod elasticsearch;
mod influxdb;
mod opensearch;
mod prometheus;
mod qdrant;
mod search;

pub use clickhouse::CLICKHOUSE;
pub use elasticsearch::ELASTICSEARCH;
pub use influxdb::INFLUXDB;
pub use opensearch::OPENSEARCH;
pub use prometheus::PROMETHEUS;
pub use qdrant::QDRANT;
