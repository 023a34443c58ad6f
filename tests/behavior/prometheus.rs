//! What Prometheus does that no other store does: it changes no sample, refuses what comes late, and keeps numbers only.

use std::sync::Arc;

use primal_core::Fault;
use primal_core::mapping::{Mapping, Series};
use primal_core::sink::Projection;
use primal_core::table::{Column, Kind, Table};
use primal_runtime::{Options, dead_letter};
use primal_tests::Server;

use crate::runtime::Bench;
use crate::script::{Script, all};
use crate::stores::{Store, settings};

const SERIES: Projection = Projection::Series;

async fn store() -> Store {
    Store::new(primal_registry::find("prometheus").unwrap()).await
}

fn offsets(error: &primal_core::SinkError) -> Vec<i64> {
    let Fault::Rejected(rejected) = &error.fault else { panic!("{error}") };
    rejected.iter().map(|rejected| rejected.offset).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_value_of_a_moment_stays_and_a_second_is_refused_wherever_it_comes() {
    let store = store().await;
    let target = store.target(SERIES);
    store.sink.prepare(&target).await.unwrap();
    let point = |day, value: &str| store.point(day, "EWR", "1", value);
    let points =
        [point(1, "\"n\":1"), point(2, "\"n\":2"), point(1, "\"n\":3"), point(3, "\"n\":4"), point(3, "\"n\":4")];
    let script = Script::of(&points.each_ref().map(|data| ("k", Some(data.as_str()))));
    store.sink.write(&target, &script.advancing(SERIES, 0..2)).await.unwrap();
    // In a later batch, beside a good event; and within one batch.
    let error = store.sink.write(&target, &script.advancing(SERIES, 2..5)).await.unwrap_err();
    assert_eq!(offsets(&error), [2, 4], "{error}");
    assert!(error.to_string().contains("changes none"), "{error}");
    // Nothing of that batch is there. An event that is, delivered again, is stale; an older one too.
    assert_eq!(all(&*store.sink, &target).await.len(), 2);
    let again = store.sink.write(&target, &script.batch(SERIES, 0..2)).await.unwrap();
    assert_eq!((again.applied, again.stale), (0, 2));
    let repaired = store.sink.write(&target, &script.batch(SERIES, 0..2).repairing()).await.unwrap();
    assert_eq!((repaired.applied, repaired.stale), (2, 0));
    let found = all(&*store.sink, &target).await;
    assert_eq!(found.values().map(|stored| stored.version.0).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sample_cannot_be_is_refused_by_offset_and_before_anything_is_made() {
    let store = store().await;
    let target = store.target(SERIES);
    let points = [
        store.point(1, "EWR", "1", r#""n":9007199254740993"#),
        store.point(1, "EWR", "2", r#""n":-9007199254740992,"ok":false"#),
        store.point(1, "EWR", "3", r#""n":1"#).replace(".001Z", ".000001Z"),
        store.point(1, "EWR", "4", r#""n":1"#).replace("2013-", "1913-"),
    ];
    let script = Script::of(&points.each_ref().map(|data| ("k", Some(data.as_str()))));
    let error = store.sink.write(&target, &script.advancing(SERIES, 0..4)).await.unwrap_err();
    assert_eq!(offsets(&error), [0, 2, 3], "{error}");
    store.sink.write(&target, &script.batch(SERIES, 1..2)).await.unwrap();
    assert_eq!(all(&*store.sink, &target).await.len(), 1);

    let with = |tags: &[&str], fields: &[(&str, Kind)]| {
        let columns = fields.iter().map(|(name, kind)| Column { name: (*name).to_owned(), kind: *kind }).collect();
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let series = Series { time: None, tags, fields: Arc::new(Table::of(columns)) };
        primal_core::Target { mapping: Arc::new(Mapping::Series(series)), ..target.clone() }
    };
    for (target, part) in [
        (with(&[], &[("s", Kind::Text)]), "\"s\" is no number"),
        (with(&["a b", "a-b"], &[("n", Kind::Integer)]), "\"a-b\" would be the label \"a_b\""),
        (with(&["__name"], &[("n", Kind::Integer)]), "\"__name\""),
        (with(&["_alpha"], &[("n", Kind::Integer)]), "\"_alpha\""),
        (with(&[], &[("n 1", Kind::Integer), ("n-1", Kind::Integer)]), "would both be the metric"),
        (with(&[], &[("_version", Kind::Integer)]), "would both be the metric"),
    ] {
        let error = store.sink.prepare(&target).await.unwrap_err();
        assert_eq!(error.fault, Fault::Incompatible, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_many_points_goes_series_by_series() {
    let store = store().await;
    let target = store.target(SERIES);
    let start = primal_core::Timestamp::parse_rfc3339("2013-01-01T00:00:00Z").unwrap();
    let point = |i: i64| {
        let at = primal_core::Timestamp(start.0 + i * 1_000_000);
        (format!(r#"{{"at":"{at}","origin":"o{}","n":{i}}}"#, i % 3), i)
    };
    let points: Vec<_> = (0..101_000).map(point).collect();
    let script = Script::of(&points.iter().map(|(data, _)| ("k", Some(data.as_str()))).collect::<Vec<_>>());
    for start in (0..points.len()).step_by(10_100) {
        store.sink.write(&target, &script.advancing(SERIES, start..start + 10_100)).await.unwrap();
    }
    let found = all(&*store.sink, &target).await;
    assert_eq!(found.len(), points.len());
    assert!(found.values().all(|stored| stored.digest().is_some()));
}

/// Publishes points of some minutes of a day to one server, and tells the reasons of its dead letters.
async fn late(window: &str, minutes: &[u32]) -> (Vec<String>, primal_audit::Report) {
    let name = window.to_owned();
    let server =
        tokio::task::spawn_blocking(move || Server::start_with("prometheus", &[("OUT_OF_ORDER_WINDOW", &name)]));
    let server = server.await.unwrap();
    let (url, spec) = (server.url(), primal_registry::find("prometheus").unwrap());
    let store = Store::at(spec, settings(&[("url", url)]));
    let health = store.sink.check().await.unwrap();
    assert_eq!(health.notes.iter().any(|note| note.contains("refused")), window == "0s", "{health:?}");
    let bench = Bench::new(store, SERIES).await;
    let point = |minute: &u32| {
        let (hour, minute) = (minute / 60, minute % 60);
        format!(r#"{{"at":"2013-01-05T{hour:02}:{minute:02}:00Z","origin":"EWR","n":{hour}}}"#)
    };
    let points: Vec<_> = minutes.iter().map(point).collect();
    bench.publish(&points.iter().map(|data| ("k", Some(data.as_str()))).collect::<Vec<_>>()).await;
    bench.run(Options { batch_events: Some(7), ..Options::default() }).await;
    let letters = dead_letter::read_all(&**bench.log(), "sink").await.unwrap();
    (letters.into_values().map(|letter| letter.reason).collect(), bench.verify().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_is_a_dead_letter_and_all_else_is_there() {
    // In order; then one that is a little late, behind a batch that was newer, and one by hours.
    let mut minutes: Vec<u32> = (0..44).map(|i| i * 4).collect();
    minutes.extend([163, 5]);
    minutes.extend((44..50).map(|i| i * 4));
    for (window, letters, part) in [("0s", 2, "out of"), ("30m", 1, "too old sample"), ("1d", 0, "")] {
        let (reasons, report) = late(window, &minutes).await;
        assert_eq!(reasons.len(), letters, "{window}: {reasons:?}");
        assert!(reasons.iter().all(|reason| reason.contains(part)), "{window}: {reasons:?}");
        assert!(report.is_clean() && report.verified == 52 - letters as u64, "{window}: {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_remote_write_says_how_it_would() {
    let options = [("PROMETHEUS_OPTIONS", "--web.enable-admin-api")];
    let server = tokio::task::spawn_blocking(move || Server::start_with("prometheus", &options)).await.unwrap();
    let spec = primal_registry::find("prometheus").unwrap();
    let store = Store::at(spec, settings(&[("url", server.url())]));
    let error = store.sink.check().await.unwrap_err();
    assert_eq!(error.fault, Fault::Misconfigured, "{error}");
    assert!(error.to_string().contains("--web.enable-remote-write-receiver"), "{error}");
    let target = store.target(SERIES);
    let point = store.point(1, "EWR", "1", "\"n\":1");
    let script = Script::of(&[("k", Some(&point))]);
    let error = store.sink.write(&target, &script.advancing(SERIES, 0..1)).await.unwrap_err();
    assert_eq!(error.fault, Fault::Misconfigured, "{error}");
}
