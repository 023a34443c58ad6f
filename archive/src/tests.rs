//! The archive over a real log and a store in memory: what comes back, what is named when something is missing, and several
//! archivers at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use primal_core::error::LogError;
use primal_core::log::{Change, EventLog, Limits, Member, PartitionReader, TopicPartition, TopicSpec};
use primal_core::record::NewRecord;
use primal_core::{Collection, Env, Epochs, Offset, Partition, Records, Timestamp, header};
use primal_log_embedded::{Config, EmbeddedLog};
use proptest::prelude::*;

use crate::archive::{Archive, Life};
use crate::archiver::Request;
use crate::file::{Opened, Writer};
use crate::log::ArchivedLog;
use crate::manifest::{Manifest, Place};
use crate::store::Store;

/// Records of one append, which is what the embedded log drops at a time.
const BATCH: usize = 100;
const ALL: Timestamp = Timestamp(i64::MAX);
const SOME: Limits = Limits { records: 333, bytes: 1 << 20 };

type Row = (Offset, Timestamp, Option<Vec<u8>>, Option<Vec<u8>>, Vec<u8>);

struct World {
    log: Arc<dyn EventLog>,
    files: Arc<InMemory>,
    epochs: Arc<Epochs>,
    collection: Collection,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { path: folder.path().join("log.db") };
        let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(config, Env::system()).await.unwrap());
        let collection = Collection::new("orders").unwrap();
        log.create(&collection.topic(), TopicSpec { partitions: 1, compacted: false }).await.unwrap();
        World { log, files: Arc::default(), epochs: Arc::new(Epochs::first(1)), collection, _folder: folder }
    }

    /// With so many records.
    async fn with(records: usize) -> Self {
        let world = World::new().await;
        world.append(0, records).await;
        world
    }

    async fn append(&self, from: usize, to: usize) {
        let all: Vec<_> = (from..to).map(|n| self.record(n)).collect();
        for batch in all.chunks(BATCH) {
            self.log.append(batch.to_vec()).await.unwrap();
        }
    }

    /// Most are events; some have no key, no value, or bytes that are no text.
    fn record(&self, n: usize) -> NewRecord {
        let mut headers = Vec::new();
        header::push(&mut headers, header::SPEC_VERSION, Some(b"1.0"));
        header::push(&mut headers, header::ID, Some(format!("e{n}").as_bytes()));
        header::push(&mut headers, "x-null", None);
        if n % 7 == 3 {
            header::push(&mut headers, header::ID, Some(&[0xff, 0xfe]));
        }
        let key =
            (n % 11 != 5).then(|| if n % 13 == 6 { vec![0xc3, 0x28] } else { format!("k{}", n % 50).into_bytes() });
        let value =
            (n % 5 != 1).then(|| if n % 17 == 2 { vec![0, 255] } else { format!("{{\"n\":{n}}}").into_bytes() });
        NewRecord { topic: self.collection.topic(), partition: Some(0), key, value, headers }
    }

    /// As another process has it: what is known of the files is its own.
    fn archive(&self) -> Archive {
        Archive::over(Store::memory(self.files.clone()), "memory://".to_owned(), "t.")
    }

    fn request(&self) -> Request {
        Request { log: self.log.clone(), collection: self.collection.clone(), epochs: self.epochs.clone() }
    }

    fn joined(&self) -> ArchivedLog {
        ArchivedLog::new(self.log.clone(), self.archive(), [(self.collection.topic(), self.epochs.clone())])
    }

    fn life(&self) -> Life {
        Life::all(&self.collection.topic(), &self.epochs, 0).remove(0)
    }

    async fn archived(&self) -> Archive {
        let archive = self.archive();
        archive.archive(&self.request(), ALL).await.unwrap();
        archive
    }

    async fn names(&self) -> Vec<String> {
        let mut names = Store::memory(self.files.clone()).list("t.orders").await.unwrap();
        names.sort();
        names
    }

    async fn file(&self, holds: &str) -> String {
        self.names().await.into_iter().find(|name| name.contains(holds)).unwrap()
    }

    fn store(&self) -> Store {
        Store::memory(self.files.clone())
    }

    async fn start(&self) -> Offset {
        self.log.extents(&self.collection.topic()).await.unwrap().unwrap()[0].start
    }
}

async fn drained(reader: &mut dyn PartitionReader, count: usize) -> Result<Vec<Row>, LogError> {
    let (mut records, mut rows) = (Records::new(), Vec::new());
    while rows.len() < count && reader.fetch(&mut records, SOME).await? {
        for r in records.iter() {
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            rows.push((r.offset, r.recorded, owned(r.key), owned(r.value), r.headers.block().to_vec()));
        }
        records.clear();
    }
    Ok(rows)
}

async fn rows(log: &dyn EventLog, world: &World, from: Offset, to: Offset) -> Result<Vec<Row>, LogError> {
    let mut reader = log.read(&world.collection.topic(), 0, from..to).await?;
    drained(&mut *reader, usize::MAX).await
}

#[tokio::test]
async fn what_left_the_log_is_read_from_the_archive_byte_for_byte() {
    let world = World::with(2_750).await;
    let topic = world.collection.topic();
    let before = rows(&*world.log, &world, 0, 2_750).await.unwrap();
    let moments: Vec<_> = before.iter().step_by(333).map(|row| row.1).collect();
    let mut asked = Vec::new();
    for at in &moments {
        asked.push(world.log.offsets_at(&topic, *at).await.unwrap());
    }
    // All but the last 350, so that log and archive overlap, and the archive's groups do not end where the log begins.
    let moved = world.archive().archive(&world.request(), before[2_400].1).await.unwrap();
    assert_eq!((moved[0].from, moved[0].to, moved[0].files), (0, 2_400, 3));
    assert_eq!(world.log.truncate(&topic, 0, 2_250).await.unwrap(), 2_200);
    assert!(matches!(rows(&*world.log, &world, 0, 5).await, Err(LogError::OutOfRange { start: 2_200, .. })));
    let joined = world.joined();
    let extents = joined.extents(&topic).await.unwrap().unwrap();
    assert_eq!((extents[0].start, extents[0].end), (0, 2_750));
    assert_eq!(joined.recent(&topic).await.unwrap().unwrap()[0].start, 2_200);
    for (from, to) in [(0, 2_750), (0, 1), (149, 151), (999, 1_001), (2_199, 2_201), (2_300, 2_750), (700, 700)] {
        let read = rows(&joined, &world, from, to).await.unwrap();
        assert!(read == before[from as usize..to as usize], "[{from}, {to})");
    }
    for (at, expected) in moments.iter().zip(&asked) {
        assert_eq!(joined.offsets_at(&topic, *at).await.unwrap(), *expected, "{at}");
    }
    assert_eq!(joined.offsets_at(&topic, Timestamp(0)).await.unwrap(), [0]);
    assert_eq!(joined.offsets_at(&topic, ALL).await.unwrap(), [2_750]);

    // A member that begins in the archive goes on in the log, with what comes then.
    let member = Member { group: "g".into(), instance: "i".into() };
    let mut subscription = joined.subscribe(&member, std::slice::from_ref(&topic)).await.unwrap();
    let Change::Assigned(places) = subscription.next().await.unwrap() else { panic!("nothing was assigned") };
    assert_eq!(places, [TopicPartition { topic: topic.clone(), partition: 0 }]);
    let mut reader = subscription.start(&[(places[0].clone(), 3)]).await.unwrap().remove(0);
    world.append(2_750, 2_760).await;
    let read = tokio::time::timeout(Duration::from_secs(10), drained(&mut *reader, 2_757)).await.unwrap().unwrap();
    assert!(read[..2_747] == before[3..] && read.len() == 2_757);
    assert_eq!(read.last().unwrap().0, 2_759);
}

#[tokio::test]
async fn a_call_that_is_given_up_takes_nothing() {
    let world = World::with(1_200).await;
    world.archived().await;
    world.log.truncate(&world.collection.topic(), 0, 1_200).await.unwrap();
    let joined = world.joined();
    let mut reader = joined.read(&world.collection.topic(), 0, 0..1_200).await.unwrap();
    let mut records = Records::new();
    while records.len() < 1_200 {
        let fetch = reader.fetch(&mut records, Limits { records: 1_200, bytes: usize::MAX });
        let polled = futures::future::select(Box::pin(fetch), Box::pin(tokio::task::yield_now())).await;
        if let futures::future::Either::Left((fetched, _)) = polled {
            assert!(fetched.unwrap());
        }
    }
    assert!(records.iter().enumerate().all(|(n, record)| record.offset == n as Offset));
}

#[tokio::test]
async fn a_file_without_manifest_is_no_part_of_the_archive_and_is_written_again() {
    let world = World::with(1_500).await;
    world.archived().await;
    let names = world.names().await;
    assert_eq!(names.len(), 4, "{names:?}");
    // As after a crash between the second file and its manifest; and a crash long ago, with another range.
    let manifest = world.file("_00000000000000001000.json").await;
    world.store().delete(&manifest).await.unwrap();
    let stray = "t.orders/partition=0/epoch=0/00000000000000001000-0123456789abcdef.parquet";
    world.store().put(stray, Bytes::from_static(b"half of a file")).await.unwrap();
    assert_eq!(world.archive().end(&world.life()).await.unwrap(), 1_000);
    world.log.truncate(&world.collection.topic(), 0, 1_000).await.unwrap();
    assert_eq!(rows(&world.joined(), &world, 0, 1_500).await.unwrap().len(), 1_500);
    world.archived().await;
    assert_eq!(world.archive().end(&world.life()).await.unwrap(), 1_500);
    // The next archiver clears away what is left.
    world.archived().await;
    assert_eq!(world.names().await, names);
    world.log.truncate(&world.collection.topic(), 0, 1_500).await.unwrap();
    assert_eq!(rows(&world.joined(), &world, 0, 1_500).await.unwrap().len(), 1_500);
}

#[tokio::test]
async fn a_gap_is_named_and_what_comes_after_it_is_archived_all_the_same() {
    let world = World::with(1_000).await;
    let topic = world.collection.topic();
    world.archived().await;
    world.append(1_000, 2_000).await;
    world.log.truncate(&topic, 0, 1_300).await.unwrap();
    let gap = |read: Result<Vec<Row>, LogError>| match read {
        Err(error @ LogError::Gap { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let named = "offsets [1000, 1300) of orders/0 are neither in the log nor in its archive";
    assert_eq!(gap(rows(&world.joined(), &world, 0, 2_000).await), named);
    assert_eq!(gap(rows(&world.joined(), &world, 1_200, 2_000).await).split(')').nth(1), named.split(')').nth(1));
    assert_eq!(rows(&world.joined(), &world, 0, 1_000).await.unwrap().len(), 1_000);
    let moved = world.archive().archive(&world.request(), ALL).await.unwrap();
    assert_eq!((moved[0].from, moved[0].to), (1_300, 2_000));
    world.log.truncate(&topic, 0, 2_000).await.unwrap();
    assert_eq!(gap(rows(&world.joined(), &world, 0, 2_000).await), named);
    assert_eq!(rows(&world.joined(), &world, 1_300, 2_000).await.unwrap().len(), 700);
    let report = world.archive().verify(&world.request(), |_| {}).await.unwrap().remove(0);
    assert!(report.findings[0].what.contains("offsets [1000, 1300) left the log before"), "{report:?}");
}

#[tokio::test]
async fn an_archive_that_begins_late_is_no_gap() {
    let world = World::with(1_000).await;
    let topic = world.collection.topic();
    world.log.truncate(&topic, 0, 300).await.unwrap();
    world.archived().await;
    world.log.truncate(&topic, 0, 1_000).await.unwrap();
    let joined = world.joined();
    assert_eq!(joined.extents(&topic).await.unwrap().unwrap()[0].start, 300);
    assert_eq!(rows(&joined, &world, 300, 1_000).await.unwrap().len(), 700);
    assert!(world.archive().verify(&world.request(), |_| {}).await.unwrap()[0].findings.is_empty());
}

#[tokio::test]
async fn what_is_missing_or_altered_is_named() {
    for (holds, change) in [
        ("_00000000000000000000.json", None),
        ("_00000000000000001000.json", None),
        ("_00000000000000001000.json", Some(Bytes::from_static(b"{}"))),
        ("/00000000000000001000-", None),
        ("/00000000000000001000-", Some(Bytes::new())),
    ] {
        let world = World::with(2_500).await;
        world.archived().await;
        world.log.truncate(&world.collection.topic(), 0, 2_500).await.unwrap();
        let file = world.file(holds).await;
        match change.clone() {
            None => world.store().delete(&file).await.unwrap(),
            Some(bytes) => world.store().put(&file, bytes).await.unwrap(),
        }
        let joined = world.joined();
        let read = async {
            joined.extents(&world.collection.topic()).await?;
            rows(&joined, &world, 0, 2_500).await
        };
        let error = read.await.unwrap_err();
        assert!(error.is_altered() && error.to_string().contains(&format!("memory:///{file}")), "{holds} {error}");
        let reports = world.archive().verify(&world.request(), |_| {}).await.unwrap();
        assert!(reports[0].findings[0].file.ends_with(&file), "{holds} {reports:?}");
    }
    // Also the only one that there is.
    let world = World::with(500).await;
    world.archived().await;
    world.log.truncate(&world.collection.topic(), 0, 500).await.unwrap();
    let file = world.file(".json").await;
    world.store().delete(&file).await.unwrap();
    let error = world.joined().extents(&world.collection.topic()).await.unwrap_err();
    assert!(error.is_altered() && error.to_string().contains(&file), "{error}");
    let reports = world.archive().verify(&world.request(), |_| {}).await.unwrap();
    assert!(reports[0].findings[0].file.ends_with(&file), "{reports:?}");
}

#[tokio::test]
async fn any_flipped_byte_is_noticed_before_its_record_is_handed_out() {
    let world = World::with(300).await;
    world.archived().await;
    let before = rows(&*world.log, &world, 0, 300).await.unwrap();
    world.log.truncate(&world.collection.topic(), 0, 300).await.unwrap();
    let file = world.file(".parquet").await;
    let good = world.store().get(&file).await.unwrap().unwrap();
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.to_vec();
        bad[at] ^= 0x10;
        world.store().put(&file, bad.into()).await.unwrap();
        match rows(&world.joined(), &world, 0, 300).await {
            // The mark at the beginning is not looked at.
            Ok(read) => assert!(read == before && at < 4, "byte {at}"),
            Err(error) => assert!(error.is_altered() && error.to_string().contains(&file), "byte {at}: {error}"),
        }
        let reports = world.archive().verify(&world.request(), |_| {}).await.unwrap();
        assert!(reports[0].findings[0].what.contains("SHA-256"), "byte {at}: {reports:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archivers_at_the_same_time_write_one_chain() {
    let world = World::with(5_000).await;
    let before = rows(&*world.log, &world, 0, 5_000).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for until in [5_000, 4_200, 3_300, 5_000] {
        let (archive, request) = (world.archive(), world.request());
        let at = before.get(until).map_or(ALL, |row| row.1);
        tasks.spawn(async move { archive.archive(&request, at).await.unwrap() });
    }
    let moved: Vec<_> = tasks.join_all().await.concat();
    assert_eq!(moved.iter().map(|moved| moved.records).sum::<u64>(), 5_000);
    let files = world.names().await.len();
    let manifests = world.names().await.iter().filter(|name| name.ends_with(".json")).count();
    assert_eq!(files, 2 * manifests, "{:?}", world.names().await);
    let report = world.archive().verify(&world.request(), |_| {}).await.unwrap().remove(0);
    assert_eq!((report.records, report.in_log, report.findings), (5_000, 5_000, Vec::new()));
    world.log.truncate(&world.collection.topic(), 0, 5_000).await.unwrap();
    assert!(rows(&world.joined(), &world, 0, 5_000).await.unwrap() == before);
}

#[tokio::test]
async fn only_what_is_safe_in_the_archive_is_dropped_from_the_log() {
    let world = World::with(2_500).await;
    world.archived().await;
    let file = world.file("/00000000000000001000-").await;
    let good = world.store().get(&file).await.unwrap().unwrap();
    // A log that says otherwise than the archive: somebody forged one of the two.
    world.store().put(&file, Bytes::from_static(b"other")).await.unwrap();
    let error = world.archive().drop_archived(&world.request(), ALL).await.unwrap_err();
    assert!(error.is_altered() && error.to_string().contains(&file), "{error}");
    assert_eq!(world.start().await, 0);
    world.store().put(&file, good).await.unwrap();
    assert_eq!(world.archive().drop_archived(&world.request(), Timestamp(0)).await.unwrap(), []);
    assert_eq!(world.archive().drop_archived(&world.request(), ALL).await.unwrap(), [(0, 2_500)]);
    assert_eq!(world.start().await, 2_500);
    world.append(2_500, 2_600).await;
    assert_eq!(rows(&world.joined(), &world, 0, 2_600).await.unwrap().len(), 2_600);
}

#[tokio::test]
async fn lives_of_a_topic_are_archived_apart() {
    let mut world = World::with(500).await;
    world.archived().await;
    // The partition count was changed at 500: what comes is another life, in the same offsets.
    world.epochs = Arc::new(world.epochs.extended(&[500]));
    world.append(500, 900).await;
    let moved = world.archive().archive(&world.request(), ALL).await.unwrap();
    assert_eq!((moved[0].epoch, moved[0].from, moved[0].to), (1, 500, 900));
    world.log.truncate(&world.collection.topic(), 0, 900).await.unwrap();
    assert_eq!(rows(&world.joined(), &world, 0, 900).await.unwrap().len(), 900);
    let kept = world.archive().list(&world.collection.topic()).await.unwrap();
    assert_eq!(
        kept.iter().map(|kept| (kept.epoch, kept.from, kept.to)).collect::<Vec<_>>(),
        [(0, 0, 500), (1, 500, 900)]
    );
    // Made anew: what the archive has of former lives is not mistaken for this one's.
    world.epochs = Arc::new(world.epochs.renewed(1));
    assert_eq!(world.joined().extents(&world.collection.topic()).await.unwrap().unwrap()[0].start, 900);
    assert_eq!(world.archive().verify(&world.request(), |_| {}).await.unwrap().len(), 2);
}

fn part() -> impl Strategy<Value = Option<Vec<u8>>> {
    let bytes = prop_oneof![prop::collection::vec(any::<u8>(), 0..30), "\\PC{0,20}".prop_map(String::into_bytes),];
    prop::option::of(bytes)
}

/// Blocks as they are made, with names twice, and bytes that no block has.
fn block() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![Just("ce_id".to_owned()), Just("ce_type".to_owned()), "[a-z]{0,3}"];
    let made = prop::collection::vec((name, part()), 0..6).prop_map(|headers| {
        let mut block = Vec::new();
        headers.iter().for_each(|(name, value)| header::push(&mut block, name, value.as_deref()));
        block
    });
    prop_oneof![4 => made, 1 => prop::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_records_come_back_byte_for_byte(
        all in prop::collection::vec((1..3i64, any::<i64>(), part(), part(), block()), 0..400),
    ) {
        let (mut records, mut offset) = (Records::new(), 7);
        let first = offset;
        for (step, recorded, key, value, block) in &all {
            records.push(offset, Timestamp(*recorded), key.as_deref(), value.as_deref(), |b| b.extend_from_slice(block));
            offset += step;
        }
        let end = offset + 5;
        let mut writer = Writer::new(first, Timestamp::MIN).unwrap();
        records.iter().for_each(|record| writer.push(record).unwrap());
        let built = writer.finish(end).unwrap();
        let topic = "orders".to_owned();
        let place = Place { topic, partition: 0, epoch: 0, after: first, from: first, to: end, recorded_until: Timestamp::MIN };
        let manifest = Manifest::new(place, "file".into(), &built);
        let text = serde_json::to_vec(&manifest).unwrap();
        let read = Manifest::read(&text, 0, 0, first).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(async {
            let store = Store::memory(Arc::<InMemory>::default());
            store.put("file", built.bytes.clone()).await.unwrap();
            let opened = Opened::open(&store, "file".into(), Arc::new(read)).await.unwrap();
            let mut read = Vec::new();
            for group in 0..opened.manifest.groups.len() {
                read.push(opened.group(&store, group).await.unwrap());
            }
            read
        });
        let read: Vec<_> = read.iter().flat_map(|records| records.iter()).collect();
        prop_assert_eq!(read.len(), records.len());
        for (read, record) in read.into_iter().zip(records.iter()) {
            prop_assert_eq!((read.offset, read.recorded), (record.offset, record.recorded));
            prop_assert_eq!((read.key, read.value), (record.key, record.value));
            prop_assert_eq!(read.headers.block(), record.headers.block());
        }
    }
}

#[test]
fn partitions_are_numbers() {
    let life =
        Life { topic: Collection::new("a").unwrap().topic(), partition: 3 as Partition, epoch: 2, start: 0, end: 1 };
    let archive = Archive::over(Store::memory(Arc::<InMemory>::default()), String::new(), "x.");
    assert_eq!(archive.folder(&life), "x.a/partition=3/epoch=2");
}
