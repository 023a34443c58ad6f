//! Looking things up: collections by name for reading the log, and where an event stands in every sink that wants it.

use primal_audit::{Checked, Entry, Fate, Question, ScanError, Source, Standing, check};
use primal_core::nearest::hint;
use primal_core::sink::Build;
use primal_core::{Collection, SinkError, Target};
use primal_runtime::receipts::{self, Receipt};

use crate::config::SinkConfig;
use crate::hub::{Hub, HubError};

impl From<ScanError> for HubError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Usage(message) => HubError::Usage(message),
            ScanError::Log(error) => HubError::Log(error),
        }
    }
}

impl Hub {
    /// A collection by name.
    ///
    /// # Errors
    /// There is none, with the nearest name; or it cannot be used as it is.
    pub fn source(&self, name: &str) -> Result<Source, HubError> {
        let names = self.config.collections.keys().map(Collection::as_str);
        let unknown = || HubError::Usage(format!("unknown collection {name:?}{}", hint(name, names.clone())));
        let found = self.config.collections.keys().find(|collection| collection.as_str() == name);
        let collection = found.ok_or_else(unknown)?.clone();
        let epochs = self.epochs(&collection).map_err(HubError::Usage)?;
        Ok(Source { collection, epochs })
    }

    /// The collections of the given names; all of the config when none are given.
    ///
    /// # Errors
    /// A name is unknown, or a collection cannot be used as it is.
    pub fn sources(&self, names: &[String]) -> Result<Vec<Source>, HubError> {
        if names.is_empty() {
            return self.config.collections.keys().map(|collection| self.source(collection.as_str())).collect();
        }
        names.iter().map(|name| self.source(name)).collect()
    }

    /// Where an event stands in each sink that wants its collection.
    ///
    /// # Errors
    /// The log's. A store that cannot be reached is told in its own standing.
    pub async fn standings(&self, event: &Entry) -> Result<Vec<Standing>, HubError> {
        let mut standings = Vec::new();
        let Source { collection, epochs } = self.source(&event.collection)?;
        let receipts = receipts::read_all(&*self.log).await?;
        for sink in self.config.sinks.iter().filter(|sink| sink.collections.contains(&collection)) {
            standings.push(match self.live(sink, &collection).await? {
                Ok(target) => {
                    let (log, sink, receipts) = (self.log.clone(), &*sink.sink, receipts.as_slice());
                    Question { log, sink, target, epochs: epochs.clone(), receipts }.standing(event).await?
                }
                Err(error) => Standing {
                    sink: sink.name.clone(),
                    place: None,
                    fate: Fate::Unknown,
                    stored: None,
                    applied_at: None,
                    note: error.to_string(),
                },
            });
        }
        Ok(standings)
    }

    /// Compares receipts with the log. Those of collections that are not in the config cannot be told of.
    ///
    /// # Errors
    /// The log's.
    pub async fn check_receipts(&self, receipts: &[Receipt]) -> Result<Checked, HubError> {
        let mut all = Checked::default();
        for source in self.sources(&[])? {
            let checked = check(&*self.log, &source.collection, &source.epochs, receipts).await?;
            all.events += checked.events;
            all.untold += checked.untold;
            all.differing.extend(checked.differing);
        }
        let is_known = |receipt: &&Receipt| self.config.collections.keys().any(|c| c.as_str() == receipt.collection);
        let spans = |receipt: &Receipt| receipt.spans.len() as u64;
        all.untold += receipts.iter().filter(|receipt| !is_known(receipt)).map(spans).sum::<u64>();
        Ok(all)
    }

    async fn live(&self, sink: &SinkConfig, collection: &Collection) -> Result<Result<Target, SinkError>, HubError> {
        let feed = self.feed(sink, collection)?;
        let builds = sink.sink.builds(&sink.name, collection).await;
        Ok(builds.map(|builds| feed.target(&sink.name, Build::Live(builds.live))))
    }
}
