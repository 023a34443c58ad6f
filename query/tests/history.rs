//! What a collection was at any moment, in SQL: with snapshots and without, the answer is the same.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use primal_core::event::{Event, Op};
use primal_core::log::{EventLog, TopicSpec};
use primal_core::table::{Column, Kind, Table};
use primal_core::{Collection, Env, Epochs, Primal, Timestamp};
use primal_log_embedded::{Config, EmbeddedLog};
use primal_query::{Format, History, QueryError, Source};
use tempfile::TempDir;

struct World {
    history: History,
    source: Source,
    folder: TempDir,
    count: usize,
    /// After each event what is there, by key, and the moment at which the log took it.
    past: Vec<(Timestamp, BTreeMap<String, i64>)>,
    now: BTreeMap<String, i64>,
}

fn table() -> Table {
    let column = |name: &str, kind| Column { name: name.into(), kind };
    Table::new(vec![
        column("n", Kind::Integer),
        column("s", Kind::Text),
        column("at", Kind::Timestamp),
        column("j", Kind::Json),
    ])
}

impl World {
    async fn new(partitions: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { path: folder.path().join("log.db") };
        let log = EmbeddedLog::open(config, Env::system()).await.unwrap();
        let collection = Collection::new("things").unwrap();
        log.create(&collection.topic(), TopicSpec { partitions, compacted: false }).await.unwrap();
        let source =
            Source { collection, epochs: Arc::new(Epochs::first(partitions as usize)), table: Some(Arc::new(table())) };
        let history = History { log: Arc::new(log), snapshots: folder.path().join("snapshots") };
        World { history, source, folder, count: 0, past: Vec::new(), now: BTreeMap::new() }
    }

    async fn event(&mut self, key: &str, op: Op, data: Option<&str>) {
        let event = Event {
            collection: self.source.collection.clone(),
            key: key.to_owned(),
            op,
            id: format!("e{}", self.count),
            source: "/test".into(),
            kind: "thing".into(),
            time: "2013-01-01T00:00:00Z".into(),
            data: data.map(str::to_owned),
            data_schema: None,
            primal: Primal::STANDARD,
            extensions: Vec::new(),
        };
        self.count += 1;
        self.history.log.append(vec![event.into_record()]).await.unwrap();
        // The next event is taken at a later microsecond.
        let now = Env::system().now();
        tokio::time::sleep(std::time::Duration::from_micros(1_100)).await;
        self.past.push((now, self.now.clone()));
    }

    async fn put(&mut self, key: &str, n: i64) {
        self.now.insert(key.to_owned(), n);
        let data =
            format!(r#"{{"n":{n},"s":"text {n}","at":"2013-01-01T00:00:0{}Z","j":{{"deep":{{"n":{n}}}}}}}"#, n % 10);
        self.event(key, Op::Put, Some(&data)).await;
    }

    async fn delete(&mut self, key: &str) {
        self.now.remove(key);
        self.event(key, Op::Delete, None).await;
    }

    async fn ask(&self, as_of: Option<Timestamp>, sql: &str) -> Result<Vec<Vec<String>>, QueryError> {
        self.history.query(std::slice::from_ref(&self.source), as_of, sql).await?.texts()
    }

    async fn all(&self, as_of: Option<Timestamp>) -> BTreeMap<String, i64> {
        let rows = self.ask(as_of, "SELECT _key, n FROM things").await.unwrap();
        rows.into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap())).collect()
    }

    async fn snapshot(&self, every: u64) -> usize {
        let mut count = 0;
        self.history.snapshot(&self.source, every, |_| count += 1).await.unwrap();
        count
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let folder = self.folder.path().join("snapshots/things");
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

async fn busy(partitions: u32) -> World {
    let mut world = World::new(partitions).await;
    for i in 0..120 {
        let key = format!("k{}", i * 7 % 13);
        if i % 5 == 4 { world.delete(&key).await } else { world.put(&key, i).await }
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn any_moment_is_answered_and_snapshots_change_no_answer() {
    let world = busy(3).await;
    for round in ["folded", "snapshots", "some deleted", "all deleted"] {
        match round {
            "snapshots" => {
                assert!(world.snapshot(10).await >= 9);
                assert_eq!(world.snapshot(10).await, 0, "what is there is not made again");
            }
            "some deleted" => world.files().iter().step_by(2).for_each(|path| std::fs::remove_file(path).unwrap()),
            "all deleted" => std::fs::remove_dir_all(world.folder.path().join("snapshots")).unwrap(),
            _ => {}
        }
        for (at, expected) in world.past.iter().step_by(9) {
            assert_eq!(&world.all(Some(*at)).await, expected, "{round}");
        }
        assert_eq!(world.all(None).await, world.now, "{round}");
        assert!(world.all(Some(Timestamp(0))).await.is_empty());
        // Conditions that decide what is read, against the same ones that do not.
        let (since, _) = world.past[80];
        for (quick, slow) in [
            ("_key = 'k3'".to_owned(), "_key LIKE 'k3'".to_owned()),
            ("_key IN ('k3', 'k4', 'none')".to_owned(), "concat(_key, '') IN ('k3', 'k4', 'none')".to_owned()),
            ("_key = 'k3' OR 'k4' = _key".to_owned(), "concat(_key, '') IN ('k3', 'k4')".to_owned()),
            (
                format!("_recorded > TIMESTAMP '{since}'"),
                format!("_recorded + INTERVAL '0 seconds' > TIMESTAMP '{since}'"),
            ),
        ] {
            let select =
                |condition: &str| format!("SELECT _key, n, s, _version FROM things WHERE {condition} ORDER BY 1");
            let quick = world.ask(None, &select(&quick)).await.unwrap();
            assert!(!quick.is_empty(), "{round}: {slow}");
            assert_eq!(quick, world.ask(None, &select(&slow)).await.unwrap(), "{round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_have_the_types_of_the_schema_and_nested_members_can_be_reached() {
    let mut world = World::new(2).await;
    world.put("a", 7).await;
    world.event("b", Op::Put, Some(r#"{"n":"no number","s":"kept in data"}"#)).await;
    world.event("c", Op::Append, Some(r#"{"n":1}"#)).await;
    world.event("d", Op::Put, Some("[1]")).await;
    for every in [None, Some(1)] {
        if let Some(every) = every {
            world.snapshot(every).await;
        }
        let sql = "SELECT _key, n + 1, at + INTERVAL '1 second', json_get(j, '/deep/n'), _alpha, _lambda, _k, _event_id \
                   FROM things ORDER BY _key";
        let rows = world.ask(None, sql).await.unwrap();
        assert_eq!(rows[0], ["a", "8", "2013-01-01T00:00:08Z", "7", "0.55", "0.115", "1.47", "e0"]);
        assert_eq!(rows[1][..4], ["b", "", "", ""]);
        // An appended event is no state, and what is no object is taken by no store.
        assert_eq!(rows.len(), 2);
        let kept = world.ask(None, "SELECT json_get(data, '/s') FROM things WHERE _key = 'b'").await.unwrap();
        assert_eq!(kept, [["kept in data"]]);
        assert_eq!(world.ask(None, "SELECT count(*) FROM things").await.unwrap(), [["2"]]);
    }
    let answer =
        world.history.query(std::slice::from_ref(&world.source), None, "SELECT _key, n FROM things ORDER BY 1");
    let answer = answer.await.unwrap();
    let print = |format| {
        let mut out = Vec::new();
        answer.write(format, &mut out).unwrap();
        out
    };
    assert_eq!(String::from_utf8(print(Format::Csv)).unwrap(), "_key,n\na,7\nb,\n");
    assert_eq!(String::from_utf8(print(Format::Json)).unwrap(), "{\"_key\":\"a\",\"n\":7}\n{\"_key\":\"b\"}\n");
    assert_eq!(&print(Format::Parquet)[..4], b"PAR1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_another_log_or_schema_is_not_believed_and_a_damaged_one_is_named() {
    let (world, other) = (busy(1).await, World::new(1).await);
    world.snapshot(50).await;
    let copy = |from: &Path, to: &World| {
        let folder = to.folder.path().join("snapshots/things");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(from, folder.join(from.file_name().unwrap())).unwrap();
    };
    // Another log of the same name, whose event there is another.
    let mut other = other;
    for i in 0..60 {
        other.event("k1", Op::Put, Some(&format!("{{\"n\":{i}}}"))).await;
        other.count += 1_000;
    }
    world.files().iter().for_each(|path| copy(path, &other));
    assert_eq!(other.ask(None, "SELECT n FROM things").await.unwrap(), [["59"]]);

    // The same log with another schema: what is a text there is read from the payload.
    let column = Column { name: "n".into(), kind: Kind::Text };
    let number = Column { name: "at".into(), kind: Kind::Text };
    let source = Source { table: Some(Arc::new(Table::new(vec![column, number]))), ..world.source.clone() };
    let sql = "SELECT at FROM things WHERE n IS NULL ORDER BY _key";
    let found = world.history.query(&[source], None, sql).await.unwrap().texts().unwrap();
    assert_eq!(found.len(), world.now.len());

    for path in world.files() {
        std::fs::write(&path, b"no Parquet").unwrap();
    }
    let error = world.ask(None, "SELECT count(*) FROM things").await.unwrap_err().to_string();
    assert!(error.contains("only a cache, delete it") && error.contains(".parquet"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_moved_to_another_partition_is_one_row() {
    let mut world = World::new(4).await;
    for i in 0..12 {
        world.put(&format!("k{i}"), i).await;
    }
    // As after a change of the partition count: the newer events of a key are of a later life, in whatever partition.
    let ends: Vec<i64> = world
        .history
        .log
        .extents(&world.source.collection.topic())
        .await
        .unwrap()
        .unwrap()
        .iter()
        .map(|e| e.end)
        .collect();
    world.source.epochs = Arc::new(Epochs::first(4).extended(&ends));
    for i in 0..6 {
        let record = primal_core::record::NewRecord {
            partition: Some(i % 4),
            ..Event {
                collection: world.source.collection.clone(),
                key: format!("k{i}"),
                op: if i == 5 { Op::Delete } else { Op::Put },
                id: format!("moved{i}"),
                source: "/test".into(),
                kind: "thing".into(),
                time: "2013-01-01T00:00:00Z".into(),
                data: (i != 5).then(|| format!("{{\"n\":{}}}", i + 100)),
                data_schema: None,
                primal: Primal::STANDARD,
                extensions: Vec::new(),
            }
            .into_record()
        };
        world.history.log.append(vec![record]).await.unwrap();
    }
    for every in [None, Some(2)] {
        if let Some(every) = every {
            world.snapshot(every).await;
        }
        let all = world.all(None).await;
        assert_eq!(all.len(), 11, "{all:?}");
        assert_eq!((all["k0"], all["k4"], all["k6"]), (100, 104, 6));
        assert_eq!(world.ask(None, "SELECT n FROM things WHERE _key = 'k2'").await.unwrap(), [["102"]]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_statement_says_what_there_is() {
    let world = busy(1).await;
    for (sql, part) in [
        ("SELECT m FROM things", "No field named m"),
        ("SELECT * FROM thinks", "thinks"),
        ("SELEC 1", "SELEC"),
        ("DROP TABLE things", "not supported"),
        ("INSERT INTO things VALUES (1)", ""),
    ] {
        let error = world.ask(None, sql).await.unwrap_err();
        assert!(matches!(error, QueryError::Sql(_)) && error.to_string().contains(part), "{sql}: {error}");
    }
}
