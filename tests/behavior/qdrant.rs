//! Qdrant as somebody who searches sees it, texts that are embedded by a service, and servers that do not fit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use primal_core::mapping::{Distance, Mapping, Vector, VectorSource};
use primal_core::settings::{Node, Settings, Value as Setting};
use primal_core::sink::{Build, Projection};
use primal_core::{Fault, Position, Target};
use primal_tests::Server;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::script::{Script, all, assert_holds};
use crate::stores::{Store, settings};

const VECTOR: Projection = Projection::Vector;

#[derive(serde::Deserialize)]
struct Place {
    url: String,
    api_key: String,
    prefix: String,
}

struct World {
    store: Store,
    place: Place,
    target: Target,
}

impl World {
    async fn new() -> Self {
        let store = Store::new(primal_registry::find("qdrant").unwrap()).await;
        let (place, target) = (store.settings.read().unwrap(), store.target(VECTOR));
        World { store, place, target }
    }

    /// Asks the server; `P_` in the path stands for the prefix of collections.
    async fn ask(&self, method: reqwest::Method, path: &str, body: Value) -> Value {
        let url = format!("{}{}", self.place.url, path.replace("P_", &self.place.prefix));
        let request = reqwest::Client::new().request(method, url).header("api-key", &self.place.api_key).json(&body);
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Keys of what is nearest to a vector, by the plain name.
    async fn nearest(&self, to: [f32; 3], filter: Value) -> Vec<String> {
        let body = json!({ "query": to, "limit": 10, "filter": filter, "with_payload": true });
        let answer = self.ask(reqwest::Method::POST, "/collections/P_my-flights/points/query", body).await;
        let points = answer["result"]["points"].as_array().unwrap_or_else(|| panic!("{answer}"));
        points.iter().map(|point| point["payload"]["_key"].as_str().unwrap().to_owned()).collect()
    }

    /// The same store with vectors of texts, embedded by a service at `url`.
    fn with_embedding(self, url: &str) -> Self {
        let text = |value: &str| Node { line: 1, value: Setting::Text(value.to_owned()) };
        let map = |pairs: &[(&str, Node)]| Node {
            line: 1,
            value: Setting::Map(pairs.iter().map(|(name, node)| ((*name).to_owned(), 1, node.clone())).collect()),
        };
        let embedding = map(&[("url", text(url)), ("model", text("small")), ("key", text("secret"))]);
        let Place { url, api_key, prefix } = &self.place;
        let all = [("url", text(url)), ("api_key", text(api_key)), ("prefix", text(prefix)), ("embedding", embedding)];
        let store = Store::at(self.store.spec, Settings::new("test", "sinks.sink", map(&all)));
        World { store, target: texts(&self.target), ..self }
    }
}

/// The target with vectors of the members `title` and `body`.
fn texts(target: &Target) -> Target {
    let source = VectorSource::Text(vec!["title".into(), "body".into()]);
    let vector = Vector { source, size: 3, distance: Distance::Euclid };
    Target { mapping: Arc::new(Mapping::Vector(vector)), ..target.clone() }
}

const ALIVE: &str = r#"{"must":[{"key":"_deleted","match":{"value":false}}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn searches_find_what_is_there_by_the_plain_name_and_nothing_of_the_hubs_own() {
    let world = World::new().await;
    let (store, target) = (&world.store, &world.target);
    store.sink.prepare(target).await.unwrap();
    let script = Script::of(&[
        ("x", Some(r#"{"v":[1,0,0],"city":"Newark"}"#)),
        ("y", Some(r#"{"v":[0,1,0],"city":"Newark","deep":{"n":[1,2]}}"#)),
        ("z", Some(r#"{"v":[0.9,0,0.1],"city":"New York"}"#)),
        ("gone", Some(r#"{"v":[1,0,0]}"#)),
        ("gone", None),
        ("x", Some(r#"{"v":[0,0,1],"city":"Boston"}"#)),
    ]);
    store.sink.write(target, &script.advancing(VECTOR, 0..4)).await.unwrap();
    let alive: Value = serde_json::from_str(ALIVE).unwrap();
    assert_eq!(world.nearest([1.0, 0.0, 0.0], alive.clone()).await[2], "z");
    let newark = json!({ "must": [{ "key": "data.city", "match": { "value": "Newark" } }] });
    assert_eq!(world.nearest([1.0, 0.0, 0.0], newark).await, ["x", "y"]);
    let deep = json!({ "must": [{ "key": "data.deep.n[]", "match": { "value": 2 } }] });
    assert_eq!(world.nearest([1.0, 0.0, 0.0], deep).await, ["y"]);
    // A correction moves a vector; a tombstone is seen by who does not leave it out.
    store.sink.write(target, &script.advancing(VECTOR, 4..6)).await.unwrap();
    assert_eq!(world.nearest([1.0, 0.0, 0.0], alive.clone()).await[0], "z");
    assert_eq!(world.nearest([0.0, 0.0, 1.0], alive.clone()).await[0], "x");
    assert_eq!(world.nearest([1.0, 0.0, 0.0], alive.clone()).await.len(), 3);
    assert_eq!(world.nearest([1.0, 0.0, 0.0], json!({})).await.len(), 4);

    // After a swap the plain name shows the other generation.
    let (swap, beside) = (store.sink.swap().unwrap(), target.with_build(Build::Beside(2)));
    swap.begin(&beside, "plan").await.unwrap();
    store.sink.write(&beside, &script.advancing(VECTOR, 0..1)).await.unwrap();
    assert_eq!(world.nearest([1.0, 0.0, 0.0], alive.clone()).await.len(), 3);
    assert!(swap.swap(&beside, false).await.unwrap());
    assert_eq!(world.nearest([1.0, 0.0, 0.0], alive).await, ["x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_of_other_vectors_or_of_somebody_else_is_refused_before_anything_is_made() {
    let world = World::new().await;
    let sink = &world.store.sink;
    sink.prepare(&world.target).await.unwrap();
    let vector = |size, distance| {
        let vector = Vector { source: VectorSource::Field("v".into()), size, distance };
        Target { mapping: Arc::new(Mapping::Vector(vector)), ..world.target.clone() }
    };
    for (other, part) in [(vector(4, Distance::Cosine), "4 by Cosine"), (vector(3, Distance::Dot), "3 by Dot")] {
        let error = sink.prepare(&other).await.unwrap_err();
        assert_eq!(error.fault, Fault::Incompatible, "{error}");
        let text = error.to_string();
        assert!(text.contains("3 dimensions by Cosine") && text.contains(part) && text.contains("replay"), "{text}");
    }
    // Beside it may be built.
    let swap = sink.swap().unwrap();
    swap.begin(&vector(4, Distance::Cosine).with_build(Build::Beside(2)), "plan").await.unwrap();

    let mine = Target { collection: primal_core::Collection::new("mine").unwrap(), ..world.target.clone() };
    let body = json!({ "vectors": { "size": 3, "distance": "Cosine" } });
    world.ask(reqwest::Method::PUT, "/collections/P_mine", body).await;
    let error = sink.prepare(&mine).await.unwrap_err();
    assert_eq!(error.fault, Fault::Incompatible, "{error}");
    assert!(error.to_string().contains("not made by this hub"), "{error}");
    let found = world.ask(reqwest::Method::GET, "/collections", Value::Null).await;
    assert!(!found.to_string().contains("mine__g1"), "{found}");
    let plain = Target { mapping: Arc::default(), ..world.target.clone() };
    assert_eq!(sink.prepare(&plain).await.unwrap_err().fault, Fault::Misconfigured);
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_of_a_collection_that_was_deleted_are_not_believed() {
    let world = World::new().await;
    let (store, target) = (&world.store, &world.target);
    store.sink.prepare(target).await.unwrap();
    let script = Script::of(&[("k", Some(r#"{"v":[1,0,0]}"#))]);
    store.sink.write(target, &script.advancing(VECTOR, 0..1)).await.unwrap();
    world.ask(reqwest::Method::DELETE, "/collections/P_my-flights__g1", Value::Null).await;
    let error = store.sink.write(target, &script.batch(VECTOR, 0..1)).await.unwrap_err();
    assert_eq!(error.fault, Fault::Internal, "{error}");
    store.sink.prepare(target).await.unwrap();
    assert!(store.sink.positions(target).await.unwrap().is_empty());
    store.sink.write(target, &script.advancing(VECTOR, 0..1)).await.unwrap();
    assert_holds(&*store.sink, target, &script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_larger_than_a_request_is_written_in_several() {
    let world = World::new().await;
    let (store, target) = (&world.store, &world.target);
    store.sink.prepare(target).await.unwrap();
    // The number makes each be kept twice.
    let data = format!(r#"{{"v":[1,0,0],"x":1e300,"s":"{}"}}"#, "x".repeat(2_500_000));
    let keys: Vec<_> = (0..8).map(|i| format!("k{i}")).collect();
    let events: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(data.as_str()))).collect();
    let script = Script::of(&events);
    store.sink.write(target, &script.advancing(VECTOR, 0..8)).await.unwrap();
    store.sink.write(target, &script.batch(VECTOR, 0..8).repairing()).await.unwrap();
    assert_holds(&*store.sink, target, &script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_kill() {
    let server = tokio::task::spawn_blocking(|| Server::start("qdrant")).await.unwrap();
    let pairs = [("url", server.url()), ("api_key", "primalcore".to_owned())];
    let store = Store::at(primal_registry::find("qdrant").unwrap(), settings(&pairs));
    let target = store.target(VECTOR);
    store.sink.prepare(&target).await.unwrap();
    let script = Script::of(&[("a", Some(r#"{"v":[1,0,0]}"#)), ("b", Some(r#"{"v":[1,0,0]}"#)), ("a", None)]);
    for offset in 0..3 {
        store.sink.write(&target, &script.advancing(VECTOR, offset..offset + 1)).await.unwrap();
        let server = &server;
        tokio::task::block_in_place(|| {
            server.kill();
            server.restart();
        });
        assert_eq!(store.sink.positions(&target).await.unwrap()[&0], Position(offset as u64 + 1));
    }
    assert_holds(&*store.sink, &target, &script).await;
}

/// A server that answers each request as it is told to; requests are counted.
struct Endpoint {
    url: String,
    count: Arc<AtomicUsize>,
    last: Arc<Mutex<String>>,
}

impl Endpoint {
    async fn start(answer: fn(&Value) -> (u16, Value)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (count, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
        let (counted, kept) = (count.clone(), last.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (mut request, mut part) = (Vec::new(), [0; 65_536]);
                let (head, body) = loop {
                    let read = stream.read(&mut part).await.unwrap();
                    request.extend_from_slice(&part[..read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head
                        .lines()
                        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                    if body.len() >= length.unwrap_or(0) {
                        break (head.to_owned(), body.to_owned());
                    }
                };
                counted.fetch_add(1, Ordering::Relaxed);
                *kept.lock().unwrap() = head;
                let (status, answer) = answer(&serde_json::from_str(&body).unwrap_or(Value::Null));
                let answer = answer.to_string();
                let head =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
                stream.write_all(format!("{head}{answer}").as_bytes()).await.unwrap();
            }
        });
        Endpoint { url, count, last }
    }
}

/// A vector of a text: how long it is, how many lines it has, and a one.
fn embeddings(request: &Value) -> (u16, Value) {
    let texts: Vec<&str> = request["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    if request["model"] != "small" || texts.len() > 256 {
        return (404, json!({ "error": "no such model" }));
    }
    if texts.contains(&"too long") {
        return (400, json!({ "error": "a text is too long" }));
    }
    let one = |(index, text): (usize, &&str)| json!({ "object": "embedding", "index": index, "embedding": [text.len(), text.lines().count(), 1] });
    // In any order.
    let data: Vec<_> = texts.iter().enumerate().map(one).rev().collect();
    (200, json!({ "object": "list", "data": data, "model": "small", "usage": { "total_tokens": 1 } }))
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_embedded_in_one_request_a_batch_and_what_is_stale_is_not() {
    let endpoint = Endpoint::start(embeddings).await;
    let world = World::new().await.with_embedding(&endpoint.url);
    let (store, target) = (&world.store, &world.target);
    store.sink.prepare(target).await.unwrap();
    let data: Vec<_> = (0..300).map(|i| format!(r#"{{"title":"{}","body":"b","n":{i}}}"#, "x".repeat(i))).collect();
    let keys: Vec<_> = (0..300).map(|i| format!("k{i}")).collect();
    let mut events: Vec<_> = keys.iter().zip(&data).map(|(key, data)| (key.as_str(), Some(data.as_str()))).collect();
    events.push(("k7", None));
    let script = Script::of(&events);
    store.sink.write(target, &script.advancing(VECTOR, 0..10)).await.unwrap();
    assert_eq!(endpoint.count.load(Ordering::Relaxed), 1);
    let asked = endpoint.last.lock().unwrap().to_lowercase();
    assert!(asked.starts_with("post /v1/embeddings ") && asked.contains("authorization: bearer secret"), "{asked}");
    store.sink.write(target, &script.advancing(VECTOR, 10..301)).await.unwrap();
    assert_eq!(endpoint.count.load(Ordering::Relaxed), 3, "256 texts and then the rest");
    assert_holds(&*store.sink, target, &script).await;
    let again = store.sink.write(target, &script.batch(VECTOR, 0..301)).await.unwrap();
    assert_eq!((again.applied, again.stale, endpoint.count.load(Ordering::Relaxed)), (0, 300, 3));
    let alive: Value = serde_json::from_str(ALIVE).unwrap();
    let found = world.nearest([22.0, 2.0, 1.0], alive).await;
    assert_eq!(found[0], "k20");
    assert!(store.sink.check().await.unwrap().notes.iter().any(|note| note.contains("small at")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_cannot_be_embedded_is_refused_and_a_service_that_does_not_fit_stops_the_sink() {
    let good = Script::of(&[("k", Some(r#"{"title":"t"}"#))]);
    let write = async |answer, script: &Script| {
        let endpoint = Endpoint::start(answer).await;
        let world = World::new().await.with_embedding(&endpoint.url);
        world.store.sink.prepare(&world.target).await.unwrap();
        let written = world.store.sink.write(&world.target, &script.advancing(VECTOR, 0..script.len())).await;
        assert!(all(&*world.store.sink, &world.target).await.is_empty());
        assert!(world.store.sink.positions(&world.target).await.unwrap().is_empty());
        let error = written.unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        error
    };
    let long = Script::of(&[("a", Some(r#"{"title":"t"}"#)), ("b", Some(r#"{"body":"too long"}"#))]);
    assert_eq!(write(embeddings, &long).await.fault, Fault::Rejected(Vec::new()));
    let error = write(embeddings, &Script::of(&[("a", Some(r#"{"n":1}"#))])).await;
    assert!(matches!(&error.fault, Fault::Rejected(rejected) if rejected[0].offset == 0), "{error}");
    let other_size = |_: &Value| (200, json!({ "data": [{ "index": 0, "embedding": [1, 2] }] }));
    let error = write(other_size, &good).await;
    assert_eq!(error.fault, Fault::Misconfigured, "{error}");
    assert!(error.to_string().contains("2 dimensions") && error.to_string().contains("says 3"), "{error}");
    for (answer, fault) in [
        ((|_| (401, json!("who?"))) as fn(&Value) -> (u16, Value), Fault::Unauthorized),
        (|_| (429, json!("later")), Fault::Unavailable),
        (|_| (400, json!("no such model")), Fault::Misconfigured),
        (|_| (404, json!("no such model")), Fault::Misconfigured),
        (|_| (200, json!({ "data": [] })), Fault::Internal),
    ] {
        let error = write(answer, &good).await;
        assert_eq!(error.fault, fault, "{error}");
    }
    // Without a service.
    let world = World::new().await;
    let error = world.store.sink.prepare(&texts(&world.target)).await.unwrap_err();
    assert_eq!(error.fault, Fault::Misconfigured, "{error}");
    assert!(error.to_string().contains("set `embedding` for sink sink"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_compares_no_versions_is_refused() {
    let old =
        Endpoint::start(|_| (200, json!({ "title": "qdrant - vector search engine", "version": "1.15.5" }))).await;
    let pairs = [("url", old.url.replace("/v1", ""))];
    let store = Store::at(primal_registry::find("qdrant").unwrap(), settings(&pairs));
    for error in [store.sink.check().await.unwrap_err(), store.sink.prepare(&store.target(VECTOR)).await.unwrap_err()] {
        assert_eq!(error.fault, Fault::Misconfigured, "{error}");
        assert!(error.to_string().contains("1.15.5") && error.to_string().contains("1.16"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_doubles_cannot_tell_apart_are_not_written() {
    let world = World::new().await;
    world.store.sink.prepare(&world.target).await.unwrap();
    let script = Script::of(&[("k", Some(r#"{"v":[1,0,0]}"#))]);
    let mut batch = script.batch(VECTOR, 0..1);
    batch.events[0].version = primal_core::Version(1 << 53);
    let error = world.store.sink.write(&world.target, &batch).await.unwrap_err();
    assert_eq!(error.fault, Fault::Incompatible, "{error}");
    assert!(all(&*world.store.sink, &world.target).await.is_empty());
}
