//! What an operator types, and what stands in a dead letter: any text is read or refused.

use primal_core::log::{EventLog, TopicSpec};
use primal_core::record::NewRecord;
use primal_core::{Env, Timestamp, Topic, header};
use primal_log_embedded::{Config, EmbeddedLog};
use primal_replay::At;
use primal_runtime::dead_letter;
use proptest::prelude::*;

/// What `2h` counts from.
const NOW: Timestamp = Timestamp(1_370_044_800_000_000);

proptest! {
    #[test]
    fn a_moment_is_read_as_it_is_written_and_anything_else_is_refused(
        text in prop_oneof![
            "\\PC{0,30}",
            "-?[0-9]{1,20} ?(s|m|h|d|w|mo|y)",
            "(offset:)?-?[0-9]{0,20}(:[0-9]{0,20})?",
            "[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]{0,12}(Z|[+-][0-9:]{0,8})?)?",
        ],
    ) {
        match At::parse(&text, NOW) {
            Ok(at) => prop_assert_eq!(At::parse(&at.to_string(), NOW), Ok(at)),
            Err(error) => prop_assert!(error.contains("expected") || error.contains("such as"), "{error}"),
        }
    }

    #[test]
    fn any_place_and_any_moment_comes_back(
        partition in 0i32..,
        offset in 0i64..,
        seconds in -62_000_000_000i64..200_000_000_000,
        micros in 0..1_000_000i64,
    ) {
        for at in [At::Offset(partition, offset), At::Time(Timestamp(seconds * 1_000_000 + micros))] {
            prop_assert_eq!(At::parse(&at.to_string(), NOW), Ok(at));
        }
    }
}

/// The headers of a good dead letter.
const GOOD: [(&str, &str); 6] = [
    ("__connect.errors.topic", "flights"),
    ("__connect.errors.partition", "3"),
    ("__connect.errors.offset", "7"),
    ("__connect.errors.exception.class.name", "primalcore.Rejected"),
    ("__connect.errors.exception.message", "no room"),
    ("__primal.version", "8"),
];

/// The same headers, some of them missing, doubled or wrong.
fn forged() -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    let good = || prop::sample::select(GOOD.to_vec());
    let value = prop_oneof![
        "-?[0-9]{1,22}".prop_map(String::into_bytes),
        good().prop_map(|(_, value)| value.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec((good().prop_map(|(name, _)| name), value), 0..10)
}

fn letter(topic: &Topic, all: &[(&'static str, Vec<u8>)]) -> NewRecord {
    let mut headers = Vec::new();
    all.iter().for_each(|(name, value)| header::push(&mut headers, name, Some(value)));
    NewRecord { topic: topic.clone(), partition: Some(0), key: None, value: None, headers }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn forged_dead_letters_do_not_keep_the_others_from_being_read(all in prop::collection::vec(forged(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let config = Config { path: folder.path().join("log.db") };
            let log = EmbeddedLog::open(config, Env::system()).await.unwrap();
            let topic = Topic::dead_letters("sink");
            log.create(&topic, TopicSpec { partitions: 1, compacted: false }).await.unwrap();
            let good = GOOD.map(|(name, value)| (name, value.as_bytes().to_vec()));
            let letters = all.iter().map(|forged| letter(&topic, forged)).chain([letter(&topic, &good)]);
            log.append(letters.collect()).await.unwrap();
            let read = dead_letter::read_all(&log, "sink").await.unwrap();
            assert!(read.values().any(|letter| letter.reason == "no room" && letter.origin.offset == 7), "{read:?}");
        });
    }
}
