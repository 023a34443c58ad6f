//! What a worker does when its place in the group is taken: once it may have been itself, so it takes the place back; again
//! soon after, it is another process with its name, and it stops and says so.

#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::sync::Arc;
use std::time::Duration;

use primal_core::log::{Change, EventLog, Member, TopicSpec};
use primal_core::settings::{Node, Settings, Value};
use primal_core::{Collection, Env, Epochs, Projection, Sink, Topic};
use primal_log_sim::{Plan, SimLog, World};
use primal_runtime::{Feed, Options, Worker, WorkerError};
use primal_sink_memory::MEMORY;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Scene {
    world: Arc<World>,
    shutdown: CancellationToken,
    worker: JoinHandle<Result<(), WorkerError>>,
}

fn collection() -> Collection {
    Collection::new("things").unwrap()
}

fn sink() -> Arc<dyn Sink> {
    (MEMORY.build)(&Settings::new("test", "sinks.sink", Node { line: 1, value: Value::Map(Vec::new()) })).unwrap()
}

impl Scene {
    /// A worker that has its partitions.
    async fn new() -> Self {
        let world = World::new(Plan::default());
        world.create(&collection().topic(), TopicSpec { partitions: 2, compacted: false });
        world.create(&Topic::dead_letters("sink"), TopicSpec { partitions: 1, compacted: false });
        let process = world.process("worker");
        let feed = Feed {
            collection: collection(),
            epochs: Arc::new(Epochs::first(2)),
            projection: Projection::Document,
            table: None,
            mapping: Arc::default(),
        };
        let log: Arc<dyn EventLog> = Arc::new(SimLog::new(&process));
        let env: Env = process.env();
        let worker = Worker::new("sink", "one", &MEMORY, sink(), log, vec![feed], Options::default(), env);
        let worker = worker.await.unwrap();
        let shutdown = CancellationToken::new();
        let scene = Scene { world, shutdown: shutdown.clone(), worker: tokio::spawn(worker.run(shutdown)) };
        tokio::time::sleep(Duration::from_secs(5)).await;
        scene
    }

    /// Takes the worker's place under its name, and waits until it is taken back.
    async fn take_the_place(&self) {
        let member = Member { group: "primalcore.sink".to_owned(), instance: "sink.one".to_owned() };
        let log = SimLog::new(&self.world.process("another"));
        let mut subscription = log.subscribe(&member, &[collection().topic()]).await.unwrap();
        let lost = async { while let Ok(Change::Assigned(_)) = subscription.next().await {} };
        let _ = tokio::time::timeout(Duration::from_secs(30), lost).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_that_was_taken_once_is_taken_back() {
    let scene = Scene::new().await;
    for _ in 0..2 {
        scene.take_the_place().await;
        tokio::time::sleep(Duration::from_secs(125)).await;
        assert!(!scene.worker.is_finished(), "a worker whose place was taken once goes on");
    }
    scene.shutdown.cancel();
    scene.worker.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_place_is_taken_again_stops() {
    let scene = Scene::new().await;
    scene.take_the_place().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    scene.take_the_place().await;
    let ended = tokio::time::timeout(Duration::from_secs(30), scene.worker).await.expect("it stops");
    assert!(ended.unwrap().unwrap_err().reason.contains("taken"));
}
