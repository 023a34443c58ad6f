//! What is InfluxDB's own: names that it keeps for itself, types that a measurement has for ever, what its retention takes
//! away, and the API of version 2, of which only the requests are checked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use primal_core::mapping::{Mapping, Series};
use primal_core::sink::Projection;
use primal_core::table::{Column, Kind, Table};
use primal_core::{Fault, Target};
use primal_runtime::{Options, dead_letter};

use crate::runtime::Bench;
use crate::script::{Script, all};
use crate::stores::{Store, server, settings};

const SERIES: Projection = Projection::Series;

async fn store() -> Store {
    Store::new(primal_registry::find("influxdb").unwrap()).await
}

fn with(target: &Target, tags: &[&str], fields: &[(&str, Kind)]) -> Target {
    let columns = fields.iter().map(|(name, kind)| Column { name: (*name).to_owned(), kind: *kind }).collect();
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    let series = Series { time: Some("at".into()), tags, fields: std::sync::Arc::new(Table::of(columns)) };
    Target { mapping: std::sync::Arc::new(Mapping::Series(series)), ..target.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_its_own_and_a_changed_type_stop_before_anything_is_written() {
    let store = store().await;
    let target = store.target(SERIES);
    for other in [with(&target, &["time"], &[("n", Kind::Integer)]), with(&target, &[], &[("_value", Kind::Integer)])] {
        let error = store.sink.prepare(&other).await.unwrap_err();
        assert_eq!(error.fault, Fault::Incompatible, "{error}");
        assert!(error.to_string().contains("keeps that name for itself"), "{error}");
    }
    store.sink.prepare(&target).await.unwrap();
    let point = store.point(1, "EWR", "1", "\"n\":1,\"temp\":2.0");
    let script = Script::of(&[("k", Some(&point))]);
    store.sink.write(&target, &script.advancing(SERIES, 0..1)).await.unwrap();
    let tags = ["origin", "gate, \"'="];
    for (other, part) in [
        (with(&target, &tags, &[("n", Kind::Number)]), "\"n\" as a field of type integer, expected float"),
        (with(&target, &["n"], &[("temp", Kind::Number)]), "\"n\" as a field of type integer, expected tag"),
    ] {
        let error = store.sink.prepare(&other).await.unwrap_err();
        assert_eq!(error.fault, Fault::Incompatible, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    // Who writes without asking first is told by the server.
    let other = with(&target, &tags, &[("n", Kind::Number)]);
    let error = store.sink.write(&other, &script.batch(SERIES, 0..1).repairing()).await.unwrap_err();
    assert_eq!(error.fault, Fault::Incompatible, "{error}");
    assert_eq!(all(&*store.sink, &target).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_gives_each_point_once_where_a_page_ends_between_points_of_one_moment() {
    let store = store().await;
    let target = store.target(SERIES);
    store.sink.prepare(&target).await.unwrap();
    let points: Vec<_> = (0..24_000)
        .map(|i| store.point(if i < 18_000 { 1 } else { i % 3 + 1 }, &format!("o{i}"), "1", "\"n\":1"))
        .collect();
    let script = Script::of(&points.iter().map(|data| ("k", Some(data.as_str()))).collect::<Vec<_>>());
    for start in (0..points.len()).step_by(8_000) {
        store.sink.write(&target, &script.batch(SERIES, start..start + 8_000)).await.unwrap();
    }
    assert_eq!(all(&*store.sink, &target).await.len(), 24_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_field_or_its_clock_cannot_hold_is_refused_by_offset() {
    let store = store().await;
    let target = store.target(SERIES);
    store.sink.prepare(&target).await.unwrap();
    let long = format!("\"Ключ \\\"'\":\"{}\"", "x".repeat(64 * 1024 + 1));
    let points = [
        store.point(1, "EWR", "1", &long),
        store.point(1, "EWR", "2", "\"n\":1"),
        store.point(1, "EWR", "3", "\"n\":1").replace("2013-", "2313-"),
    ];
    let script = Script::of(&points.each_ref().map(|data| ("k", Some(data.as_str()))));
    let error = store.sink.write(&target, &script.advancing(SERIES, 0..3)).await.unwrap_err();
    let Fault::Rejected(rejected) = &error.fault else { panic!("{error}") };
    assert_eq!(rejected.iter().map(|rejected| rejected.offset).collect::<Vec<_>>(), [0, 2]);
    assert!(rejected[0].reason.contains("65537 bytes") && rejected[1].reason.contains("1677"), "{error}");
    assert!(all(&*store.sink, &target).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_the_retention_has_no_place_for_are_dead_letters_and_the_position_stays() {
    let url = server("influxdb").await;
    let database = format!("short_{}", std::process::id());
    let create = format!("q=CREATE DATABASE {database} WITH DURATION 100d");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let request = primal_tests::http().post(format!("{url}/query")).header(form.0, form.1).body(create);
    assert!(request.send().await.unwrap().status().is_success());
    let spec = primal_registry::find("influxdb").unwrap();
    let bench = Bench::new(Store::at(spec, settings(&[("url", url), ("database", database)])), SERIES).await;
    let now = primal_core::Env::system().clock.now().to_string();
    let fresh = format!(r#"{{"at":{now:?},"n":1}}"#);
    let old = r#"{"at":"2013-01-01T00:00:00Z","n":2}"#;
    bench.publish(&[("k", Some(old)), ("k", Some(&fresh)), ("k", Some(old))]).await;
    bench.run(Options::default()).await;
    let letters = dead_letter::read_all(&**bench.log(), "sink").await.unwrap();
    assert_eq!(letters.len(), 2);
    assert!(letters.values().all(|letter| letter.reason.contains("retention policy")));
    let report = bench.verify().await;
    assert!(report.is_clean() && report.verified == 1, "{report:?}");
}

/// Answers requests in turn, and gives what they were.
fn stub(answers: &'static [(&'static str, &'static str)]) -> (String, std::thread::JoinHandle<Vec<(String, String)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = move || {
        let mut seen = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
                head += &line;
            }
            let mut sent = vec![0; length];
            reader.read_exact(&mut sent).unwrap();
            seen.push((head, String::from_utf8(sent).unwrap()));
            let length = body.len();
            write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        }
        seen
    };
    (url, std::thread::spawn(serve))
}

/// Per the reference of `/api/v2/write` and `/api/v2/delete` (<https://docs.influxdata.com/influxdb/v2/api/>).
#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_it_speaks_the_api_of_version_2() {
    const NONE: &str = r#"{"results":[{"statement_id":0}]}"#;
    const HELD: &str = r#"{"results":[{"series":[{"columns":["time","temp","origin"],
        "values":[[1357041600000001000,1.5,"EWR"]]}]}]}"#;
    let (url, served) = stub(&[
        ("200 OK", NONE),
        ("200 OK", HELD),
        ("204 No Content", ""),
        ("204 No Content", ""),
        ("204 No Content", ""),
    ]);
    let pairs = [("url", &*url), ("database", "my bucket"), ("org", "acme"), ("token", "secret")];
    let pairs = pairs.map(|(name, value)| (name, value.to_string()));
    let sink = (primal_registry::find("influxdb").unwrap().build)(&settings(&pairs)).unwrap();
    let target = with(&store().await.target(SERIES), &["origin"], &[("temp", Kind::Number), ("n", Kind::Integer)]);
    let script = Script::of(&[("k", Some(r#"{"at":"2013-01-01T12:00:00.000001Z","origin":"EWR","n":7}"#))]);
    sink.write(&target, &script.advancing(SERIES, 0..1)).await.unwrap();
    let seen = served.join().unwrap();
    assert!(seen.iter().all(|(head, _)| head.contains("authorization: Token secret")), "{seen:?}");
    let (delete, body) = &seen[2];
    assert!(delete.starts_with("POST /api/v2/delete?org=acme&bucket=my%20bucket HTTP/1.1"), "{delete}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["predicate"], r#"_measurement="my-flights" AND origin="EWR""#.replace("origin", "\"origin\""));
    assert_eq!(
        (&body["start"], &body["stop"]),
        (&"2013-01-01T12:00:00.000001Z".into(), &"2013-01-01T12:00:00.000002Z".into())
    );
    let (write, line) = &seen[3];
    assert!(write.starts_with("POST /api/v2/write?org=acme&bucket=my%20bucket&precision=ns HTTP/1.1"), "{write}");
    assert!(line.starts_with("my-flights,origin=EWR _key=\"k\",_version=1i,"), "{line}");
    assert!(line.ends_with("_alpha=0.55,_lambda=0.115,_k=1.47,n=7i 1357041600000001000\n"), "{line}");
    assert_eq!(
        seen[4].1,
        "_primal_positions,build=my-flights__g1,partition=0,sink=sink position=1i 7258118400000000000\n"
    );
}
