//! The contract of a log, held by Kafka and by the embedded log alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use primal_core::error::LogError;
use primal_core::keyed::Keyed;
use primal_core::log::{
    Change, EventLog, Extent, Limits, Member, Retention, Subscription, TopicPartition, TopicSpec, partition_of,
};
use primal_core::record::NewRecord;
use primal_core::{Collection, Env, Records, Topic, header};
use primal_log_embedded::EmbeddedLog;
use primal_log_kafka::KafkaLog;

use crate::kafka::kafka;

const SOME: Limits = Limits { records: 1_000, bytes: 1 << 20 };

/// A log with names of its own.
pub async fn logs() -> Vec<(&'static str, Arc<dyn EventLog>, tempfile::TempDir)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut config = kafka().await;
    config.topic_prefix = format!("c{}-{number}-", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let embedded = primal_log_embedded::Config { path: folder.path().join("log.db") };
    let embedded = EmbeddedLog::open(embedded, Env::system()).await.unwrap();
    vec![
        ("embedded", Arc::new(embedded), folder),
        ("kafka", Arc::new(KafkaLog::new(config).unwrap()), tempfile::tempdir().unwrap()),
    ]
}

async fn topic(log: &dyn EventLog, partitions: u32) -> Topic {
    let topic = Collection::new("things").unwrap().topic();
    log.create(&topic, TopicSpec { partitions, compacted: false }).await.unwrap();
    topic
}

fn record(topic: &Topic, partition: Option<i32>, key: &str, value: &str) -> NewRecord {
    let mut headers = Vec::new();
    header::push(&mut headers, header::ID, Some(key.as_bytes()));
    let (key, value) = (Some(key.as_bytes().to_vec()), Some(value.as_bytes().to_vec()));
    NewRecord { topic: topic.clone(), partition, key, value, headers }
}

async fn read(log: &dyn EventLog, topic: &Topic, partition: i32, range: std::ops::Range<i64>) -> Vec<(i64, String)> {
    let mut reader = log.read(topic, partition, range).await.unwrap();
    let (mut records, mut all) = (Records::new(), Vec::new());
    while reader.fetch(&mut records, Limits { records: 3_000, bytes: 1 << 20 }).await.unwrap() {
        for record in records.iter() {
            all.push((record.offset, String::from_utf8(record.key.unwrap().to_vec()).unwrap()));
        }
        records.clear();
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_byte_for_byte_where_the_receipts_say() {
    for (name, log, _folder) in logs().await {
        println!("{name}");
        let topic = topic(&*log, 3).await;
        let mut odd = record(&topic, Some(1), "odd", "x");
        odd.value = None;
        header::push(&mut odd.headers, "x-own", None);
        header::push(&mut odd.headers, "x-bytes", Some(&[0, 255]));
        let mut keyless = record(&topic, Some(1), "", "v");
        keyless.key = None;
        let large = record(&topic, Some(1), "large", &"x".repeat(900_000));
        let placed = log.append(vec![odd.clone(), keyless.clone(), large.clone()]).await.unwrap();
        assert_eq!(placed.iter().map(|a| (a.partition, a.offset)).collect::<Vec<_>>(), [(1, 0), (1, 1), (1, 2)]);
        let mut reader = log.read(&topic, 1, 0..3).await.unwrap();
        let mut records = Records::new();
        while reader.fetch(&mut records, Limits { records: 10, bytes: 1 }).await.unwrap() && records.len() < 3 {}
        for (found, sent) in records.iter().zip([odd, keyless, large]) {
            assert_eq!((found.key, found.value), (sent.key.as_deref(), sent.value.as_deref()));
            assert_eq!(found.headers.block(), sent.headers);
            assert!(found.recorded.0 > 1_600_000_000_000_000);
        }
        let keys: Vec<_> = (0..200).map(|i| format!("key-{i}")).collect();
        let placed = log.append(keys.iter().map(|key| record(&topic, None, key, "{}")).collect()).await.unwrap();
        for (key, at) in keys.iter().zip(placed) {
            assert_eq!(at.partition, partition_of(key.as_bytes(), 3), "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_records_keep_their_order_and_ranges_end() {
    for (name, log, _folder) in logs().await {
        println!("{name}");
        let topic = topic(&*log, 1).await;
        let records = (0..20_000).map(|i| record(&topic, None, &format!("k{i}"), "{\"a\":1}")).collect();
        log.append(records).await.unwrap();
        let all = read(&*log, &topic, 0, 0..20_000).await;
        assert_eq!(all.len(), 20_000);
        assert!(all.iter().enumerate().all(|(i, (offset, key))| *offset == i as i64 && *key == format!("k{i}")));
        let middle = read(&*log, &topic, 0, 7_001..7_004).await;
        assert_eq!(middle.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [7_001, 7_002, 7_003]);
        assert!(read(&*log, &topic, 0, 20_000..20_000).await.is_empty());
        let extents = log.extents(&topic).await.unwrap().unwrap();
        assert_eq!((extents[0].start, extents[0].end), (0, 20_000));
        let beyond = log.read(&topic, 0, 20_001..20_002).await.err().unwrap();
        assert!(matches!(beyond, LogError::OutOfRange { wanted: 20_001, start: 0, end: 20_000, .. }), "{beyond}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_become_offsets() {
    for (name, log, _folder) in logs().await {
        println!("{name}");
        let topic = topic(&*log, 1).await;
        log.append(vec![record(&topic, None, "a", "{}")]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        let between = Env::system().now();
        tokio::time::sleep(Duration::from_millis(30)).await;
        log.append(vec![record(&topic, None, "b", "{}")]).await.unwrap();
        assert_eq!(log.offsets_at(&topic, between).await.unwrap(), [1]);
        assert_eq!(log.offsets_at(&topic, primal_core::Timestamp(0)).await.unwrap(), [0]);
        assert_eq!(log.offsets_at(&topic, Env::system().now()).await.unwrap(), [2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_is_gone_and_the_rest_stays() {
    for (name, log, _folder) in logs().await {
        println!("{name}");
        let topic = topic(&*log, 1).await;
        let batch = |from: usize| (from..from + 100).map(|i| record(&topic, None, &format!("k{i}"), "{}")).collect();
        for from in [0, 100, 200, 300] {
            log.append(batch(from)).await.unwrap();
        }
        assert_eq!(log.retention(&topic).await.unwrap(), Retention::default());
        let mut early = log.read(&topic, 0, 0..400).await.unwrap();
        let start = log.truncate(&topic, 0, 250).await.unwrap();
        assert!((101..=250).contains(&start), "{start}");
        assert_eq!(log.extents(&topic).await.unwrap().unwrap(), [Extent { start, end: 400 }]);
        let gone = log.read(&topic, 0, start - 1..400).await.err().unwrap();
        assert!(matches!(gone, LogError::OutOfRange { start: from, end: 400, .. } if from == start), "{gone}");
        assert_eq!(read(&*log, &topic, 0, start..400).await.len() as i64, 400 - start);
        // Whoever reads there already is not led past it. (Kafka's clients have it in memory.)
        if name == "embedded" {
            let read = early.fetch(&mut Records::new(), SOME).await;
            assert!(matches!(read, Err(LogError::OutOfRange { wanted: 0, .. })), "{read:?}");
        }
        assert_eq!(log.truncate(&topic, 0, 400).await.unwrap(), 400);
        assert_eq!(log.truncate(&topic, 0, 10).await.unwrap(), 400);
        assert_eq!(log.offsets_at(&topic, primal_core::Timestamp(0)).await.unwrap(), [400]);
        assert_eq!(log.append(batch(400)).await.unwrap()[0].offset, 400);
        assert_eq!(read(&*log, &topic, 0, 400..500).await.len(), 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_says_so() {
    for (name, log, _folder) in logs().await {
        println!("{name}");
        let nowhere = Collection::new("nowhere").unwrap().topic();
        assert_eq!(log.extents(&nowhere).await.unwrap(), None);
        assert!(matches!(log.read(&nowhere, 0, 0..1).await.err().unwrap(), LogError::NoTopic(_)));
        let member = Member { group: "g".into(), instance: "i".into() };
        let subscribed = log.subscribe(&member, std::slice::from_ref(&nowhere)).await;
        assert!(matches!(subscribed.err().unwrap(), LogError::NoTopic(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_the_log_keeps_the_newest_row() {
    for (name, log, _folder) in logs().await {
        println!("{name}");
        let mut table = Keyed::open(&*log, Topic::status()).await.unwrap();
        let row = |key: &str, value: Option<&str>| [(key.to_owned(), value.map(|v| v.as_bytes().to_vec()))];
        for i in 0..20 {
            table.put(&*log, row("a", Some(&i.to_string()))).await.unwrap();
            table.put(&*log, row("b", Some("x"))).await.unwrap();
        }
        table.put(&*log, row("b", None)).await.unwrap();
        let rows = Keyed::rows(&*log, Topic::status()).await.unwrap();
        assert_eq!(rows.into_iter().collect::<Vec<_>>(), [("a".to_owned(), b"19".to_vec())]);
        table.changes(&*log).await.unwrap();
        table.put(&*log, row("c", Some("y"))).await.unwrap();
        assert_eq!(table.changes(&*log).await.unwrap().into_keys().collect::<Vec<_>>(), ["c"]);
    }
}

async fn assigned(subscription: &mut dyn Subscription) -> Vec<TopicPartition> {
    match tokio::time::timeout(Duration::from_secs(30), subscription.next()).await.unwrap().unwrap() {
        Change::Assigned(places) => places,
        other => panic!("expected an assignment, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_reads_what_comes_and_begins_anew_where_it_is_told() {
    for (name, log, _folder) in logs().await {
        println!("{name}");
        let topic = topic(&*log, 2).await;
        let records = |from: usize, to: usize| {
            (from..to).map(|i| record(&topic, Some((i % 2) as i32), &format!("k{i}"), "{}")).collect::<Vec<_>>()
        };
        log.append(records(0, 5_000)).await.unwrap();
        let member = Member { group: "group".into(), instance: "one".into() };
        let mut subscription = log.subscribe(&member, std::slice::from_ref(&topic)).await.unwrap();
        let places = assigned(&mut *subscription).await;
        assert_eq!(places.len(), 2);
        let starts: Vec<_> = places.iter().map(|place| (place.clone(), 100)).collect();
        let mut readers = subscription.start(&starts).await.unwrap();
        for reader in &mut readers {
            let mut seen = Records::new();
            while seen.len() < 2_400 {
                assert!(reader.fetch(&mut seen, Limits { records: 2_400, bytes: 64 << 20 }).await.unwrap());
            }
            assert!(seen.iter().enumerate().all(|(i, record)| record.offset == 100 + i as i64));
            // At the end it waits; a fetch that is given up takes nothing, and what comes then is read.
            seen.clear();
            let waited = tokio::time::timeout(Duration::from_millis(50), reader.fetch(&mut seen, SOME)).await;
            assert!(waited.is_err() && seen.is_empty());
        }
        log.append(records(5_000, 5_002)).await.unwrap();
        for reader in &mut readers {
            let mut seen = Records::new();
            let fetched = tokio::time::timeout(Duration::from_secs(10), reader.fetch(&mut seen, SOME)).await;
            assert!(fetched.unwrap().unwrap());
            assert_eq!(seen.get(0).unwrap().offset, 2_500);
        }
        drop(readers);
        let mut again = subscription.start(&[(places[0].clone(), 7)]).await.unwrap();
        let mut seen = Records::new();
        assert!(again[0].fetch(&mut seen, SOME).await.unwrap());
        assert_eq!(seen.get(0).unwrap().offset, 7);
        drop(again);
        subscription.commit(&[(places[0].clone(), 8)]).await.unwrap();
        subscription.release(&places).await.unwrap();
        subscription.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_written_again_while_its_table_is_read_is_not_missed() {
    for (name, log, _folder) in logs().await {
        let topic = Topic::status();
        let table = Keyed::open(&*log, topic.clone()).await.unwrap();
        let write = |number: u32| {
            let row = ("busy".to_owned(), Some(number.to_string().into_bytes()));
            let (table, log) = (table.clone(), log.clone());
            async move { table.put(&*log, [row]).await.unwrap() }
        };
        // Rows that take a while to be read, in front of the one that moves.
        let others: Vec<_> = (0..200).map(|i| (format!("calm-{i}"), Some(vec![b'x'; 1_000]))).collect();
        table.put(&*log, others).await.unwrap();
        write(0).await;
        let stop = tokio_util::sync::CancellationToken::new();
        let (ended, writing) = (stop.clone(), write);
        let writer = async move {
            let mut number = 1;
            while ended.run_until_cancelled(tokio::time::sleep(Duration::from_millis(1))).await.is_some() {
                writing(number).await;
                number += 1;
            }
            number
        };
        let reader = async {
            for _ in 0..200 {
                let rows = Keyed::rows(&*log, topic.clone()).await.unwrap();
                assert!(rows.contains_key("busy"), "{name}");
                assert_eq!(rows.len(), 201, "{name}");
            }
            stop.cancel();
        };
        let (written, ()) = tokio::join!(writer, reader);
        assert!(written > 5, "{name}: written {written} times");
    }
}
