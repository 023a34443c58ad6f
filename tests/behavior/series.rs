//! Series: what every store promises that offers them. Points are told by moment and tags, a later event corrects one, and a
//! delete leaves what was measured.

use primal_core::sink::{Build, Builds, Projection};
use primal_core::table::Cell;
use primal_core::{Fault, Position, Primal, Timestamp, Version, header};

use crate::case::{Lacks, Verdict, cases};
use crate::runtime::Bench;
use crate::script::{Script, all, assert_holds};
use crate::stores::Store;

const SERIES: Projection = Projection::Series;

impl Store {
    /// A point at noon of a day in January, from a gate, as finely as the store has it.
    pub fn point(&self, day: u32, origin: &str, gate: &str, measured: &str) -> String {
        let (origin, gate) = (serde_json::Value::from(origin), serde_json::Value::from(gate));
        let fraction = if self.is_of_numbers() { "001" } else { "000001" };
        format!(
            r#"{{"at":"2013-01-{day:02}T12:00:00.{fraction}Z","origin":{origin},"gate, \"'=":{gate},{measured},"more":[1]}}"#
        )
    }
}

async fn points_are_told_by_moment_and_tags_and_the_last_event_counts(store: Store) -> Verdict {
    if !store.offers(SERIES) {
        return Err(Lacks("the projection `series`"));
    }
    if store.is_of_numbers() {
        return Err(Lacks("corrections"));
    }
    let target = store.target(SERIES);
    store.sink.prepare(&target).await.unwrap();
    let points = [
        store.point(1, "EWR", "1", r#""temp":1.5"#),
        store.point(1, "EWR", "2", r#""temp":-0.0,"n":9223372036854775807"#),
        store.point(2, "EWR", "1", r#""temp":1e-300,"ok":true"#),
        store.point(1, "JFK", "1", r#""n":-9223372036854775808"#),
        // Corrections, of one in the same batch and of one before it.
        store.point(1, "JFK", "1", r#""n":9007199254740993,"Ключ \"'":"é, =\" \\ \n ''""#),
        store.point(1, "EWR", "1", r#""temp":2.5"#),
        // With fewer fields: what it leaves out is gone.
        store.point(1, "EWR", "2", r#""temp":7.5"#),
    ];
    let events: Vec<_> = points.iter().map(|data| ("the key does not matter", Some(data.as_str()))).collect();
    let script = Script::of(&events);
    for range in [0..2, 2..7] {
        let batch = script.advancing(SERIES, range);
        let outcome = store.sink.write(&target, &batch).await.unwrap();
        assert_eq!((outcome.applied + outcome.stale) as usize, batch.events.len());
    }
    assert_holds(&*store.sink, &target, &script).await;
    assert_eq!(all(&*store.sink, &target).await.len(), 4);
    // Again, cut anew and late: nothing changes.
    for range in [0..7, 0..1, 3..4, 2..5] {
        assert_eq!(store.sink.write(&target, &script.batch(SERIES, range)).await.unwrap().applied, 0);
    }
    assert_holds(&*store.sink, &target, &script).await;
    assert_eq!(store.again().positions(&target).await.unwrap()[&0], Position(7));
    Ok(())
}

async fn the_parameters_id_and_time_stand_beside_points(store: Store) -> Verdict {
    if !store.offers(SERIES) {
        return Err(Lacks("the projection `series`"));
    }
    let target = store.target(SERIES);
    store.sink.prepare(&target).await.unwrap();
    let (a, b) = (store.point(1, "EWR", "1", r#""n":1"#), store.point(2, "EWR", "1", r#""n":1"#));
    let mut script = Script::of(&[("k", Some(&a))]);
    script.push("k", Some(&b), &[(header::PRIMAL, "0.6,0.2,1.5")]);
    store.sink.write(&target, &script.advancing(SERIES, 0..2)).await.unwrap();
    let found: Vec<_> = all(&*store.sink, &target).await.into_values().collect();
    let primal = Primal { alpha: 0.6, lambda: 0.2, k: 1.5 };
    assert_eq!(found.iter().map(|stored| stored.primal).collect::<Vec<_>>(), [Primal::STANDARD, primal]);
    let time = Timestamp::parse_rfc3339("2013-01-01T10:15:00.000001Z").unwrap();
    assert!(found.iter().all(|stored| stored.time == time), "{found:?}");
    // Among numbers only there is no place for it.
    let ids: Vec<_> = found.iter().map(|stored| stored.event_id.as_str()).collect();
    assert_eq!(ids, if store.is_of_numbers() { ["", ""] } else { ["e0", "e1"] });
    Ok(())
}

async fn tags_of_any_text_tell_points_apart(store: Store) -> Verdict {
    if !store.offers(SERIES) {
        return Err(Lacks("the projection `series`"));
    }
    let target = store.target(SERIES);
    store.sink.prepare(&target).await.unwrap();
    let odd = [
        "",
        " ",
        "a",
        "A",
        "a,b",
        "a=b",
        "a b",
        "a\\",
        "a\\,",
        "\"",
        "'",
        "\n",
        "ключ 鍵 🗝",
        "null",
        "1",
        "é",
        "e\u{301}",
    ];
    let mut points = Vec::new();
    for text in odd {
        points.push(store.point(1, text, "x", r#""n":1"#));
        points.push(store.point(1, "x", text, r#""n":2"#));
    }
    let events: Vec<_> = points.iter().map(|data| ("k", Some(data.as_str()))).collect();
    let script = Script::of(&events);
    store.sink.write(&target, &script.advancing(SERIES, 0..script.len())).await.unwrap();
    assert_holds(&*store.sink, &target, &script).await;
    let found = all(&*store.sink, &target).await;
    assert_eq!(found.len(), points.len());
    let one = found.values().find(|stored| stored.version == Version(2)).unwrap();
    let mut expected = vec![Cell::Null, Cell::Integer(2), Cell::Null];
    expected.extend((!store.is_of_numbers()).then_some(Cell::Null));
    assert_eq!(one.content, primal_core::sink::Content::Row(expected));
    Ok(())
}

async fn what_is_no_point_is_named_and_nothing_of_the_batch_is_written(store: Store) -> Verdict {
    if !store.offers(SERIES) {
        return Err(Lacks("the projection `series`"));
    }
    let target = store.target(SERIES);
    store.sink.prepare(&target).await.unwrap();
    let (good, bare) = (store.point(1, "EWR", "1", r#""n":1"#), store.point(1, "EWR", "1", r#""x":1"#));
    let script = Script::of(&[
        ("k", Some(&good)),
        ("k", Some(r#"{"n":1}"#)),
        ("k", Some(&bare)),
        ("k", Some(r#"{"at":"2013-01-01T00:00:00Z","origin":[],"n":1}"#)),
    ]);
    let error = store.sink.write(&target, &script.advancing(SERIES, 0..4)).await.unwrap_err();
    let Fault::Rejected(rejected) = &error.fault else { panic!("{error}") };
    assert_eq!(rejected.iter().map(|r| r.offset).collect::<Vec<_>>(), [1, 2, 3]);
    for (rejected, part) in rejected.iter().zip(["\"at\"", "none of the fields", "\"origin\""]) {
        assert!(rejected.reason.contains(part), "{}", rejected.reason);
    }
    assert!(all(&*store.sink, &target).await.is_empty());
    assert!(store.sink.positions(&target).await.unwrap().is_empty());
    Ok(())
}

async fn a_series_is_built_beside_and_swapped_in(store: Store) -> Verdict {
    let (true, Some(swap)) = (store.offers(SERIES), store.sink.swap()) else {
        return Err(Lacks("the projection `series` and a swap"));
    };
    let live = store.target(SERIES);
    store.sink.prepare(&live).await.unwrap();
    let (a, b) = (store.point(1, "EWR", "1", r#""n":1"#), store.point(1, "EWR", "1", r#""n":2"#));
    let script = Script::of(&[("k", Some(&a)), ("k", Some(&b))]);
    store.sink.write(&live, &script.advancing(SERIES, 0..1)).await.unwrap();
    let beside = live.with_build(Build::Beside(2));
    swap.begin(&beside, "plan").await.unwrap();
    store.sink.prepare(&beside).await.unwrap();
    assert!(!swap.swap(&beside, true).await.unwrap());
    store.sink.write(&beside, &script.advancing(SERIES, 0..1)).await.unwrap();
    assert!(swap.swap(&beside, true).await.unwrap());
    let builds = store.sink.builds("sink", &live.collection).await.unwrap();
    assert_eq!(builds, Builds { live: 2, previous: Some(1), rebuild: None });
    assert_eq!(store.sink.write(&live, &script.advancing(SERIES, 1..2)).await.unwrap_err().fault, Fault::Fenced);
    let live = live.with_build(Build::Live(2));
    store.sink.write(&live, &script.advancing(SERIES, 1..2)).await.unwrap();
    assert_holds(&*store.sink, &live, &script).await;
    Ok(())
}

async fn a_delete_leaves_points_and_verification_counts_them(store: Store) -> Verdict {
    if !store.offers(SERIES) {
        return Err(Lacks("the projection `series`"));
    }
    let points: Vec<_> = (0..90).map(|i| store.point(i % 20 + 1, "EWR", "1", &format!("\"n\":{i}"))).collect();
    let corrections = if store.is_of_numbers() { 70 } else { 0 };
    let bench = Bench::new(store, SERIES).await;
    let mut events: Vec<_> = points.iter().map(|data| ("k", Some(data.as_str()))).collect();
    events.insert(50, ("k", None));
    events.push(("k", None));
    bench.publish(&events).await;
    bench.run(primal_runtime::Options { batch_events: Some(7), ..Default::default() }).await;
    let report = bench.verify().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.events, report.verified, report.dead_letters), (92, 20, corrections));
    Ok(())
}

cases![
    points_are_told_by_moment_and_tags_and_the_last_event_counts,
    the_parameters_id_and_time_stand_beside_points,
    tags_of_any_text_tell_points_apart,
    what_is_no_point_is_named_and_nothing_of_the_batch_is_written,
    a_series_is_built_beside_and_swapped_in,
    a_delete_leaves_points_and_verification_counts_them,
];
