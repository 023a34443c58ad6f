//! Generations and positions as all SQL stores see them: what may be written to, and what the rows of the hub's own tables
//! say.

use primal_core::batch::Batch;
use primal_core::sink::{Build, Builds, Rebuild, Target};
use primal_core::{Fault, SinkError};

/// The generations of a collection, from the columns of its row; of a collection without a row when `live` is absent.
pub(crate) fn builds(live: Option<i64>, previous: Option<i64>, rebuild: Option<i64>, plan: Option<String>) -> Builds {
    let number = |n: i64| n as u64;
    let rebuild = rebuild.map(|generation| Rebuild { generation: number(generation), plan: plan.unwrap_or_default() });
    Builds { live: live.map_or(1, number), previous: previous.map(number), rebuild }
}

/// Why a target may not be written to while `live` is the live generation.
pub(crate) fn wrong_generation(target: &Target, live: u64) -> Option<String> {
    match &target.build {
        Build::Live(generation) if *generation != live => {
            Some(format!("generation {live} of {} is live, not {generation}", target.collection))
        }
        Build::Beside(generation) if *generation == live => {
            Some(format!("generation {generation} of {} is live now", target.collection))
        }
        _ => None,
    }
}

/// The message of a fence by position.
pub(crate) fn moved_meanwhile(target: &Target, batch: &Batch<'_>) -> String {
    let expected = batch.advance.and_then(|a| a.expected).map_or("none".to_owned(), |p| p.to_string());
    format!("the position of {}/{} is not {expected} any more", target.position_name(), batch.partition)
}

/// Only a generation beside the live one can take its place.
pub(crate) fn not_beside(target: &Target) -> SinkError {
    SinkError::new(Fault::Internal, format!("{:?} is not a generation beside the live one", target.build))
}
