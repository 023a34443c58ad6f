//! What hostile clients do.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const HEAD: &str = "PUT /v1/collections/things/entities/a HTTP/1.1\r\nhost: h\r\n";
const LIVE: &str = "GET /health/live HTTP/1.1\r\nhost: h\r\n\r\n";
const LINES: &str = "POST /v1/events HTTP/1.1\r\nhost: h\r\ncontent-type: application/x-ndjson\r\n\
                     transfer-encoding: chunked\r\n\r\n";
const MB: usize = 1 << 20;
/// A crowd comes no longer than this; a busy machine opens fewer connections in it.
const OPENING: Duration = Duration::from_secs(20);

/// A connection from one of several loopback addresses, so that ports suffice.
async fn connect(hub: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::new(127, 0, 0, 2 + (number % 16) as u8), 0).into())?;
    timeout(Duration::from_secs(10), socket.connect(hub)).await?
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Sends until the other side has had enough, or for so many bytes or so long; how many bytes that were.
async fn pour(stream: &mut TcpStream, piece: &[u8], most: usize, time: Duration) -> usize {
    let (mut sent, until) = (0, Instant::now() + time);
    // The last piece is sent whole where the other side takes it.
    while (sent < most && Instant::now() < until) || sent % piece.len() != 0 {
        match timeout(Duration::from_secs(5), stream.write(&piece[sent % piece.len()..])).await {
            Ok(Ok(written)) if written > 0 => sent += written,
            _ => break,
        }
    }
    sent
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 4_096];
    match timeout(Duration::from_secs(5), stream.read(&mut bytes)).await {
        Ok(Ok(length)) => String::from_utf8_lossy(&bytes[..length]).into_owned(),
        _ => String::new(),
    }
}

/// Connections that stay: silent ones, ones with half a head, ones whose body does not come.
pub struct Crowd {
    streams: Vec<TcpStream>,
    pub seconds: f64,
}

impl Crowd {
    pub async fn open(hub: SocketAddr, connections: usize) -> Self {
        let started = Instant::now();
        let mut streams = Vec::with_capacity(connections);
        for first in (0..connections).step_by(200).take_while(|_| started.elapsed() < OPENING) {
            let opened = (first..connections.min(first + 200)).map(async |number| {
                let mut stream = connect(hub, number).await.ok()?;
                // The first have had an answer, and may wait longer than those who come new.
                let begun = match (number < connections * 3 / 4, number % 2 == 0) {
                    (true, true) => LIVE.to_owned(),
                    (true, false) => format!("{LIVE}{HEAD}"),
                    (false, true) => String::new(),
                    (false, false) => format!("{HEAD}content-length: 1000\r\n\r\n{{\"n\":"),
                };
                stream.write_all(begun.as_bytes()).await.ok()?;
                Some(stream)
            });
            streams.extend(join_all(opened).await.into_iter().flatten());
        }
        Crowd { streams, seconds: started.elapsed().as_secs_f64() }
    }

    pub fn opened(&self) -> usize {
        self.streams.len()
    }
}

/// 1 GiB announced, chunks that never end, and 1 GiB of lines, or as much as goes in 10 s.
pub async fn endless_bodies(hub: SocketAddr) {
    let mut announced = connect(hub, 0).await.unwrap();
    announced.write_all(format!("{HEAD}content-length: {}\r\n\r\n", 1 << 30).as_bytes()).await.unwrap();
    assert!(answer(&mut announced).await.starts_with("HTTP/1.1 413"));

    let mut endless = connect(hub, 0).await.unwrap();
    endless.write_all(format!("{HEAD}transfer-encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
    let taken = pour(&mut endless, &chunk(&[b' '; MB]), 1 << 30, Duration::from_secs(5)).await;
    assert!(taken < 64 * MB, "{taken} bytes of a body without end were taken");

    let mut lines = connect(hub, 0).await.unwrap();
    lines.write_all(LINES.as_bytes()).await.unwrap();
    // One id, so that the log takes the first and the rest is only read.
    let line = format!(
        "{{\"collection\":\"things\",\"key\":\"k\",\"id\":\"same\",\"data\":{{\"s\":\"{}\"}}}}\n",
        "x".repeat(MB - 1_000)
    );
    let started = Instant::now();
    let sent = pour(&mut lines, &chunk(line.as_bytes()), 1 << 30, Duration::from_secs(10)).await;
    lines.write_all(b"0\r\n\r\n").await.unwrap();
    let told = answer(&mut lines).await;
    println!("figure: {} MB of lines in {:.1} s", sent / MB, started.elapsed().as_secs_f64());
    assert!(told.starts_with("HTTP/1.1 201"), "{told}");
}

/// Lines that do not end, from many connections, each sent as far as the hub takes it.
pub async fn long_lines(hub: SocketAddr) {
    let mut pouring = JoinSet::new();
    for number in 0..400 {
        pouring.spawn(async move {
            let Ok(mut stream) = connect(hub, number).await else { return 0 };
            if stream.write_all(LINES.as_bytes()).await.is_err() {
                return 0;
            }
            let sent = pour(&mut stream, &chunk(&[b'x'; 64 << 10]), 2 * MB, Duration::from_secs(4)).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            sent
        });
    }
    let sent: usize = pouring.join_all().await.iter().sum();
    println!("figure: {} MB of lines that do not end", sent / MB);
}

/// Broken chunks, random bytes, and headers in large number and length.
pub async fn gibberish(hub: SocketAddr) {
    let many: String = (0..5_000).map(|i| format!("x-{i}: {i}\r\n")).collect();
    let long = format!("x: {}\r\n", "x".repeat(MB));
    let chunks = |rest: &str| format!("{HEAD}transfer-encoding: chunked\r\n\r\n{rest}").into_bytes();
    let mut sorts = vec![
        format!("{HEAD}{many}").into_bytes(),
        format!("{HEAD}{long}").into_bytes(),
        format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "a".repeat(MB)).into_bytes(),
        chunks("zz\r\n"),
        chunks("ffffffffffffffffff\r\n"),
        chunks("5\r\nab\r\n0\r\n\r\n"),
        chunks(&format!("1;{}\r\n", "x".repeat(MB))),
        format!("{HEAD}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes(),
        format!("{HEAD}content-length: 5\r\ncontent-length: 6\r\n\r\nabcdefg").into_bytes(),
        format!("{HEAD}content-length: -1\r\n\r\n").into_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\xff\x04\x00\x00\x00\x00\x00".to_vec(),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20 {
        let random = (0..2_000).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        sorts.push(random.collect());
    }
    for _ in 0..10 {
        join_all(sorts.iter().enumerate().map(async |(number, bytes)| {
            let Ok(mut stream) = connect(hub, number).await else { return };
            // The other side may hang up before it has read everything.
            let _ = timeout(Duration::from_secs(2), stream.write_all(bytes)).await;
            let mut told = vec![0; 1_024];
            let _ = timeout(Duration::from_millis(200), stream.read(&mut told)).await;
            let told = String::from_utf8_lossy(&told);
            assert!(!told.starts_with("HTTP/1.1 2"), "{told}");
        }))
        .await;
    }
}

/// Requests one after the other on many connections, and no answer is read.
pub async fn unread_answers(hub: SocketAddr) {
    let request = "GET /openapi.json HTTP/1.1\r\nhost: h\r\n\r\n".repeat(50);
    let mut asking = JoinSet::new();
    for number in 0..200 {
        let request = request.clone();
        asking.spawn(async move {
            let Ok(mut stream) = connect(hub, number).await else { return };
            pour(&mut stream, request.as_bytes(), MB, Duration::from_secs(3)).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        });
    }
    asking.join_all().await;
}
