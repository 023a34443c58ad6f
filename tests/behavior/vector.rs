//! Vectors: what every store promises that offers them. It is what all stores promise of records with keys, with payloads
//! that hold a vector: that is kept as one, and all else of the payload comes back as it went.

use std::collections::BTreeMap;

use primal_core::sink::{Build, Builds, Class, Projection, Rebuild};
use primal_core::{Fault, Position, Primal, Target, Timestamp, header};
use primal_runtime::{Options, dead_letter};

use crate::case::{Lacks, Verdict, cases};
use crate::runtime::Bench;
use crate::script::{Script, all, assert_holds, is_deleted};
use crate::stores::Store;

const VECTOR: Projection = Projection::Vector;

/// A payload with a vector, whose last member is given.
fn with(last: &str) -> String {
    format!(r#"{{"n":1,"v":[0.25,-1,1e-3],{last}}}"#)
}

/// An empty target that is prepared.
async fn prepared(store: &Store) -> Result<Target, Lacks> {
    if !store.offers(VECTOR) {
        return Err(Lacks("the projection `vector`"));
    }
    let target = store.target(VECTOR);
    store.sink.prepare(&target).await.unwrap();
    Ok(target)
}

/// Two states of some keys.
fn states(events: &[(&str, Option<i32>)]) -> Script {
    let events: Vec<_> = events.iter().map(|(key, n)| (*key, n.map(|n| with(&format!("\"m\":{n}"))))).collect();
    let events: Vec<_> = events.iter().map(|(key, data)| (*key, data.as_deref())).collect();
    Script::of(&events)
}

async fn vectors_apply_in_order_and_again_changes_nothing(store: Store) -> Verdict {
    let target = prepared(&store).await?;
    let script =
        states(&[("k", Some(1)), ("other", Some(1)), ("k", Some(2)), ("other", None), ("k", None), ("k", Some(3))]);
    for offset in 0..4 {
        let batch = script.advancing(VECTOR, offset..offset + 1);
        assert_eq!(store.sink.write(&target, &batch).await.unwrap().applied, 1);
    }
    let batch = script.advancing(VECTOR, 4..6);
    store.sink.write(&target, &batch).await.unwrap();
    assert_holds(&*store.sink, &target, &script).await;
    assert_eq!(store.again().positions(&target).await.unwrap()[&0], Position(6));
    assert_eq!(store.sink.write(&target, &batch).await.unwrap_err().fault, Fault::Fenced);
    let unmoving = store.sink.write(&target, &script.batch(VECTOR, 0..6)).await.unwrap();
    assert_eq!((unmoving.applied, unmoving.stale), (0, 2));
    assert_holds(&*store.sink, &target, &script).await;
    // An empty batch moves the position, of another partition too.
    let empty = primal_core::Batch { partition: 1, ..script.batch(VECTOR, 0..0).advancing(None, Position(7)) };
    store.sink.write(&target, &empty).await.unwrap();
    let positions: Vec<_> = store.sink.positions(&target).await.unwrap().into_iter().collect();
    assert_eq!(positions, [(0, Position(6)), (1, Position(7))]);
    Ok(())
}

async fn vectors_cut_anew_and_delivered_late_lose_to_what_is_newer(store: Store) -> Verdict {
    let target = prepared(&store).await?;
    let events: Vec<_> = (0..40).map(|i| (format!("k{}", i % 7), (i % 5 != 4).then_some(i))).collect();
    let events: Vec<_> = events.iter().map(|(key, n)| (key.as_str(), *n)).collect();
    let script = states(&events);
    for range in [10..20, 5..30, 5..11, 0..40, 20..25, 0..8] {
        store.sink.write(&target, &script.batch(VECTOR, range)).await.unwrap();
    }
    assert_holds(&*store.sink, &target, &script).await;
    // What an attempt left there before the position moved, delivered again in another cut: from a position of its own.
    let again = primal_core::Collection::new("again").unwrap();
    let again = Target { collection: again, ..target };
    store.sink.prepare(&again).await.unwrap();
    let first = states(&events[..25]);
    store.sink.write(&again, &first.batch(VECTOR, 0..25)).await.unwrap();
    store.sink.write(&again, &script.advancing(VECTOR, 0..10)).await.unwrap();
    assert_holds(&*store.sink, &again, &first).await;
    store.sink.write(&again, &script.advancing(VECTOR, 10..40)).await.unwrap();
    assert_holds(&*store.sink, &again, &script).await;
    Ok(())
}

async fn a_late_put_does_not_bring_back_a_deleted_vector(store: Store) -> Verdict {
    let target = prepared(&store).await?;
    let script = states(&[("k", Some(1)), ("k", None), ("k", Some(2))]);
    store.sink.write(&target, &script.batch(VECTOR, 1..2)).await.unwrap();
    let late = store.sink.write(&target, &script.batch(VECTOR, 0..1)).await.unwrap();
    assert_eq!((late.applied, late.stale), (0, 1));
    assert!(is_deleted(&all(&*store.sink, &target).await["k"]));
    store.sink.write(&target, &script.batch(VECTOR, 2..3)).await.unwrap();
    assert_holds(&*store.sink, &target, &script).await;
    Ok(())
}

async fn repair_writes_vectors_of_equal_versions_again_and_leaves_newer_ones(store: Store) -> Verdict {
    let target = prepared(&store).await?;
    let script = states(&[("a", Some(1)), ("b", Some(1)), ("b", Some(2))]);
    store.sink.write(&target, &script.batch(VECTOR, 0..3)).await.unwrap();
    let repaired = store.sink.write(&target, &script.batch(VECTOR, 0..2).repairing()).await.unwrap();
    assert_eq!((repaired.applied, repaired.stale), (1, 1));
    assert_holds(&*store.sink, &target, &script).await;
    Ok(())
}

async fn what_stands_beside_vectors_comes_back_as_it_went(store: Store) -> Verdict {
    let target = prepared(&store).await?;
    let deep = with(&format!("\"deep\":{}1{}", "{\"a\":[".repeat(60), "]}".repeat(60)));
    let large = with(&format!("\"s\":\"{}\"", "x".repeat(900_000)));
    let odd = [
        ("plain", r#"{"v":[1,2,3]}"#.to_owned()),
        ("ключ 鍵 🗝", with(r#""s":"é\"\\\n\t\u0001 ünï \ud83d\ude00","j":{"ключ":"зна́чение"}"#)),
        ("quote'\"`\\;--%$1{}", with(r#""s":"'; drop table x; --","j":["\"", "\\"]"#)),
        (
            " spaces\tand\nlines ",
            r#" { "v" : [ 1 , 2 ,
                3 ] , "j" : [ ] } "#
                .to_owned(),
        ),
        (
            "big",
            with(
                r#""i":9223372036854775807,"x":1e308,"j":[9007199254740993,123456789012345678901234567890,0.1,-0.0,1E5]"#,
            ),
        ),
        ("unsigned", with(r#""i":18446744073709551615"#)),
        ("almost", with(r#""x":10.357019999999999,"y":[0.1,0.10000000000000001,9876543210987650.0,1e22,5e-324]"#)),
        ("nulls", with(r#""x":null,"j":[null,{"y":null}]"#)),
        ("twice", r#"{"v":[9],"n":1,"v":[1,2,3],"n":2}"#.to_owned()),
        ("names", with(r#""data":1,"_json":"2","_key":"3","_version":4,"_deleted":true,"":5,"a.b[]":6,"v ":[7]"#)),
        ("zero", r#"{"v":[0,0,0]}"#.to_owned()),
        ("deep", deep),
        ("large", large),
    ];
    let events: Vec<_> = odd.iter().map(|(key, data)| (*key, Some(data.as_str()))).collect();
    let script = Script::of(&events);
    store.sink.write(&target, &script.advancing(VECTOR, 0..script.len())).await.unwrap();
    assert_holds(&*store.sink, &target, &script).await;
    let found = all(&*store.sink, &target).await;
    let plain = primal_core::Digest::of_json("{}");
    assert_eq!(found["plain"].digest(), Some(plain), "the vector is not kept a second time");
    Ok(())
}

async fn the_parameters_id_and_time_stand_beside_vectors(store: Store) -> Verdict {
    let target = prepared(&store).await?;
    let data = with("\"m\":1");
    let mut script = Script::of(&[("standard", Some(&data))]);
    script.push("own", Some(&data), &[(header::PRIMAL, "0.6,0.30000000000000004,1e-300")]);
    script.push("deleted", None, &[(header::PRIMAL, "0.6,0.2,1.5")]);
    store.sink.write(&target, &script.batch(VECTOR, 0..3)).await.unwrap();
    let found: BTreeMap<_, _> =
        all(&*store.sink, &target).await.into_values().map(|s| (s.event_id.clone(), s)).collect();
    assert_eq!(found["e0"].primal, Primal::STANDARD);
    assert_eq!(found["e1"].primal, Primal { alpha: 0.6, lambda: 0.30000000000000004, k: 1e-300 });
    assert_eq!(found["e2"].primal, Primal { alpha: 0.6, lambda: 0.2, k: 1.5 });
    let time = Timestamp::parse_rfc3339("2013-01-01T10:15:00.000001Z").unwrap();
    assert!(found.values().all(|stored| stored.time == time), "{found:?}");
    Ok(())
}

async fn of_two_writers_of_vectors_at_one_position_exactly_one_wins(store: Store) -> Verdict {
    let target = prepared(&store).await?;
    if !matches!(store.spec.capability.class, Class::Transactional | Class::Versioned) {
        return Err(Lacks("a fence"));
    }
    let events: Vec<_> = (0..400).map(|i| (format!("k{}", i % 50), Some(i))).collect();
    let events: Vec<_> = events.iter().map(|(key, n)| (key.as_str(), *n)).collect();
    let (script, other) = (states(&events), store.again());
    for start in (0..400).step_by(20) {
        let (a, b) = (script.advancing(VECTOR, start..start + 20), script.advancing(VECTOR, start..start + 20));
        let (a, b) = tokio::join!(store.sink.write(&target, &a), other.write(&target, &b));
        let won = [&a, &b].iter().filter(|result| result.is_ok()).count();
        assert_eq!(won, 1, "{a:?} {b:?}");
        let lost = a.err().or(b.err()).unwrap();
        assert_eq!(lost.fault, Fault::Fenced, "{lost}");
    }
    assert_holds(&*store.sink, &target, &script).await;
    Ok(())
}

async fn vectors_from_a_wrong_position_leave_nothing_behind(store: Store) -> Verdict {
    let target = prepared(&store).await?;
    if !matches!(store.spec.capability.class, Class::Transactional | Class::Versioned) {
        return Err(Lacks("a fence"));
    }
    let script = states(&[("a", Some(1)), ("b", Some(1)), ("c", Some(1))]);
    store.sink.write(&target, &script.advancing(VECTOR, 0..1)).await.unwrap();
    // The store was restored from a backup: its position is behind what the worker believes; or it is ahead.
    let from_nothing = script.batch(VECTOR, 1..2).advancing(None, Position(2));
    for batch in [script.advancing(VECTOR, 2..3), from_nothing] {
        let error = store.sink.write(&target, &batch).await.unwrap_err();
        assert_eq!(error.fault, Fault::Fenced, "{error}");
        assert_eq!(all(&*store.sink, &target).await.len(), 1);
        assert_eq!(store.sink.positions(&target).await.unwrap()[&0], Position(1));
    }
    Ok(())
}

async fn what_is_no_vector_is_named_and_nothing_of_the_batch_is_written(store: Store) -> Verdict {
    let target = prepared(&store).await?;
    let good = with("\"m\":1");
    let script = Script::of(&[
        ("a", Some(&good)),
        ("b", Some(r#"{"v":[1,2]}"#)),
        ("c", Some(r#"{"n":1}"#)),
        ("d", Some(r#"{"v":"1,2,3"}"#)),
        ("e", Some(r#"{"v":[1,2,1e39]}"#)),
        ("f", Some(&good)),
    ]);
    let error = store.sink.write(&target, &script.advancing(VECTOR, 0..6)).await.unwrap_err();
    let Fault::Rejected(rejected) = &error.fault else { panic!("{error}") };
    assert_eq!(rejected.iter().map(|r| r.offset).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for (rejected, part) in rejected.iter().zip(["2 dimensions, expected 3", "missing", "no list", "1e39"]) {
        assert!(rejected.reason.contains(part) && rejected.reason.contains("\"v\""), "{}", rejected.reason);
    }
    assert!(all(&*store.sink, &target).await.is_empty());
    assert!(store.sink.positions(&target).await.unwrap().is_empty());
    Ok(())
}

async fn vectors_are_built_beside_swapped_in_and_rolled_back(store: Store) -> Verdict {
    let live = prepared(&store).await?;
    let (sink, swap) = (&store.sink, store.sink.swap().ok_or(Lacks("a swap"))?);
    let script = states(&[("a", Some(1)), ("b", Some(1)), ("a", None), ("c", Some(1))]);
    sink.write(&live, &script.advancing(VECTOR, 0..3)).await.unwrap();
    let beside = live.with_build(Build::Beside(2));
    swap.begin(&beside, "the plan").await.unwrap();
    sink.prepare(&beside).await.unwrap();
    let rebuild = Some(Rebuild { generation: 2, plan: "the plan".into() });
    assert_eq!(sink.builds("sink", &live.collection).await.unwrap(), Builds { live: 1, previous: None, rebuild });

    // Without a position, and behind the live one, it may not be swapped in; level with it, it may.
    assert!(!swap.swap(&beside, true).await.unwrap());
    sink.write(&beside, &script.advancing(VECTOR, 0..2)).await.unwrap();
    assert!(!swap.swap(&beside, true).await.unwrap());
    sink.write(&beside, &script.advancing(VECTOR, 2..3)).await.unwrap();
    assert!(swap.swap(&beside, true).await.unwrap());
    let builds = sink.builds("sink", &live.collection).await.unwrap();
    assert_eq!(builds, Builds { live: 2, previous: Some(1), rebuild: None });

    // A worker that missed the swap is fenced, and goes on with the new generation from its own position.
    let late = sink.write(&live, &script.advancing(VECTOR, 3..4)).await.unwrap_err();
    assert_eq!(late.fault, Fault::Fenced, "{late}");
    let second = live.with_build(Build::Live(2));
    assert_eq!(sink.positions(&second).await.unwrap()[&0], Position(3));
    sink.write(&second, &script.advancing(VECTOR, 3..4)).await.unwrap();
    assert_holds(&**sink, &second, &script).await;

    // Back: the old generation is as it was, with its own position.
    assert!(swap.swap(&live.with_build(Build::Beside(1)), false).await.unwrap());
    let builds = sink.builds("sink", &live.collection).await.unwrap();
    assert_eq!(builds, Builds { live: 1, previous: Some(2), rebuild: None });
    assert_eq!(sink.positions(&live).await.unwrap()[&0], Position(3));
    assert!(!all(&**sink, &live).await.contains_key("c"));
    sink.write(&live, &script.advancing(VECTOR, 3..4)).await.unwrap();
    assert_holds(&**sink, &live, &script).await;

    // The next swap keeps one previous generation, not two.
    let third = live.with_build(Build::Beside(3));
    swap.begin(&third, "again").await.unwrap();
    sink.prepare(&third).await.unwrap();
    sink.write(&third, &script.advancing(VECTOR, 0..4)).await.unwrap();
    assert!(swap.swap(&third, true).await.unwrap());
    assert!(sink.positions(&live.with_build(Build::Beside(2))).await.unwrap().is_empty());
    assert_holds(&**sink, &live.with_build(Build::Live(3)), &script).await;
    Ok(())
}

async fn a_discarded_build_of_vectors_leaves_nothing(store: Store) -> Verdict {
    let live = prepared(&store).await?;
    let swap = store.sink.swap().ok_or(Lacks("a swap"))?;
    let script = states(&[("a", Some(1))]);
    for build in [Build::Beside(2), Build::Named("copy".into())] {
        let other = live.with_build(build);
        if matches!(other.build, Build::Beside(_)) {
            swap.begin(&other, "plan").await.unwrap();
        }
        store.sink.prepare(&other).await.unwrap();
        store.sink.write(&other, &script.advancing(VECTOR, 0..1)).await.unwrap();
        assert_holds(&*store.sink, &other, &script).await;
        swap.discard(&other).await.unwrap();
        swap.discard(&other).await.unwrap();
        assert!(store.sink.positions(&other).await.unwrap().is_empty());
        store.sink.prepare(&other).await.unwrap();
        assert!(all(&*store.sink, &other).await.is_empty());
        swap.discard(&other).await.unwrap();
    }
    assert_eq!(store.sink.builds("sink", &live.collection).await.unwrap(), Builds { live: 1, ..Builds::default() });
    assert!(all(&*store.sink, &live).await.is_empty());
    Ok(())
}

async fn vectors_agree_with_the_log_after_poison_and_workers_that_are_cut_off(store: Store) -> Verdict {
    prepared(&store).await?;
    let bench = Bench::new(store, VECTOR).await;
    let mut events: Vec<_> =
        (0..400).map(|i| (format!("k{}", i % 37), (i % 11 != 10).then(|| with(&format!("\"m\":{i}"))))).collect();
    events.insert(77, ("bad".to_owned(), Some(with("\"m\":1"))));
    events.insert(150, ("bad".to_owned(), Some(r#"{"v":[1]}"#.to_owned())));
    events.insert(300, ("bad".to_owned(), Some(with("\"m\":2"))));
    let events: Vec<_> = events.iter().map(|(key, data)| (key.as_str(), data.as_deref())).collect();
    bench.publish(&events).await;
    bench.cut_off(5).await;
    bench.run(Options { batch_events: Some(7), ..Options::default() }).await;
    let letters = dead_letter::read_all(&*bench.log, "sink").await.unwrap();
    let kinds: Vec<_> = letters.values().map(|letter| (letter.key.as_str(), letter.kind)).collect();
    use dead_letter::Kind::{Parked, Rejected};
    assert_eq!(kinds, [("bad", Rejected), ("bad", Parked)]);
    let report = bench.verify().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.events, report.verified, report.dead_letters), (403, 38, 2));
    Ok(())
}

cases![
    vectors_apply_in_order_and_again_changes_nothing,
    vectors_cut_anew_and_delivered_late_lose_to_what_is_newer,
    a_late_put_does_not_bring_back_a_deleted_vector,
    repair_writes_vectors_of_equal_versions_again_and_leaves_newer_ones,
    what_stands_beside_vectors_comes_back_as_it_went,
    the_parameters_id_and_time_stand_beside_vectors,
    of_two_writers_of_vectors_at_one_position_exactly_one_wins,
    vectors_from_a_wrong_position_leave_nothing_behind,
    what_is_no_vector_is_named_and_nothing_of_the_batch_is_written,
    vectors_are_built_beside_swapped_in_and_rolled_back,
    a_discarded_build_of_vectors_leaves_nothing,
    vectors_agree_with_the_log_after_poison_and_workers_that_are_cut_off,
];
