//! A healthy client: it writes an entity every few milliseconds, in turn over one lasting connection and over new ones,
//! and measures how long each answer takes.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// After this a healthy request counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

pub struct Probe {
    stop: CancellationToken,
    running: JoinHandle<Figures>,
}

#[derive(Default)]
pub struct Figures {
    millis: Vec<u64>,
    pub failed: u64,
    /// Why the first one failed.
    why: Option<String>,
}

impl Figures {
    pub fn add(&mut self, other: Figures) {
        self.millis.extend(other.millis);
        self.millis.sort_unstable();
        self.failed += other.failed;
        self.why = self.why.take().or(other.why);
    }

    pub fn percentile(&self, percent: usize) -> u64 {
        let last = self.millis.len().saturating_sub(1);
        self.millis.get(last * percent / 100).copied().unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        write!(f, "{} healthy, p50 {p50} ms, p99 {p99} ms, {} failed", self.millis.len(), self.failed)?;
        self.why.iter().try_for_each(|why| write!(f, " ({why})"))
    }
}

impl Probe {
    pub fn start(hub: SocketAddr) -> Self {
        let stop = CancellationToken::new();
        Probe { stop: stop.clone(), running: tokio::spawn(probe(hub, stop)) }
    }

    pub async fn during(self, time: Duration) -> Figures {
        tokio::time::sleep(time).await;
        self.finish().await
    }

    pub async fn finish(self) -> Figures {
        self.stop.cancel();
        self.running.await.unwrap()
    }
}

async fn probe(hub: SocketAddr, stop: CancellationToken) -> Figures {
    let (lasting, fresh) = (client(usize::MAX), client(0));
    let mut figures = Figures::default();
    for number in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let client = if number % 2 == 0 { &lasting } else { &fresh };
        let url = format!("http://{hub}/v1/collections/things/entities/healthy{}", number % 100);
        let started = Instant::now();
        match client.put(url).body("{\"n\":1}").send().await {
            Ok(answer) if answer.status() == 201 => figures.millis.push(started.elapsed().as_millis() as u64),
            other => {
                figures.failed += 1;
                figures.why.get_or_insert_with(|| format!("{other:?} after {:?}", started.elapsed()));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    figures.millis.sort_unstable();
    figures
}

fn client(idle: usize) -> reqwest::Client {
    primal_tests::http_builder().timeout(PATIENCE).pool_max_idle_per_host(idle).build().unwrap()
}
