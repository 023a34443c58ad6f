//! Whether what a topic drops is archived by then.

use std::time::Duration;

use primal_core::log::{Extent, Retention};
use primal_core::time::Span;
use primal_core::{Collection, Offset, Timestamp};

use crate::hub::{Hub, HubError};
use crate::status::recorded_at;

/// How a collection's events are kept.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// What the log itself holds, by partition.
    pub extents: Vec<Extent>,
    /// How long it keeps that.
    pub retention: Retention,
    /// Where each partition's archive ends; `None` where there is none.
    pub archived: Option<Vec<Offset>>,
    /// What would be lost, and what helps.
    pub warnings: Vec<String>,
}

impl Hub {
    /// How a collection's events are kept.
    ///
    /// # Errors
    /// The log's. An archive that cannot be reached is a warning.
    pub async fn keeping(&self, collection: &Collection) -> Result<Keeping, HubError> {
        let topic = collection.topic();
        let extents = self.log.recent(&topic).await?.unwrap_or_default();
        let retention = self.log.retention(&topic).await?;
        let mut keeping = Keeping { extents, retention, archived: None, warnings: Vec::new() };
        match self.archive_ends(collection).await {
            Ok(ends) => keeping.archived = ends,
            Err(error) => keeping.warnings.push(error.to_string()),
        }
        let mut oldest: Option<Timestamp> = None;
        for (partition, extent) in (0..).zip(&keeping.extents) {
            let Some(end) = keeping.archived.as_ref().and_then(|ends| ends.get(partition as usize)) else { continue };
            if (1..extent.start).contains(end) {
                let start = extent.start;
                keeping.warnings.push(format!(
                    "offsets [{end}, {start}) of {topic}/{partition} left the log before they were archived"
                ));
            }
            let next = extent.start.max(*end);
            if keeping.retention != Retention::default() && next < extent.end {
                oldest = oldest.into_iter().chain(recorded_at(&*self.log, &topic, partition, next).await?).min();
            }
        }
        let waiting = oldest.map_or(Duration::ZERO, |oldest| self.env.now().since(oldest));
        keeping.warnings.extend(self.too_short(collection, keeping.retention, waiting));
        Ok(keeping)
    }

    /// What is wrong with how long a topic keeps its events, whose oldest that is not archived is so old.
    fn too_short(&self, collection: &Collection, retention: Retention, waiting: Duration) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(archive) = &self.config.archive else {
            let limit = retention.time.map(|time| format!("after {} (retention.ms)", Span(time)));
            let limit =
                limit.or(retention.bytes.map(|bytes| format!("beyond {bytes} bytes a partition (retention.bytes)")));
            warnings.extend(limit.map(|limit| {
                format!(
                    "{collection} drops events {limit} and the config names no archive: what is dropped cannot be replayed; \
                     `archive:` keeps it, or set the topic's retention to -1"
                )
            }));
            return warnings;
        };
        let planned = archive.after.0 + archive.every.0;
        if let Some(time) = retention.time.filter(|time| *time <= planned.max(waiting)) {
            let (time, after, every) = (Span(time), archive.after, archive.every);
            let behind = match waiting > planned {
                true => format!(", and the oldest event that is not archived was taken {} ago", Span(waiting)),
                false => String::new(),
            };
            warnings.push(format!(
                "{collection} drops events after {time} (retention.ms), but archives them only when they are {after} old, \
                 every {every}{behind}: events would be lost; make the topic's retention longer or `archive.after` shorter"
            ));
        }
        if let Some(bytes) = retention.bytes {
            warnings.push(format!(
                "{collection} drops events beyond {bytes} bytes a partition (retention.bytes), archived or not; set it to -1"
            ));
        }
        warnings
    }

    #[cfg(feature = "archive")]
    async fn archive_ends(&self, collection: &Collection) -> Result<Option<Vec<Offset>>, HubError> {
        self.archived_to(collection).await
    }

    #[cfg(not(feature = "archive"))]
    #[expect(clippy::unused_async, reason = "with the feature it asks a store")]
    async fn archive_ends(&self, _: &Collection) -> Result<Option<Vec<Offset>>, HubError> {
        Ok(None)
    }
}
