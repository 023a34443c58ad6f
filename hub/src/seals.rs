//! Sealing as the config says it: with which key, of which collections, and how often.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use primal_core::Collection;
use primal_seal::{Checkpoint, Growth, Proof, Report, SealError, Sealed, Sealer, Signer, Tree, Verifier};
use primal_seal::{consistency, growth, prove};
use tokio_util::sync::CancellationToken;

use crate::auditing::AuditConfig;
use crate::hub::{Hub, HubError};

impl From<SealError> for HubError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Log(error) => HubError::Log(error),
            SealError::Usage(message) => HubError::Usage(message),
            SealError::Different(message) => HubError::Different(message),
        }
    }
}

impl AuditConfig {
    fn signer(&self) -> Result<Signer, HubError> {
        let key = self.key.as_deref().ok_or_else(no_key)?;
        let file = key.display();
        let text = std::fs::read_to_string(key).map_err(|error| {
            HubError::Usage(format!(
                "the key {file} of audit.key cannot be read: {error}; `primalcore audit keygen --out {file}` makes one"
            ))
        })?;
        if is_open_to_others(key) {
            tracing::warn!("others may read the private key {file}; `chmod 600 {file}` keeps it to its owner");
        }
        text.parse().map_err(|error| HubError::Usage(format!("{file}: {error}")))
    }

    fn former(&self) -> Result<Vec<Verifier>, HubError> {
        let read = |key: &String| key.parse().map_err(|error| HubError::Usage(format!("audit.former_keys: {error}")));
        self.former_keys.iter().map(read).collect()
    }
}

#[cfg(unix)]
fn is_open_to_others(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &Path) -> bool {
    false
}

fn no_key() -> HubError {
    let missing = "the config names no key to seal with; `primalcore audit keygen --out hub.key` makes one, and \
                   `audit: { key: hub.key }` names it";
    HubError::Usage(missing.to_owned())
}

impl Hub {
    fn audit(&self) -> Result<&AuditConfig, HubError> {
        self.config.audit.as_ref().ok_or_else(no_key)
    }

    /// What seals this hub's collections.
    ///
    /// # Errors
    /// No key is configured or it cannot be read; or the log's.
    pub async fn sealer(&self) -> Result<Sealer, HubError> {
        let config = self.audit()?;
        let (signer, former) = (config.signer()?, config.former()?);
        Ok(Sealer::open(self.log.clone(), self.config.log.prefix(), signer, former).await?)
    }

    /// The public keys whose seals this hub believes: its own and the former ones.
    ///
    /// # Errors
    /// No key is configured or one cannot be read.
    pub fn verifiers(&self) -> Result<Vec<Verifier>, HubError> {
        let config = self.audit()?;
        Ok([vec![config.signer()?.verifier().clone()], config.former()?].concat())
    }

    /// Seals the collections of the given names, all when none are given; what was sealed, by partition.
    ///
    /// # Errors
    /// A name is unknown; the log's; or what is on record is not signed by a known key.
    pub async fn seal(&self, sealer: &mut Sealer, names: &[String]) -> Result<Vec<Sealed>, HubError> {
        let mut sealed = Vec::new();
        for source in self.sources(names)? {
            sealed.extend(sealer.seal(&source.collection, &source.epochs).await?);
        }
        Ok(sealed)
    }

    /// Proves that the record at an offset is in the log as it was sealed.
    ///
    /// # Errors
    /// It is not sealed yet, or not as it was sealed; or the log's.
    pub async fn prove(&self, collection: &str, partition: i32, offset: i64) -> Result<Proof, HubError> {
        let source = self.source(collection)?;
        let tree = Tree::at(&source.collection, &source.epochs, partition, offset);
        Ok(prove(&*self.log, &tree, offset).await?)
    }

    /// Proves that a checkpoint that was kept, given as its note, is the beginning of the newest one.
    ///
    /// # Errors
    /// It is of no tree of this hub, or not the beginning; or the log's.
    pub async fn growth(&self, note: &str) -> Result<Growth, HubError> {
        let unknown = || HubError::Usage("the kept checkpoint is of no collection of this hub".to_owned());
        let origin = Checkpoint::unverified(note).ok_or_else(unknown)?.origin;
        let prefix = self.config.log.prefix();
        for source in self.sources(&[])? {
            let (collection, epochs) = (&source.collection, &source.epochs);
            if Tree::all(collection, epochs, epochs.partitions()).iter().any(|tree| tree.origin(prefix) == origin) {
                return Ok(growth(&*self.log, prefix, collection, epochs, note).await?);
            }
        }
        Err(unknown())
    }

    /// Compares a collection with its seals, and with checkpoints that were kept elsewhere.
    ///
    /// # Errors
    /// There is no such collection, or the log's.
    pub async fn consistency(
        &self,
        collection: &str,
        keys: &[Verifier],
        kept: &[Checkpoint],
        progress: impl FnMut(u64),
    ) -> Result<Vec<Report>, HubError> {
        let source = self.source(collection)?;
        let prefix = self.config.log.prefix();
        Ok(consistency(&*self.log, prefix, &source.collection, &source.epochs, keys, kept, progress).await?)
    }

    /// Seals every so often until the shutdown. What fails is told and tried again: events are taken all the same.
    pub(crate) async fn keep_sealed(self: Arc<Self>, mut sealer: Sealer, every: Duration, shutdown: CancellationToken) {
        let collections: Vec<String> = self.config.collections.keys().map(Collection::to_string).collect();
        loop {
            for collection in &collections {
                // One that cannot be sealed does not stop the others.
                let sealing = self.seal(&mut sealer, std::slice::from_ref(collection));
                match shutdown.run_until_cancelled(sealing).await {
                    None => return,
                    Some(Ok(_)) => {}
                    Some(Err(error)) if error.is_passing() => {
                        tracing::warn!(collection, %error, "not sealed; trying again")
                    }
                    Some(Err(error)) => tracing::error!(collection, %error, "not sealed"),
                }
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(every)).await.is_none() {
                return;
            }
        }
    }
}
