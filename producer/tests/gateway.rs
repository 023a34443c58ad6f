//! The gateway over real TCP: what it answers, and what it does with clients that are slow, wrong or hostile.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use primal_core::error::{AppendError, LogError};
use primal_core::log::{Appended, EventLog, Extent, Member, PartitionReader, Subscription, TopicSpec};
use primal_core::record::NewRecord;
use primal_core::{Collection, Env, Offset, Partition, Timestamp, Topic, lives};
use primal_log_embedded::{Config, EmbeddedLog};
use primal_producer::gateway::{Gateway, Hub, Later, Limits};
use primal_producer::{Options, Producer, Published};
use primal_schemas::Schema;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

struct Quiet;

impl Hub for Quiet {
    fn ready(&self) -> Later<Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
    fn metrics(&self) -> String {
        "primalcore_up 1\n".to_owned()
    }
    fn status(&self) -> Later<Value> {
        Box::pin(async { json!({ "sinks": [] }) })
    }
}

struct Served {
    url: String,
    log: Arc<dyn EventLog>,
    client: Client,
    shutdown: CancellationToken,
    folder: tempfile::TempDir,
}

const SCHEMA: &str = r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}"#;

fn limits() -> Limits {
    Limits { idle: Duration::from_millis(500), ..Limits::default() }
}

async fn serve() -> Served {
    within(limits()).await
}

async fn within(limits: Limits) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { path: folder.path().join("log.db") };
    let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(config, Env::system()).await.unwrap());
    over(log, folder, limits).await
}

async fn over(log: Arc<dyn EventLog>, folder: tempfile::TempDir, limits: Limits) -> Served {
    let names = ["things", "strict"].map(|name| Collection::new(name).unwrap());
    let lives = lives::open(&*log, &names.clone().map(|name| (name, 2))).await.unwrap();
    let published = names.iter().map(|name| Published {
        collection: name.clone(),
        epochs: Ok(Arc::new(lives[name].as_ref().unwrap().clone())),
        schema: (name.as_str() == "strict").then(|| Arc::new(Schema::parse("strict.json", SCHEMA).unwrap())),
    });
    let producer = Producer::new(log.clone(), published.collect(), Options::default(), Env::system());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    tokio::spawn(Gateway::new(Arc::new(producer), Arc::new(Quiet), limits).serve(listener, shutdown.clone()));
    // In a build with stores that speak HTTPS, a client wants a provider of cryptography.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Served { url, log, client: Client::new(), shutdown, folder }
}

impl Served {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> (StatusCode, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let text = answer.text().await.unwrap();
        if status.is_client_error() || status.is_server_error() {
            assert_eq!(kind, "application/problem+json", "{text}");
        }
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn put(&self, path: &str, body: &str) -> (StatusCode, Value) {
        self.ask(Method::PUT, &format!("/v1/collections/{path}"), &[], body.to_owned()).await
    }

    async fn with(&self, name: &str, value: &str) -> (StatusCode, Value) {
        self.ask(Method::PUT, "/v1/collections/things/entities/a", &[(name, value)], "{}").await
    }

    async fn events(&self, media: &str, body: String) -> (StatusCode, Value) {
        self.ask(Method::POST, "/v1/events", &[("content-type", media)], body).await
    }

    async fn count(&self) -> i64 {
        let mut sum = 0;
        for name in ["things", "strict"] {
            let extents = self.log.extents(&Collection::new(name).unwrap().topic()).await.unwrap().unwrap();
            sum += extents.iter().map(|extent| extent.end).sum::<i64>();
        }
        sum
    }
}

fn event(id: &str, key: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/t", "type": "thing.made", "collection": "things", "subject": key,
        "data": { "n": 1 }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_every_form_get_receipts() {
    let served = serve().await;
    let (status, answer) = served.put("things/entities/a%2Fb%20%C3%A9", r#"{"n":1}"#).await;
    assert_eq!(status, 201, "{answer}");
    let receipt = &answer["receipts"][0];
    assert_eq!(receipt["version"].as_i64(), receipt["offset"].as_i64().map(|offset| offset + 1));
    let (status, _) = served.ask(Method::DELETE, "/v1/collections/things/entities/a", &[], "").await;
    assert_eq!(status, 201);
    let (status, _) = served.events("application/cloudevents+json", event("e1", "k").to_string()).await;
    assert_eq!(status, 201);
    let batch = json!([event("e2", "k"), event("e3", "k"), event("e2", "k")]);
    let (status, answer) = served.events("application/cloudevents-batch+json", batch.to_string()).await;
    assert_eq!(status, 201);
    assert_eq!(answer["receipts"][0]["offset"], answer["receipts"][2]["offset"], "one id, one event: {answer}");
    let line = |i| format!("{{\"collection\":\"things\",\"key\":\"k{}\",\"data\":{{\"n\":{i}}}}}\n", i % 9);
    let lines: String = (0..5_000).map(line).collect();
    let (status, answer) = served.events("application/x-ndjson", lines).await;
    assert_eq!((status.as_u16(), &answer["sent"]), (201, &json!(5_000)));
    assert_eq!(served.count().await, 5_005);
    for path in ["/", "/v1/status", "/health/live", "/health/ready", "/metrics", "/openapi.json"] {
        assert_eq!(served.ask(Method::GET, path, &[], "").await.0, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_id_is_one_event_also_at_once_and_after_a_restart() {
    let served = serve().await;
    let send = || served.events("application/cloudevents+json", event("same", "k").to_string());
    let all = futures::future::join_all((0..20).map(|_| send())).await;
    let offsets: std::collections::BTreeSet<_> = all.iter().map(|(_, a)| a["receipts"][0]["offset"].as_i64()).collect();
    assert_eq!(offsets.len(), 1, "{all:?}");
    assert_eq!(all.iter().filter(|(status, _)| *status == 201).count(), 1);
    assert_eq!(served.count().await, 1);
    let Served { log, folder, .. } = served;
    let again = over(log, folder, limits()).await;
    let (status, answer) = again.events("application/cloudevents+json", event("same", "k").to_string()).await;
    assert_eq!((status.as_u16(), &answer["receipts"][0]["repeated"]), (200, &json!(true)));
    assert_eq!(again.count().await, 1);
}

/// A log that takes its time to append, and appends whether anybody waits for it or not, as a client of Kafka does.
struct Slow(Arc<dyn EventLog>);

#[async_trait::async_trait]
impl EventLog for Slow {
    async fn create(&self, topic: &Topic, spec: TopicSpec) -> Result<(), LogError> {
        self.0.create(topic, spec).await
    }
    async fn extents(&self, topic: &Topic) -> Result<Option<Vec<Extent>>, LogError> {
        self.0.extents(topic).await
    }
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError> {
        let log = self.0.clone();
        let later = async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            log.append(records).await
        };
        tokio::spawn(later).await.unwrap()
    }
    async fn offsets_at(&self, topic: &Topic, at: Timestamp) -> Result<Vec<Offset>, LogError> {
        self.0.offsets_at(topic, at).await
    }
    async fn subscribe(&self, member: &Member, topics: &[Topic]) -> Result<Box<dyn Subscription>, LogError> {
        self.0.subscribe(member, topics).await
    }
    async fn read(
        &self,
        topic: &Topic,
        partition: Partition,
        range: Range<Offset>,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        self.0.read(topic, partition, range).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_given_up_and_is_sent_again_is_one_event() {
    let Served { log, folder, .. } = serve().await;
    let served = over(Arc::new(Slow(log)), folder, Limits { answer: Duration::from_millis(100), ..limits() }).await;
    let mut answers = Vec::new();
    let receipt = loop {
        let (status, answer) = served.events("application/cloudevents+json", event("same", "k").to_string()).await;
        if status.is_success() {
            break answer;
        }
        answers.push(status.as_u16());
    };
    assert!(answers.len() >= 2 && answers.iter().all(|status| *status == 503), "{answers:?}");
    assert_eq!(receipt["receipts"][0]["repeated"], json!(true));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(served.count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_answered_by_its_name_and_appends_nothing() {
    let served = serve().await;
    let large = format!("{{\"s\":\"{}\"}}", "x".repeat(1 << 20));
    let cases: Vec<(&str, &str, u16, &str, &str)> = vec![
        ("thigns/entities/a", "{}", 404, "field", "collection"),
        ("things/entities/%00", "{}", 400, "field", "key"),
        ("things/entities/a", "[1]", 400, "field", "data"),
        ("things/entities/a", "{\"n\":", 400, "field", "data"),
        ("things/entities/a", "{\"n\":NaN}", 400, "field", "data"),
        ("things/entities/a", "", 400, "field", "data"),
        ("things/entities/a", r#"{"deep":[{"x":"\u0000"}]}"#, 400, "field", "data/deep/0/x"),
        ("strict/entities/a", r#"{"n":"one"}"#, 422, "field", "data"),
        ("things/entities/a", &large, 413, "title", "The body is too large"),
    ];
    for (path, body, status, member, expected) in cases {
        let (found, problem) = served.put(path, body).await;
        assert_eq!((found.as_u16(), &problem[member]), (status, &json!(expected)), "{path} {problem}");
    }
    let long = "k".repeat(513);
    let (status, problem) = served.put(&format!("things/entities/{long}"), "{}").await;
    assert_eq!((status.as_u16(), &problem["field"]), (400, &json!("key")));
    assert!(served.put(&format!("things/entities/{}", &long[..512]), "{}").await.0.is_success());
    let (_, problem) = served.put("thigns/entities/a", "{}").await;
    assert!(problem["detail"].as_str().unwrap().contains("did you mean `things`?"));
    assert_eq!(served.with("if-match", "\"1\"").await.0, 501);
    assert_eq!(served.with("ce-time", "noon").await.1["field"], "time");
    assert_eq!(served.with("ce-primal", "1,2").await.1["field"], "primal");
    assert_eq!(served.ask(Method::POST, "/health/live", &[], "").await.0, 405);
    assert_eq!(served.ask(Method::GET, "/nowhere", &[], "").await.0, 404);
    assert_eq!(served.events("text/plain", "x".into()).await.0, 415);
    let required = [
        ("id", "id"),
        ("source", "source"),
        ("collection", "collection"),
        ("specversion", "specversion"),
        ("subject", "key"),
    ];
    for (missing, field) in required {
        let mut event = event("e", "k");
        event.as_object_mut().unwrap().remove(missing);
        let (status, problem) = served.events("application/cloudevents+json", event.to_string()).await;
        assert_eq!((status.as_u16(), &problem["field"]), (400, &json!(field)), "{problem}");
    }
    let batch = json!([event("b1", "k"), { "specversion": "1.0" }]).to_string();
    let (status, problem) = served.events("application/cloudevents-batch+json", batch).await;
    assert_eq!((status.as_u16(), &problem["index"]), (400, &json!(1)));
    assert_eq!(served.count().await, 1, "only the key of 512 bytes was good");
    let line = |key: &str, data: &str| format!("{{\"collection\":\"things\",\"key\":\"{key}\",\"{data}\":{{}}}}\n");
    let lines = line("a", "data") + &line("b", "dat") + &line("c", "data");
    let (status, problem) = served.events("application/x-ndjson", lines).await;
    assert_eq!((status.as_u16(), &problem["line"], &problem["sent"]), (400, &json!(2), &json!(1)), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("did you mean `data`?"), "{problem}");
}

async fn raw(url: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    // The other side may hang up before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_clients_are_answered_or_cut_off_and_others_are_served() {
    let served = serve().await;
    let head = "PUT /v1/collections/things/entities/a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n";
    let slow = raw(&served.url, format!("{head}content-length: 10\r\n\r\n{{\"n\"").as_bytes()).await;
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    let announced = raw(&served.url, format!("{head}content-length: 1073741824\r\n\r\n").as_bytes()).await;
    assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    let chunked = raw(&served.url, format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}{chunk}").as_bytes()).await;
    assert!(chunked.is_empty() || chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    let broken = raw(&served.url, format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n").as_bytes()).await;
    assert!(broken.is_empty() || broken.starts_with("HTTP/1.1 400"), "{broken}");
    let noise: Vec<u8> = (0..4_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let noise = raw(&served.url, &noise).await;
    assert!(noise.is_empty() || noise.starts_with("HTTP/1.1 400"), "{noise}");
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(TcpStream::connect(served.url.strip_prefix("http://").unwrap()).await.unwrap());
    }
    let started = std::time::Instant::now();
    assert_eq!(served.put("things/entities/a", "{}").await.0, 201);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(served.count().await, 1);
    served.shutdown.cancel();
}

async fn open(served: &Served, begun: &str) -> TcpStream {
    let mut stream = TcpStream::connect(served.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(begun.as_bytes()).await.unwrap();
    stream
}

/// Whether the other side has said something.
async fn peeked(stream: &TcpStream) -> Option<usize> {
    tokio::time::timeout(Duration::from_millis(1), stream.peek(&mut [0])).await.ok()?.ok()
}

async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

const PUT: &str = "PUT /v1/collections/things/entities/a HTTP/1.1\r\nhost: h\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_only_hold_connections_cannot_shut_others_out() {
    let patient = Duration::from_secs(600);
    let limits = Limits { connections: 20, idle: patient, body: patient, keep_alive: patient, ..Limits::default() };
    let served = within(limits).await;
    let mut held = Vec::new();
    for number in 0..100 {
        let slow = format!("{PUT}content-length: 9\r\n\r\n{{");
        held.push(open(&served, ["", PUT, &slow, "GET /health/live HTTP/1.1\r\nhost: h\r\n\r\n"][number % 4]).await);
    }
    for _ in 0..5 {
        assert_eq!(served.put("things/entities/a", "{}").await.0, 201);
    }
    // The last of those that hold on are still there, the first are not.
    held.truncate(1);
    assert_eq!(rest(held.remove(0)).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_drips_and_unread_answers_end() {
    let short = Duration::from_millis(700);
    let served = within(Limits { body: short, keep_alive: short, ..limits() }).await;
    assert_eq!(rest(open(&served, "").await).await, "");
    assert_eq!(rest(open(&served, PUT).await).await, "");
    let kept = rest(open(&served, "GET /health/live HTTP/1.1\r\nhost: h\r\n\r\n").await).await;
    assert!(kept.starts_with("HTTP/1.1 200"), "{kept}");
    let lines = "POST /v1/events HTTP/1.1\r\nhost: h\r\ncontent-type: application/x-ndjson\r\n";
    for head in [PUT, lines] {
        let mut stream = open(&served, &format!("{head}connection: close\r\ncontent-length: 100\r\n\r\n")).await;
        let dripping = async {
            while stream.write_all(b"{").await.is_ok() && peeked(&stream).await.is_none() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), dripping).await.unwrap();
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    // So many answers that they do not fit between the two; the gateway ends it though nothing is wrong with the requests.
    let mut unread = open(&served, "").await;
    let ask = "GET /openapi.json HTTP/1.1\r\nhost: h\r\n\r\n".repeat(1_000);
    let ended = async { while unread.write_all(ask.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_in_the_log_while_the_stream_goes_on() {
    let served = serve().await;
    let head =
        "POST /v1/events HTTP/1.1\r\nhost: h\r\ncontent-type: application/x-ndjson\r\ncontent-length: 1000\r\n\r\n";
    let line = "{\"collection\":\"things\",\"key\":\"k\",\"data\":{}}\n";
    let _stream = open(&served, &format!("{head}{line}{line}")).await;
    let arrived = async {
        while served.count().await < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_millis(400), arrived).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_share_a_limited_memory_and_small_ones_always_fit() {
    let served = within(Limits { all_bodies_bytes: 300_000, ..limits() }).await;
    let large = format!("{{\"s\":\"{}\"}}", "x".repeat(400_000));
    let (status, problem) = served.put("things/entities/a", &large).await;
    assert_eq!((status.as_u16(), &problem["type"]), (503, &json!("urn:primalcore:problem:overloaded")));
    let unfinished = "x".repeat(250_000);
    let lines =
        "POST /v1/events HTTP/1.1\r\nhost: h\r\ncontent-type: application/x-ndjson\r\ncontent-length: 900000\r\n\r\n";
    let _holds = open(&served, &format!("{lines}{unfinished}")).await;
    let second = open(&served, &format!("{lines}{unfinished}")).await;
    assert_eq!(served.put("things/entities/a", "{}").await.0, 201);
    let line = "{\"collection\":\"things\",\"key\":\"k\",\"data\":{}}\n";
    let (status, answer) = served.events("application/x-ndjson", line.repeat(1_000)).await;
    assert_eq!((status.as_u16(), &answer["sent"]), (201, &json!(1_000)));
    assert!(rest(second).await.starts_with("HTTP/1.1 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn small_requests_cannot_need_much_memory() {
    let served = serve().await;
    let (status, problem) =
        served.events("application/cloudevents-batch+json", format!("[1{}]", ",1".repeat(10_000))).await;
    assert_eq!(status, 400);
    assert!(problem["detail"].as_str().unwrap().contains("at most 10000 events"), "{problem}");
    let mut many = event("e", "k");
    for number in 0..64 {
        many[format!("x{number}")] = json!(1);
    }
    let (status, problem) = served.events("application/cloudevents+json", many.to_string()).await;
    assert_eq!(status, 400);
    assert!(problem["detail"].as_str().unwrap().contains("at most 64 attributes"), "{problem}");
    let mut long = event("e", "k");
    long["collection"] = json!("\u{1}".repeat(1_000_000));
    let (status, problem) = served.events("application/cloudevents+json", long.to_string()).await;
    assert_eq!(status, 404);
    assert!(problem.to_string().len() < 10_000);
}
