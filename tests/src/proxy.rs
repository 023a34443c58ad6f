//! A TCP proxy that can be made a bad network while it runs: slow, narrow, cut, half open, or a black hole. It shows how
//! a client fares that still has a connection, which killing the server does not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Bytes pass at once.
    Fair,
    /// Each direction holds back what it carries by `latency` and then lets so many bytes a second through.
    Slow {
        /// On the way, in each direction.
        latency: Duration,
        /// In each direction of each connection.
        bytes_per_second: u64,
    },
    /// Connections are reset, new ones too.
    Reset,
    /// What the client sends arrives, what the server answers does not.
    HalfOpen,
    /// Nothing arrives and nothing is refused: connections stay open, new ones are taken and led nowhere.
    BlackHole,
}

/// A proxy before one server; ends with its handle.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Holds the task that takes connections, which holds all others.
    _tasks: JoinSet<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Proxy {
    /// In front of a server at `host:port`; in fair weather.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(server: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (weather, _) = watch::channel(Weather::Fair);
        let mut tasks = JoinSet::new();
        tasks.spawn(take(listener, server.into(), weather.clone()));
        Ok(Proxy { address, weather, _tasks: tasks })
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes the weather, for open connections too.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn take(listener: TcpListener, server: Arc<str>, weather: watch::Sender<Weather>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(connection(client, server.clone(), weather.subscribe()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(client: TcpStream, server: Arc<str>, weather: watch::Receiver<Weather>) {
    let mut changes = weather.clone();
    // A connection that is made in a black hole goes on when the weather clears.
    if changes.wait_for(|weather| *weather != Weather::BlackHole).await.is_err() {
        return;
    }
    let (at, mut reset) = (*changes.borrow(), weather.clone());
    let server = match at {
        Weather::Reset => return cut(&client),
        _ => TcpStream::connect(&*server).await,
    };
    let Ok(server) = server else { return cut(&client) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    // Reset on drop: nothing of this is meant to end in good order when it is cut.
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let both = async {
        tokio::join!(
            carry(from_client, to_server, Direction::ToServer, weather.clone()),
            carry(from_server, to_client, Direction::ToClient, weather.clone()),
        )
    };
    tokio::select! {
        _ = both => {}
        _ = reset.wait_for(|weather| *weather == Weather::Reset) => {}
    }
}

/// Closes at once, so that the other side gets a reset.
fn cut(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Direction, mut weather: watch::Receiver<Weather>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        // Not even read while nothing may pass: so the sender notices by full buffers, as it would in a real black hole.
        let passes = |weather: &Weather| match weather {
            Weather::BlackHole => false,
            Weather::HalfOpen => way == Direction::ToServer,
            _ => true,
        };
        if weather.wait_for(passes).await.is_err() {
            return;
        }
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let arrived = Instant::now();
        let now = *weather.borrow_and_update();
        if let Weather::Slow { latency, bytes_per_second } = now {
            let carried = Duration::from_secs_f64(read as f64 / bytes_per_second.max(1) as f64);
            tokio::time::sleep_until(arrived + latency + carried).await;
        } else if weather.wait_for(passes).await.is_err() {
            return;
        }
        let Some(bytes) = buffer.get(..read) else { return };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn ask(stream: &mut TcpStream) -> std::io::Result<Duration> {
        let started = Instant::now();
        stream.write_all(b"hello").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"hello");
        Ok(started.elapsed())
    }

    #[tokio::test]
    async fn the_weather_is_what_it_is_called() {
        let proxy = Proxy::start(&echo().await.to_string()).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert!(ask(&mut stream).await.unwrap() < Duration::from_millis(100));
        proxy.set(Weather::Slow { latency: Duration::from_millis(60), bytes_per_second: 1_000_000 });
        assert!(ask(&mut stream).await.unwrap() >= Duration::from_millis(120));
        for weather in [Weather::BlackHole, Weather::HalfOpen] {
            proxy.set(weather);
            let waited = tokio::time::timeout(Duration::from_millis(100), ask(&mut stream)).await;
            assert!(waited.is_err(), "{weather:?} answers");
            proxy.set(Weather::Fair);
            let mut late = [0; 5];
            stream.read_exact(&mut late).await.unwrap();
        }
        proxy.set(Weather::BlackHole);
        let mut second = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(100), ask(&mut second)).await.is_err());
        proxy.set(Weather::Reset);
        assert!(ask(&mut stream).await.is_err());
        proxy.set(Weather::Fair);
        let mut third = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        ask(&mut third).await.unwrap();
    }
}
