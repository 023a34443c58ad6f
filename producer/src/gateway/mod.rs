//! The HTTP gateway: routes, limits, and the server. What the routes do is in `routes`, how bodies are read in `body`,
//! errors (RFC 9457) in `problem`.

mod body;
mod cloudevent;
mod connections;
mod problem;
mod routes;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Request;
use axum::response::Response;
use axum::routing::{get, post, put};
use connections::{Connection, Connections};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Producer;

/// An answer that takes a moment.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the hub tells through the gateway.
pub trait Hub: Send + Sync {
    /// Whether events can be taken now; why not.
    fn ready(&self) -> Later<Result<(), String>>;
    /// Metrics in Prometheus' text format.
    fn metrics(&self) -> String;
    /// What `primalcore status` shows.
    fn status(&self) -> Later<Value>;
}

/// Limits of the gateway.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections; a further one takes the place of the one that has waited longest for its client.
    pub connections: usize,
    /// The longest body that is held in memory as a whole, in bytes.
    pub body_bytes: usize,
    /// Bytes of bodies held in memory for all requests together.
    pub all_bodies_bytes: usize,
    /// How long a client may take to send its first headers, and between two pieces of a body.
    pub idle: Duration,
    /// How long a client may take for a whole body, and for one line of NDJSON.
    pub body: Duration,
    /// How long a client may take to read an answer and to send its next request.
    pub keep_alive: Duration,
    /// How long a request may wait for the log.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 10_000,
            body_bytes: 16 << 20,
            all_bodies_bytes: 128 << 20,
            idle: Duration::from_secs(10),
            body: Duration::from_secs(60),
            // Longer than load balancers keep a connection, so that none uses one that is being closed.
            keep_alive: Duration::from_secs(75),
            answer: Duration::from_secs(30),
        }
    }
}

/// The longest head of a request, and what is read of a body at once, in bytes.
const BUFFER: usize = 16 << 10;

/// How long requests in flight may take to finish when the gateway ends.
const DRAIN: Duration = Duration::from_secs(4);

pub(crate) struct State {
    pub producer: Arc<Producer>,
    pub hub: Arc<dyn Hub>,
    pub limits: Limits,
    pub bodies: Arc<Semaphore>,
}

/// The gateway.
pub struct Gateway {
    state: Arc<State>,
}

/// Every route with its methods; the OpenAPI description is tested against it.
#[cfg(test)]
pub(crate) const ROUTES: &[(&str, &[&str])] = &[
    ("/", &["get"]),
    ("/v1/events", &["post"]),
    ("/v1/collections/{collection}/entities/{key}", &["put", "delete"]),
    ("/v1/status", &["get"]),
    ("/health/live", &["get"]),
    ("/health/ready", &["get"]),
    ("/metrics", &["get"]),
    ("/openapi.json", &["get"]),
];

impl Gateway {
    /// Over a producer.
    pub fn new(producer: Arc<Producer>, hub: Arc<dyn Hub>, limits: Limits) -> Self {
        let bodies = Arc::new(Semaphore::new(limits.all_bodies_bytes));
        Gateway { state: Arc::new(State { producer, hub, limits, bodies }) }
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/", get(routes::index))
            .route("/v1/events", post(routes::events))
            .route("/v1/collections/{collection}/entities/{key}", put(routes::put).delete(routes::delete))
            .route("/v1/status", get(routes::status))
            .route("/health/live", get(routes::live))
            .route("/health/ready", get(routes::ready))
            .route("/metrics", get(routes::metrics))
            .route("/openapi.json", get(routes::openapi))
            .fallback(routes::no_route)
            .method_not_allowed_fallback(routes::no_method)
            .layer(DefaultBodyLimit::disable())
            .with_state(self.state.clone())
    }

    /// Serves until `shutdown`, then lets requests in flight finish.
    ///
    /// # Errors
    /// The listener failed for good.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> std::io::Result<()> {
        let (router, limits) = (self.router(), &self.state.limits);
        let connections = Connections::new(limits.connections);
        let graceful = GracefulShutdown::new();
        let mut server = Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(limits.keep_alive).max_buf_size(BUFFER);
        let mut sweep = tokio::time::interval(Duration::from_secs(1));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                _ = sweep.tick() => {
                    connections.sweep();
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, or the client was gone already: the next may do better.
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let entered = shutdown.run_until_cancelled(connections.enter(limits.idle)).await;
            let Some(connection) = entered.map(Arc::new) else { break };
            let (router, place, keep_alive) =
                (TowerToHyperService::new(router.clone()), connection.clone(), limits.keep_alive);
            let service = service_fn(move |request| answer(router.clone(), place.clone(), keep_alive, request));
            let served = graceful.watch(server.serve_connection(TokioIo::new(stream), service));
            tokio::spawn(async move {
                tokio::select! {
                    () = connection.cut() => tracing::debug!("a connection made room or was too slow"),
                    served = served => if let Err(error) = served {
                        tracing::debug!(%error, "a connection ended");
                    },
                }
            });
        }
        drop(listener);
        let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
        Ok(())
    }
}

async fn answer(
    router: TowerToHyperService<Router>,
    connection: Arc<Connection>,
    keep_alive: Duration,
    mut request: Request<Incoming>,
) -> Result<Response, Infallible> {
    connection.works();
    request.extensions_mut().insert(connection.clone());
    let answer = router.call(request).await;
    connection.waits(keep_alive);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_every_route_and_no_other() {
        let api: Value = serde_json::from_str(routes::OPENAPI).unwrap();
        let mut described: Vec<(String, Vec<String>)> = api["paths"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(path, methods)| {
                (path.clone(), methods.as_object().unwrap().keys().filter(|k| *k != "parameters").cloned().collect())
            })
            .collect();
        let mut served: Vec<(String, Vec<String>)> =
            ROUTES.iter().map(|(p, m)| ((*p).to_owned(), m.iter().map(|m| (*m).to_owned()).collect())).collect();
        described.iter_mut().chain(&mut served).for_each(|(_, methods)| methods.sort());
        described.sort();
        served.sort();
        assert_eq!(described, served);
    }
}
