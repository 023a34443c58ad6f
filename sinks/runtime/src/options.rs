//! How a worker batches, waits and gives up: settings that every sink has, whatever its store.

use std::time::Duration;

use primal_core::sink::{Capability, OptionSpec};
use serde::Deserialize;

/// What happens to the later events of a key that has a dead letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReject {
    /// They wait behind it among the dead letters, in order; other keys go on.
    #[default]
    Park,
    /// They are applied; the rejected event is left out for good once a later one was applied.
    Skip,
}

/// Delivery settings of one sink.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Events in a batch, at most; never more than the store likes.
    pub batch_events: Option<usize>,
    /// Bytes in a batch, about.
    pub batch_bytes: Option<usize>,
    /// Bytes held in memory for all partitions together, about.
    pub buffer_bytes: Option<usize>,
    /// How long a batch that is not full waits for more, in milliseconds.
    pub linger_ms: u64,
    /// How long the store may take to answer one write, in seconds.
    pub write_timeout_s: u64,
    /// What happens behind a rejected event.
    pub on_reject: OnReject,
    /// Whether the log keeps what was done with which offsets.
    pub receipts: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            batch_events: None,
            batch_bytes: None,
            buffer_bytes: None,
            linger_ms: 0,
            write_timeout_s: 60,
            on_reject: OnReject::Park,
            receipts: true,
        }
    }
}

impl Options {
    /// The reference of these settings.
    pub const SPECS: &'static [OptionSpec] = &[
        OptionSpec {
            name: "batch_events",
            default: Some("what the store likes"),
            help: "events in a batch, at most; fewer than the store's own limit",
        },
        OptionSpec {
            name: "batch_bytes",
            default: Some("what `buffer_bytes` has room for"),
            help: "bytes in a batch, about",
        },
        OptionSpec {
            name: "buffer_bytes",
            default: Some("8388608; search engines: four times, clickhouse: eight times that"),
            help: "bytes held in memory for all partitions of this sink together, about",
        },
        OptionSpec {
            name: "linger_ms",
            default: Some("0"),
            help: "how long a batch that is not full waits for more events, in milliseconds; \
                   under load batches fill by themselves while the one before is written",
        },
        OptionSpec {
            name: "write_timeout_s",
            default: Some("60"),
            help: "how long the store may take to answer one write, in seconds, before it counts as unavailable",
        },
        OptionSpec {
            name: "on_reject",
            default: Some("park"),
            help: "`park`: later events of a key with a dead letter wait behind it, in order; \
                   `skip`: they are applied without it, as points of a series always are",
        },
        OptionSpec {
            name: "receipts",
            default: Some("true"),
            help: "whether the log keeps what was done with which offsets and when, a row per 10,000 of them; \
                   `primalcore audit receipts`",
        },
    ];

    /// Events in a batch for a store.
    pub(crate) fn batch_limit(&self, capability: &Capability) -> usize {
        self.batch_events.unwrap_or(capability.max_batch).clamp(1, capability.max_batch)
    }

    /// Bytes in a batch when `partitions` share the buffer; each holds one batch in flight and one being filled.
    pub(crate) fn byte_limit(&self, capability: &Capability, partitions: usize) -> usize {
        let buffer = self.buffer_bytes.unwrap_or(capability.buffer_bytes);
        let share = buffer / (2 * partitions.max(1));
        share.min(self.batch_bytes.unwrap_or(share)).max(64 << 10)
    }

    pub(crate) fn linger(&self) -> Duration {
        Duration::from_millis(self.linger_ms)
    }

    pub(crate) fn write_timeout(&self) -> Duration {
        Duration::from_secs(self.write_timeout_s.max(1))
    }
}
