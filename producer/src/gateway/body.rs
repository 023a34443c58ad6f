//! Reading bodies within limits: of one body, of all bodies together, of time for a body and between two pieces of it.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use futures::{Stream, StreamExt};

use super::State;
use super::connections::Connection;
use super::problem::{Problem, slow};
use crate::room::{Held, Room};

/// A body in memory; while it lives its bytes count against those of all bodies.
pub(crate) struct Whole {
    pub bytes: Vec<u8>,
    _held: Held,
}

/// Reads a whole body.
pub(crate) async fn whole(
    state: &State,
    connection: &Connection,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Whole, Problem> {
    let too_large = || {
        let detail = format!("the body has more than {limit} bytes; stream application/x-ndjson for more");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large", detail)
    };
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let (room, mut bytes, mut held) = (Room::new(state.bodies.clone()), Vec::new(), Held::default());
    let mut pieces = body.into_data_stream();
    let until = tokio::time::Instant::now() + state.limits.body;
    loop {
        let piece = connection.wait(state.limits.idle, tokio::time::timeout(state.limits.idle, pieces.next())).await;
        let piece = match piece {
            Err(_) => return Err(slow()),
            Ok(None) => return Ok(Whole { bytes, _held: held }),
            Ok(Some(Err(error))) => return Err(Problem::bad_request(format!("the body broke off: {error}"))),
            Ok(Some(Ok(piece))) => piece,
        };
        if bytes.len() + piece.len() > limit {
            return Err(too_large());
        }
        if tokio::time::Instant::now() > until {
            return Err(slow());
        }
        held.add(room.take(piece.len()).ok_or_else(|| Problem::overloaded("too many bodies are being read at once"))?);
        bytes.extend_from_slice(&piece);
    }
}

/// A body as a stream; a piece that does not come in time is an error.
pub(crate) fn stream(
    state: &State,
    connection: Arc<Connection>,
    body: Body,
) -> impl Stream<Item = std::io::Result<Bytes>> + use<> {
    let idle = state.limits.idle;
    futures::stream::unfold(Some((body.into_data_stream(), connection)), move |source| async move {
        let (mut pieces, connection) = source?;
        match connection.wait(idle, tokio::time::timeout(idle, pieces.next())).await {
            Err(_) => Some((Err(std::io::Error::from(std::io::ErrorKind::TimedOut)), None)),
            Ok(None) => None,
            Ok(Some(Err(error))) => Some((Err(std::io::Error::other(format!("the body broke off: {error}"))), None)),
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some((pieces, connection)))),
        }
    })
}
