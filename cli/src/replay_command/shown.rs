//! Plans, differences and results of a replay, printed.

use primal_audit::Difference;
use primal_replay::{Diff, Mode, Plan, Rebuilt, Spec};

use crate::output::{self, grouped};

/// What would be done.
pub(super) fn plan(plan: &Plan, spec: &Spec) {
    let (mode, verb) = match plan.mode {
        Mode::Shadow => ("shadow", "builds beside, verifies, swaps"),
        Mode::Repair => ("repair", "writes in place"),
        Mode::Copy => ("copy", "builds a copy"),
    };
    output::line(&format!("{} into {} as {mode} ({verb}), at {}", plan.collection, plan.sink, plan.place));
    let to = spec.to.as_deref().unwrap_or("the present end");
    if [spec.from.as_str(), to].iter().any(|bound| bound.ends_with('Z')) {
        output::line(&format!("from {} to {to}, by recorded time, UTC", spec.from));
    }
    let rows = plan.ranges.iter().map(|range| {
        let (from, to, count) = (grouped(range.from), grouped(range.to), grouped(range.to - range.from));
        vec![range.partition.to_string(), from, to, count, grouped(range.dropped)]
    });
    output::table(&["partition", "from", "to", "events", "gone"], rows.collect());
    let megabytes = plan.bytes as f64 / 1e6;
    output::line(&format!(
        "{} events, about {megabytes:.1} MB, about {} s at {} events/s",
        grouped(plan.events),
        plan.seconds.max(1),
        grouped(plan.rate.round() as i64)
    ));
    if let Some(budget) = spec.budget {
        output::line(&format!("longer than that, with {:.0}% of the store's time", budget * 100.0));
    }
    if let Some(window) = spec.window {
        output::line(&format!("written from {window} UTC only; it stands still at other times"));
    }
    if plan.resumes {
        output::line("an earlier run was interrupted; this goes on from there");
    }
    for note in &plan.notes {
        output::line(&format!("note: {note}"));
    }
}

/// What was done.
pub(super) fn told(done: &Rebuilt) {
    let events = grouped(done.events);
    match (done.mode, done.generation, &done.verified) {
        (Mode::Shadow, Some(generation), Some(report)) => output::line(&format!(
            "{}: generation {generation} is live: {events} events, {} records verified; --rollback returns to the one before",
            done.collection,
            grouped(report.verified)
        )),
        (Mode::Copy, _, Some(report)) => output::line(&format!(
            "{}: copied: {events} events, {} records verified in {}",
            done.collection,
            grouped(report.verified),
            report.place
        )),
        _ => output::line(&format!(
            "{}: repaired: {events} events read, {} records written, {} refused by the store",
            done.collection,
            grouped(done.applied),
            grouped(done.rejected)
        )),
    }
}

/// What would change: a row per collection, then the samples.
pub(super) fn diffs(diffs: &[Diff]) {
    let row = |diff: &Diff| {
        let report = &diff.report;
        vec![
            report.sink.clone(),
            report.collection.clone(),
            if diff.mode == Mode::Shadow { "rebuild" } else { "repair" }.to_owned(),
            grouped(report.records),
            grouped(report.verified),
            grouped(report.missing.count),
            grouped(report.extra.count),
            grouped(report.differing.count),
            grouped(report.stale.count),
        ]
    };
    let header = ["sink", "collection", "by", "records", "right", "missing", "extra", "differing", "stale"];
    output::table(&header, diffs.iter().map(row).collect());
    let mut samples = Vec::new();
    for diff in diffs {
        let report = &diff.report;
        let kept = if diff.mode == Mode::Shadow { "dropped" } else { "left as it is" };
        let sorts = [
            ("missing", &report.missing, "written"),
            ("extra", &report.extra, kept),
            ("differing", &report.differing, "written again"),
            ("stale", &report.stale, "brought up to date"),
        ];
        for (sort, found, fate) in sorts {
            for Difference { key, expected, found } in &found.first {
                let version = |v: &Option<u64>| v.map_or("none".to_owned(), |v| v.to_string());
                let place = format!("{} {}", report.sink, report.collection);
                samples.push(vec![
                    sort.to_owned(),
                    place,
                    output::printable(key),
                    version(found),
                    version(expected),
                    fate.to_owned(),
                ]);
            }
        }
    }
    if !samples.is_empty() {
        output::table(&["sort", "where", "key", "version in the store", "in the log", "would be"], samples);
    }
    let (mended, dropped) = diffs.iter().fold((0, 0), |(m, d), diff| (m + diff.mended, d + diff.dropped));
    output::line(&format!(
        "{} records would be mended, {} dropped; nothing was written",
        grouped(mended),
        grouped(dropped)
    ));
}
