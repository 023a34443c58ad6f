//! What may be written to, as every store compares it: the generation that is live, and the position that a batch starts
//! from. Where the store keeps them is its own business.

use crate::batch::Batch;
use crate::sink::{Build, Target};
use crate::{Fault, SinkError};

impl Target {
    /// Its number, of a generation beside the live one: only such a one can take the live one's place.
    ///
    /// # Errors
    /// It is another build.
    pub fn beside(&self) -> Result<u64, SinkError> {
        match self.build {
            Build::Beside(generation) => Ok(generation),
            _ => {
                let message = format!("{:?} is not a generation beside the live one", self.build);
                Err(SinkError::new(Fault::Internal, message))
            }
        }
    }

    /// Why it may not be written to while `live` is the live generation.
    pub fn wrong_generation(&self, live: u64) -> Option<String> {
        match &self.build {
            Build::Live(generation) if *generation != live => {
                Some(format!("generation {live} of {} is live, not {generation}", self.collection))
            }
            Build::Beside(generation) if *generation == live => {
                Some(format!("generation {generation} of {} is live now", self.collection))
            }
            _ => None,
        }
    }

    /// The message of a fence by position.
    pub fn moved_meanwhile(&self, batch: &Batch<'_>) -> String {
        let expected = batch.advance.and_then(|a| a.expected).map_or("none".to_owned(), |p| p.to_string());
        format!("the position of {}/{} is not {expected} any more", self.position_name(), batch.partition)
    }
}
