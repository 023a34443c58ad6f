//! A running hub: the gateway, one worker per sink, sealing, archiving, and verification. A sink that stops does not stop
//! the others.

use std::net::SocketAddr;
use std::sync::Arc;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use primal_producer::Producer;
use primal_producer::gateway::{Gateway, Hub as Told, Later, Limits};
use primal_runtime::WorkerError;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::background::Background;
use crate::files;
use crate::hub::{Hub, HubError};
use crate::status;

/// A hub at work.
pub struct Running {
    /// Where the gateway listens, if there is one.
    pub listen: Option<SocketAddr>,
    /// What publishes to it.
    pub producer: Arc<Producer>,
    /// Where work that may wait is done.
    pub background: Background,
    shutdown: CancellationToken,
    workers: JoinSet<Result<(), WorkerError>>,
    gateway: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    /// Sealing, archiving and verification.
    upkeep: JoinSet<()>,
}

impl Running {
    /// Starts the gateway and what is configured of sealing, archiving and verification, and the workers of the given sinks
    /// (all when none are given).
    ///
    /// # Errors
    /// A name is unknown, the address is taken, the key to seal with cannot be read, or the log's.
    pub async fn start(hub: Arc<Hub>, sinks: &[String], shutdown: CancellationToken) -> Result<Self, HubError> {
        let metrics = metrics();
        let producer = Arc::new(hub.producer());
        let mut workers = JoinSet::new();
        for sink in hub.sinks(sinks)? {
            match hub.worker(sink).await {
                Ok(worker) => drop(workers.spawn(worker.run(shutdown.clone()))),
                Err(error @ HubError::Usage(_)) => {
                    tracing::error!(sink = sink.name, %error, "not started");
                    let stopped = WorkerError { sink: sink.name.clone(), reason: error.to_string() };
                    workers.spawn(async { Err(stopped) });
                }
                Err(other) => return Err(other),
            }
        }
        let (mut listen, mut gateway) = (None, None);
        if let Some(config) = &hub.config.gateway {
            let listener = bound(config.listen)
                .map_err(|e| HubError::Usage(format!("the gateway cannot listen on {}: {e}", config.listen)))?;
            listen = listener.local_addr().ok();
            let connections = files::room_for(config.max_connections);
            let limits = Limits { connections, ..Limits::default() };
            let told = Arc::new(Teller { hub: hub.clone(), metrics });
            let serving = Gateway::new(producer.clone(), told, limits).serve(listener, shutdown.clone());
            gateway = Some(tokio::spawn(serving));
        }
        let background = Background::start().map_err(|e| HubError::Usage(format!("no threads: {e}")))?;
        let mut upkeep = JoinSet::new();
        if let Some(config) = &hub.config.audit {
            if config.key.is_some() {
                let sealing = hub.clone().keep_sealed(hub.sealer().await?, config.seal_every(), shutdown.clone());
                upkeep.spawn_on(sealing, background.handle());
            }
            if let Some(every) = config.verify_every() {
                // Not in the background: it shares connections with the workers.
                upkeep.spawn(hub.clone().keep_verified(sinks.to_vec(), every, shutdown.clone()));
            }
        }
        #[cfg(feature = "archive")]
        if hub.config.archive.is_some() {
            upkeep.spawn_on(hub.clone().keep_archived(shutdown.clone()), background.handle());
        }
        Ok(Running { listen, producer, background, shutdown, workers, gateway, upkeep })
    }

    /// Waits for the shutdown, then until everything that was begun is finished. The errors are those of sinks that
    /// stopped by themselves.
    pub async fn finish(mut self) -> Vec<WorkerError> {
        let mut stopped = Vec::new();
        let mut all_ended = self.workers.is_empty();
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                ended = self.workers.join_next(), if !all_ended => match ended {
                    Some(Ok(Err(error))) => stopped.push(error),
                    Some(_) => {}
                    None => all_ended = true,
                },
            }
            // With a gateway the hub still takes events when all sinks have stopped; without one it does nothing.
            if self.workers.is_empty() && self.gateway.is_none() {
                break;
            }
        }
        self.shutdown.cancel();
        while let Some(ended) = self.workers.join_next().await {
            if let Ok(Err(error)) = ended {
                stopped.push(error);
            }
        }
        if let Some(gateway) = self.gateway {
            let _ = gateway.await;
        }
        while self.upkeep.join_next().await.is_some() {}
        stopped
    }
}

/// Clients that have connected and were not accepted yet; the system may allow fewer. Beyond that the kernel drops what a
/// client sends, and the client tries again only after a second.
const BACKLOG: u32 = 4_096;

fn bound(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted hub does not wait for connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The process has one recorder; a second hub in it (tests) shares the first one's.
fn metrics() -> PrometheusHandle {
    static HANDLE: std::sync::OnceLock<PrometheusHandle> = std::sync::OnceLock::new();
    let install = || match PrometheusBuilder::new().install_recorder() {
        Ok(handle) => handle,
        // Somebody installed another recorder: then /metrics stays empty, and that one has the figures.
        Err(_) => PrometheusBuilder::new().build_recorder().handle(),
    };
    HANDLE.get_or_init(install).clone()
}

struct Teller {
    hub: Arc<Hub>,
    metrics: PrometheusHandle,
}

impl Told for Teller {
    fn ready(&self) -> Later<Result<(), String>> {
        let hub = self.hub.clone();
        Box::pin(async move {
            match hub.config.collections.keys().next() {
                None => Ok(()),
                Some(any) => hub.log.recent(&any.topic()).await.map(|_| ()).map_err(|error| error.to_string()),
            }
        })
    }

    fn metrics(&self) -> String {
        self.metrics.run_upkeep();
        self.metrics.render()
    }

    fn status(&self) -> Later<Value> {
        let hub = self.hub.clone();
        Box::pin(async move {
            match status::rows(&hub).await {
                Ok(rows) => json!({ "sinks": rows }),
                Err(error) => json!({ "error": error.to_string() }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_burst_of_clients_is_connected_before_any_is_accepted() {
        let listener = bound(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let burst = async {
            let mut clients = Vec::new();
            // Linux allows 4,096 unless it was told otherwise.
            for _ in 0..1_000 {
                clients.push(tokio::net::TcpStream::connect(address).await.unwrap());
            }
        };
        tokio::time::timeout(Duration::from_millis(900), burst).await.unwrap();
    }
}
