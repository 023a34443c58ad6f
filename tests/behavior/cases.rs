//! Writing: what every sink promises whatever is delivered, in whatever cuts, how often, and by whom.

use std::time::Duration;

use primal_core::sink::{Class, Projection};
use primal_core::{Fault, Position, Primal, Timestamp, header};

use crate::case::{Lacks, Verdict, cases};
use crate::script::{APPEND, Script, all, assert_holds, is_deleted};
use crate::stores::{Store, server, settings};

const A1: &str = r#"{"n":1,"s":"a"}"#;
const A2: &str = r#"{"n":2,"s":"b"}"#;

async fn an_empty_batch_moves_the_position(store: Store) -> Verdict {
    let target = store.document()?;
    store.sink.prepare(&target).await.unwrap();
    assert!(store.sink.positions(&target).await.unwrap().is_empty());
    let script = Script::of(&[("k", Some(A1))]);
    let batch = script.batch(target.projection, 0..0).advancing(None, Position(5));
    let outcome = store.sink.write(&target, &batch).await.unwrap();
    assert_eq!((outcome.applied, outcome.stale), (0, 0));
    assert_eq!(store.sink.positions(&target).await.unwrap()[&0], Position(5));
    Ok(())
}

async fn events_of_a_key_apply_in_order_in_every_projection(store: Store) -> Verdict {
    for projection in &store.keyed()? {
        let target = store.target(*projection);
        let target = primal_core::Target { collection: name(*projection), ..target };
        store.sink.prepare(&target).await.unwrap();
        let script = Script::of(&[("k", Some(A1)), ("other", Some(A1)), ("k", Some(A2)), ("other", None)]);
        for offset in 0..script.len() {
            let batch = script.advancing(*projection, offset..offset + 1);
            assert_eq!(store.sink.write(&target, &batch).await.unwrap().applied, 1);
        }
        assert_holds(&*store.sink, &target, &script).await;
        assert_eq!(store.again().positions(&target).await.unwrap()[&0], Position(4));
    }
    Ok(())
}

async fn the_same_batch_twice_changes_nothing(store: Store) -> Verdict {
    for projection in &store.keyed()? {
        let target = primal_core::Target { collection: name(*projection), ..store.target(*projection) };
        store.sink.prepare(&target).await.unwrap();
        let script = Script::of(&[("a", Some(A1)), ("b", Some(A2)), ("a", Some(A2))]);
        let batch = script.advancing(*projection, 0..3);
        store.sink.write(&target, &batch).await.unwrap();
        let again = store.sink.write(&target, &batch).await;
        assert_eq!(again.unwrap_err().fault, Fault::Fenced);
        let unmoving = store.sink.write(&target, &script.batch(*projection, 0..3)).await.unwrap();
        assert_eq!((unmoving.applied, unmoving.stale), (0, batch.events.len() as u64));
        assert_holds(&*store.sink, &target, &script).await;
    }
    Ok(())
}

async fn batches_cut_anew_and_delivered_late_lose_to_what_is_newer(store: Store) -> Verdict {
    let target = store.document()?;
    store.sink.prepare(&target).await.unwrap();
    let mut script = Script::default();
    for offset in 0..40 {
        let data = format!("{{\"n\":{offset}}}");
        script.push(&format!("k{}", offset % 7), (offset % 5 != 4).then_some(data.as_str()), &[]);
    }
    for range in [10..20, 5..30, 5..11, 0..40, 20..25, 0..8] {
        store.sink.write(&target, &script.batch(target.projection, range)).await.unwrap();
    }
    assert_holds(&*store.sink, &target, &script).await;
    Ok(())
}

async fn a_stale_put_does_not_bring_back_what_was_deleted(store: Store) -> Verdict {
    for projection in store.states()? {
        let target = primal_core::Target { collection: name(projection), ..store.target(projection) };
        store.sink.prepare(&target).await.unwrap();
        let script = Script::of(&[("k", Some(A1)), ("k", None), ("k", Some(A2))]);
        store.sink.write(&target, &script.batch(projection, 1..2)).await.unwrap();
        let late = store.sink.write(&target, &script.batch(projection, 0..1)).await.unwrap();
        assert_eq!((late.applied, late.stale), (0, 1));
        assert!(is_deleted(&all(&*store.sink, &target).await["k"]));
        store.sink.write(&target, &script.batch(projection, 2..3)).await.unwrap();
        assert_holds(&*store.sink, &target, &script).await;
    }
    Ok(())
}

async fn repair_writes_equal_versions_again_and_leaves_newer_ones(store: Store) -> Verdict {
    let target = store.document()?;
    store.sink.prepare(&target).await.unwrap();
    let script = Script::of(&[("a", Some(A1)), ("b", Some(A1)), ("b", Some(A2))]);
    store.sink.write(&target, &script.batch(target.projection, 0..3)).await.unwrap();
    let repaired = store.sink.write(&target, &script.batch(target.projection, 0..2).repairing()).await.unwrap();
    assert_eq!((repaired.applied, repaired.stale), (1, 1));
    assert_holds(&*store.sink, &target, &script).await;
    Ok(())
}

async fn repair_of_events_keeps_the_first_of_an_id(store: Store) -> Verdict {
    if !store.offers(Projection::Events) {
        return Err(Lacks("the projection `events`"));
    }
    let target = store.target(Projection::Events);
    store.sink.prepare(&target).await.unwrap();
    let mut script = Script::of(&[("k", Some(A1))]);
    script.push("k", Some(A2), &[(header::ID, "e0")]);
    store.sink.write(&target, &script.batch(Projection::Events, 0..2)).await.unwrap();
    for (range, applied) in [(1..2, 0), (0..1, 1), (0..2, 1)] {
        let batch = script.batch(Projection::Events, range).repairing();
        assert_eq!(store.sink.write(&target, &batch).await.unwrap().applied, applied);
        assert_holds(&*store.sink, &target, &script).await;
    }
    Ok(())
}

async fn every_event_is_one_record_where_the_projection_says_so(store: Store) -> Verdict {
    if !store.offers(Projection::Events) {
        return Err(Lacks("the projection `events`"));
    }
    let target = store.target(Projection::Events);
    store.sink.prepare(&target).await.unwrap();
    let mut script = Script::of(&[("k", Some(A1)), ("k", Some(A2)), ("k", None)]);
    script.push("k", Some(A1), &[APPEND]);
    script.push("k", Some(A1), &[APPEND]);
    store.sink.write(&target, &script.advancing(target.projection, 0..5)).await.unwrap();
    store.sink.write(&target, &script.batch(target.projection, 2..5)).await.unwrap();
    assert_holds(&*store.sink, &target, &script).await;
    assert_eq!(all(&*store.sink, &target).await.len(), 5);
    Ok(())
}

async fn odd_data_come_back_as_they_went(store: Store) -> Verdict {
    let deep = format!("{}1{}", "{\"a\":[".repeat(60), "]}".repeat(60));
    let large = format!("{{\"s\":\"{}\"}}", "x".repeat(900_000));
    let odd = [
        ("plain", "{}"),
        ("ключ 鍵 🗝", r#"{"s":"é\"\\\n\t\u0001 ünï \ud83d\ude00","j":{"ключ":"зна́чение"}}"#),
        ("quote'\"`\\;--%$1{}", r#"{"s":"'; drop table x; --","j":["\"", "\\"]}"#),
        (
            " spaces\tand\nlines ",
            r#" { "n" : 1 ,
                "j" : [ ] } "#,
        ),
        (
            "big",
            r#"{"n":9223372036854775807,"x":1e308,"j":[9007199254740993,123456789012345678901234567890,0.1,-0.0,1E5]}"#,
        ),
        ("nulls", r#"{"n":null,"x":null,"s":null,"j":null,"b":null,"at":null}"#),
        (
            "types",
            r#"{"n":-1,"x":10.357019999999999,"b":true,"s":"","at":"2013-01-01T05:15:00.123456-05:00","j":"text"}"#,
        ),
        ("extra", r#"{"n":1,"unknown":{"deep":[1,2,{"x":null}]},"_more":true}"#),
        ("twice", r#"{"n":1,"n":2}"#),
        ("names", r#"{"order":"select","Ключ 鍵":"","\"'`;--%$1\\{}":7,"_data":1,"":2,"N":3}"#),
        ("deep", &deep),
        ("large", &large),
    ];
    for projection in &store.keyed()? {
        let target = primal_core::Target { collection: name(*projection), ..store.target(*projection) };
        store.sink.prepare(&target).await.unwrap();
        let events: Vec<_> = odd.iter().map(|(key, data)| (*key, Some(*data))).collect();
        let script = Script::of(&events);
        store.sink.write(&target, &script.advancing(*projection, 0..script.len())).await.unwrap();
        assert_holds(&*store.sink, &target, &script).await;
    }
    Ok(())
}

async fn the_parameters_id_and_time_stand_beside_the_data(store: Store) -> Verdict {
    for projection in &store.keyed()? {
        let target = primal_core::Target { collection: name(*projection), ..store.target(*projection) };
        store.sink.prepare(&target).await.unwrap();
        let mut script = Script::of(&[("standard", Some(A1))]);
        script.push("own", Some(A1), &[(header::PRIMAL, "0.6,0.2,1.5")]);
        store.sink.write(&target, &script.batch(*projection, 0..2)).await.unwrap();
        let found = all(&*store.sink, &target).await;
        let record = |id: &str| found.values().find(|stored| stored.event_id == id).unwrap();
        assert_eq!(record("e0").primal, Primal::STANDARD);
        assert_eq!(record("e1").primal, Primal { alpha: 0.6, lambda: 0.2, k: 1.5 });
        assert_eq!(record("e1").time, Timestamp::parse_rfc3339("2013-01-01T10:15:00.000001Z").unwrap());
    }
    Ok(())
}

async fn of_two_writers_at_one_position_exactly_one_wins(store: Store) -> Verdict {
    if !matches!(store.spec.capability.class, Class::Transactional | Class::Versioned) {
        return Err(Lacks("a fence"));
    }
    let target = store.document()?;
    store.sink.prepare(&target).await.unwrap();
    let mut script = Script::default();
    for offset in 0..400 {
        script.push(&format!("k{}", offset % 50), Some(&format!("{{\"n\":{offset}}}")), &[]);
    }
    let other = store.again();
    for start in (0..400).step_by(20) {
        let (a, b) = (
            script.advancing(target.projection, start..start + 20),
            script.advancing(target.projection, start..start + 20),
        );
        let (a, b) = tokio::join!(store.sink.write(&target, &a), other.write(&target, &b));
        let won = [&a, &b].iter().filter(|result| result.is_ok()).count();
        assert_eq!(won, 1, "{a:?} {b:?}");
        let lost = a.err().or(b.err()).unwrap();
        assert_eq!(lost.fault, Fault::Fenced, "{lost}");
    }
    assert_holds(&*store.sink, &target, &script).await;
    Ok(())
}

async fn a_batch_from_a_wrong_position_leaves_nothing_behind(store: Store) -> Verdict {
    if !matches!(store.spec.capability.class, Class::Transactional | Class::Versioned) {
        return Err(Lacks("a fence"));
    }
    let target = store.document()?;
    store.sink.prepare(&target).await.unwrap();
    let script = Script::of(&[("a", Some(A1)), ("b", Some(A1)), ("c", Some(A1))]);
    store.sink.write(&target, &script.advancing(target.projection, 0..1)).await.unwrap();
    // The store was restored from a backup: its position is behind what the worker believes.
    let ahead = store.sink.write(&target, &script.advancing(target.projection, 2..3)).await.unwrap_err();
    assert_eq!(ahead.fault, Fault::Fenced);
    assert_eq!(all(&*store.sink, &target).await.len(), 1);
    assert_eq!(store.sink.positions(&target).await.unwrap()[&0], Position(1));
    Ok(())
}

async fn what_a_column_cannot_hold_is_named_and_nothing_of_the_batch_is_written(store: Store) -> Verdict {
    if !store.offers(Projection::Table) {
        return Err(Lacks("the projection `table`"));
    }
    let target = store.target(Projection::Table);
    store.sink.prepare(&target).await.unwrap();
    let script =
        Script::of(&[("a", Some(A1)), ("b", Some(r#"{"n":"text"}"#)), ("c", Some(r#"{"n":9223372036854775808}"#))]);
    let error = store.sink.write(&target, &script.advancing(target.projection, 0..3)).await.unwrap_err();
    let Fault::Rejected(rejected) = &error.fault else { panic!("{error}") };
    assert_eq!(rejected.iter().map(|r| r.offset).collect::<Vec<_>>(), [1, 2]);
    assert!(rejected[0].reason.contains("\"n\""), "{}", rejected[0].reason);
    assert!(all(&*store.sink, &target).await.is_empty());
    assert!(store.sink.positions(&target).await.unwrap().is_empty());
    Ok(())
}

async fn a_store_that_is_down_says_so_soon(store: Store) -> Verdict {
    let down = match store.spec.name {
        "clickhouse" | "elasticsearch" | "opensearch" | "prometheus" => {
            settings(&[("url", "http://me:hunter2@127.0.0.1:1".to_owned())])
        }
        "qdrant" => settings(&[("url", "http://127.0.0.1:1".to_owned()), ("api_key", "hunter2".to_owned())]),
        "influxdb" => settings(&[("url", "http://me:hunter2@127.0.0.1:1".to_owned()), ("database", "db".to_owned())]),
        "postgres" | "timescaledb" => settings(&[("url", "postgres://me:hunter2@127.0.0.1:1/db".to_owned())]),
        "redis" => settings(&[("url", "redis://me:hunter2@127.0.0.1:1/".to_owned())]),
        "mongodb" => settings(&[("url", "mongodb://me:hunter2@127.0.0.1:1/".to_owned())]),
        "neo4j" => settings(&[("url", "http://me:hunter2@127.0.0.1:1/".to_owned())]),
        "sqlite" => settings(&[("path", "/proc/none/hub.sqlite".to_owned())]),
        _ => return Err(Lacks("anything that can be down")),
    };
    let sink = (store.spec.build)(&down).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), sink.check()).await;
    let error = answer.expect("it says so within 10 s").unwrap_err();
    let expected = if store.spec.name == "sqlite" { Fault::Misconfigured } else { Fault::Unavailable };
    assert_eq!(error.fault, expected, "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    Ok(())
}

async fn wrong_credentials_are_called_that(store: Store) -> Verdict {
    let wrong = match store.spec.name {
        "postgres" | "timescaledb" => server("postgres").await.replace("//postgres@", "//nobody:hunter2@"),
        "redis" => server("redis").await.replace("//", "//nobody:hunter2@"),
        "mongodb" => server("ferretdb").await.replace("//", "//nobody:hunter2@"),
        "neo4j" => server("neo4j").await.replace("//neo4j:primalcore@", "//nobody:hunter2@"),
        "influxdb" => server("influxdb").await.replace("//hub:primalcore@", "//nobody:hunter2@"),
        "qdrant" => server("qdrant").await,
        _ => return Err(Lacks("credentials")),
    };
    let mut pairs = vec![("url", wrong)];
    if store.spec.name == "influxdb" {
        pairs.push(("database", "db".to_owned()));
    }
    if store.spec.name == "qdrant" {
        pairs.push(("api_key", "hunter2".to_owned()));
    }
    let sink = (store.spec.build)(&settings(&pairs)).unwrap();
    let error = sink.check().await.unwrap_err();
    assert_eq!(error.fault, Fault::Unauthorized, "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    Ok(())
}

async fn wrong_settings_are_found_without_a_network(store: Store) -> Verdict {
    let unknown = settings(&[("urll", "x".to_owned())]);
    let error = (store.spec.build)(&unknown).err().expect("an unknown setting is refused").to_string();
    assert!(error.contains("urll") && error.starts_with("test:1: sinks.sink"), "{error}");
    let needed = || store.spec.options.iter().filter(|option| option.default.is_none()).map(|option| option.name);
    for missing in needed() {
        let others = needed().filter(|name| *name != missing).map(|name| (name, "http://127.0.0.1:1".to_owned()));
        let others: Vec<_> = others.collect();
        let error = (store.spec.build)(&settings(&others)).err().expect("a missing setting is refused").to_string();
        assert!(error.contains(missing), "{error}");
    }
    Ok(())
}

async fn every_documented_setting_is_taken_and_every_store_answers_a_check(store: Store) -> Verdict {
    let health = store.sink.check().await.unwrap();
    assert!(!health.version.is_empty());
    let documented: Vec<_> = store.spec.options.iter().map(|option| option.name).collect();
    for (name, _) in store.settings.members().unwrap() {
        assert!(documented.contains(&name.as_str()), "{name} is not documented");
    }
    Ok(())
}

pub fn name(projection: Projection) -> primal_core::Collection {
    primal_core::Collection::new(&format!("as-{}", projection.as_str())).unwrap()
}

cases![
    an_empty_batch_moves_the_position,
    events_of_a_key_apply_in_order_in_every_projection,
    the_same_batch_twice_changes_nothing,
    batches_cut_anew_and_delivered_late_lose_to_what_is_newer,
    a_stale_put_does_not_bring_back_what_was_deleted,
    repair_writes_equal_versions_again_and_leaves_newer_ones,
    repair_of_events_keeps_the_first_of_an_id,
    every_event_is_one_record_where_the_projection_says_so,
    odd_data_come_back_as_they_went,
    the_parameters_id_and_time_stand_beside_the_data,
    of_two_writers_at_one_position_exactly_one_wins,
    a_batch_from_a_wrong_position_leaves_nothing_behind,
    what_a_column_cannot_hold_is_named_and_nothing_of_the_batch_is_written,
    a_store_that_is_down_says_so_soon,
    wrong_credentials_are_called_that,
    wrong_settings_are_found_without_a_network,
    every_documented_setting_is_taken_and_every_store_answers_a_check,
];
