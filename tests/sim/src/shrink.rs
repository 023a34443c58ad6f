//! Shrinking: a failing run with as few faults as are needed for it to fail in the same way (delta debugging).

use std::collections::BTreeSet;

use primal_log_sim::Injected;

use crate::bugs::Bug;
use crate::run::{Outcome, run};
use crate::setup::Setup;

/// How many runs shrinking may take.
const RUNS: usize = 400;

/// Leaves out faults while the same rule is still broken.
pub fn shrink(setup: &Setup, bug: Option<Bug>, failed: &Outcome) -> Outcome {
    let mut best = failed.clone();
    let (mut pieces, mut runs) = (2, 0);
    while !best.injected.is_empty() && runs < RUNS {
        let size = best.injected.len().div_ceil(pieces).max(1);
        let mut smaller = None;
        for start in (0..best.injected.len()).step_by(size) {
            let left = best.injected.iter().enumerate().filter(|(i, _)| !(start..start + size).contains(i));
            let outcome = run(&setup.clone().only(places(left.map(|(_, injected)| injected))), bug);
            runs += 1;
            if same(&outcome, failed) && outcome.injected.len() < best.injected.len() {
                smaller = Some(outcome);
                break;
            }
        }
        match smaller {
            Some(outcome) => {
                best = outcome;
                pieces = pieces.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => pieces = (pieces * 2).min(best.injected.len()),
        }
    }
    best
}

fn places<'a>(injected: impl Iterator<Item = &'a Injected>) -> BTreeSet<(String, u64)> {
    injected.map(Injected::place).collect()
}

fn same(a: &Outcome, b: &Outcome) -> bool {
    let rule = |outcome: &Outcome| outcome.violation.as_ref().map(|violation| violation.rule);
    rule(a) == rule(b)
}
