//! Reading bodies within limits: of one body, of all bodies together, and of time between two pieces.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::SemaphorePermit;

use super::State;
use super::problem::{Problem, slow};

/// A body in memory; while it lives its bytes count against those of all bodies.
pub(crate) struct Whole<'a> {
    pub bytes: Vec<u8>,
    _room: Vec<SemaphorePermit<'a>>,
}

/// Reads a whole body.
pub(crate) async fn whole<'a>(
    state: &'a State,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Whole<'a>, Problem> {
    let too_large = || {
        let detail = format!("the body has more than {limit} bytes; stream application/x-ndjson for more");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large", detail)
    };
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let (mut bytes, mut room) = (Vec::new(), Vec::new());
    let mut pieces = body.into_data_stream();
    loop {
        let piece = match tokio::time::timeout(state.limits.idle, pieces.next()).await {
            Err(_) => return Err(slow()),
            Ok(None) => return Ok(Whole { bytes, _room: room }),
            Ok(Some(Err(error))) => return Err(Problem::bad_request(format!("the body broke off: {error}"))),
            Ok(Some(Ok(piece))) => piece,
        };
        if bytes.len() + piece.len() > limit {
            return Err(too_large());
        }
        let permits = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        match state.bodies.try_acquire_many(permits) {
            Ok(permit) => room.push(permit),
            Err(_) => return Err(Problem::overloaded("too many bodies are being read at once")),
        }
        bytes.extend_from_slice(&piece);
    }
}

/// A body as a stream; a piece that does not come in time is an error.
pub(crate) fn stream(state: &Arc<State>, body: Body) -> impl Stream<Item = std::io::Result<Bytes>> + use<> {
    let idle = state.limits.idle;
    futures::stream::unfold(Some(body.into_data_stream()), move |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(idle, pieces.next()).await {
            Err(_) => Some((Err(std::io::Error::from(std::io::ErrorKind::TimedOut)), None)),
            Ok(None) => None,
            Ok(Some(Err(error))) => Some((Err(std::io::Error::other(format!("the body broke off: {error}"))), None)),
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
        }
    })
}
