//! Room for the bytes that requests hold in memory: what all of them share, and a little that each has for itself, so that
//! small requests are served when large ones have taken all that is shared.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What each request has for itself, in bytes.
const OWN: usize = 8 << 10;

/// The room of one request.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

/// Bytes taken; given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held {
    own: Option<OwnedSemaphorePermit>,
    shared: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(crate) fn new(shared: Arc<Semaphore>) -> Self {
        Room { own: Arc::new(Semaphore::new(OWN)), shared }
    }

    /// Takes so many bytes, if they are there.
    pub(crate) fn take(&self, bytes: usize) -> Option<Held> {
        let bytes = u32::try_from(bytes).ok()?;
        if let Ok(permit) = self.own.clone().try_acquire_many_owned(bytes) {
            return Some(Held { own: Some(permit), shared: None });
        }
        let permit = self.shared.clone().try_acquire_many_owned(bytes).ok()?;
        Some(Held { own: None, shared: Some(permit) })
    }

    /// Takes so many bytes as soon as they are there; none after `patience`.
    pub(crate) async fn wait(&self, bytes: usize, patience: Duration) -> Option<Held> {
        let bytes = u32::try_from(bytes).ok()?;
        let (own, shared) = (self.own.clone(), self.shared.clone());
        let taken = async {
            tokio::select! {
                permit = own.acquire_many_owned(bytes) => permit.map(|permit| Held { own: Some(permit), shared: None }),
                permit = shared.acquire_many_owned(bytes) => permit.map(|permit| Held { own: None, shared: Some(permit) }),
            }
        };
        tokio::time::timeout(patience, taken).await.ok()?.ok()
    }
}

impl Held {
    /// Both together. They are of the same request.
    pub(crate) fn add(&mut self, other: Held) {
        for (mine, theirs) in [(&mut self.own, other.own), (&mut self.shared, other.shared)] {
            match (mine.as_mut(), theirs) {
                (Some(mine), Some(theirs)) => mine.merge(theirs),
                (None, theirs) => *mine = theirs,
                (Some(_), None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_small_request_has_room_when_a_large_one_has_taken_all() {
        let shared = Arc::new(Semaphore::new(20_000));
        let (large, small) = (Room::new(shared.clone()), Room::new(shared.clone()));
        let mut held = large.take(15_000).unwrap();
        held.add(large.take(5_000).unwrap());
        held.add(large.take(5_000).unwrap());
        assert!(large.take(5_000).is_none());
        assert!(small.take(8_000).is_some());
        assert!(small.wait(9_000, Duration::from_secs(1)).await.is_none());
        drop(held);
        assert!(small.wait(9_000, Duration::from_secs(1)).await.is_some());
        assert_eq!(shared.available_permits(), 20_000);
    }
}
