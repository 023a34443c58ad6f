//! What the rows of the hub's own table of generations say.

use primal_core::sink::{Builds, Rebuild};

/// The generations of a collection, from the columns of its row; of a collection without a row when `live` is absent.
pub(crate) fn builds(live: Option<i64>, previous: Option<i64>, rebuild: Option<i64>, plan: Option<String>) -> Builds {
    let number = |n: i64| n as u64;
    let rebuild = rebuild.map(|generation| Rebuild { generation: number(generation), plan: plan.unwrap_or_default() });
    Builds { live: live.map_or(1, number), previous: previous.map(number), rebuild }
}
