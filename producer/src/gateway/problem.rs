//! Errors as RFC 9457 problem JSON.

use std::io::ErrorKind;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use primal_core::error::LogError;
use serde_json::{Map, Value, json};

use crate::draft::Reason;
use crate::lines::{Cause, LinesError};
use crate::{PublishError, Refused};

/// Characters of a detail, at most.
const MOST: usize = 1_000;

/// A problem: the status, a short title that is always the same for its type, and what is wrong this time.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    more: Map<String, Value>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Problem { status, kind, title, detail: detail.into(), more: Map::new() }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", "The request is malformed", detail)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn overloaded(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "The hub cannot take this now", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": format!("urn:primalcore:problem:{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": short(self.detail),
        });
        if let Value::Object(members) = &mut body {
            members.extend(self.more.into_iter().map(|(name, value)| match value {
                Value::String(text) => (name, Value::String(short(text))),
                other => (name, other),
            }));
        }
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let Refused { reason, field, message } = refused;
        let (status, kind, title) = match reason {
            Reason::Invalid => (StatusCode::BAD_REQUEST, "invalid-event", "The event is not valid"),
            Reason::Unknown => (StatusCode::NOT_FOUND, "unknown-collection", "There is no such collection"),
            Reason::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The event is too large"),
            Reason::Schema => {
                (StatusCode::UNPROCESSABLE_ENTITY, "schema-violation", "The event does not fit its schema")
            }
            Reason::Stopped => (StatusCode::CONFLICT, "collection-stopped", "The collection takes no events now"),
        };
        Problem::new(status, kind, title, message).with("field", field)
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Refused(refused) => refused.into(),
            PublishError::Log(LogError::Full(detail)) => {
                Problem::new(StatusCode::INSUFFICIENT_STORAGE, "log-full", "The log has no room", detail)
            }
            PublishError::Log(LogError::Refused(detail)) => {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The event is too large", detail)
            }
            PublishError::Log(error) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "log-unavailable",
                "The log did not confirm the event",
                error.to_string(),
            ),
        }
    }
}

impl From<LinesError> for Problem {
    fn from(error: LinesError) -> Self {
        let sent = error.summary.sent;
        let problem = match error.cause {
            Cause::Line { line, column, message, refused } => match refused {
                Some(refused) => Problem::from(*refused),
                None => Problem::bad_request(message),
            }
            .with("line", line)
            .with("column", column),
            Cause::Input(error) if error.kind() == ErrorKind::TimedOut => slow(),
            Cause::Input(error) if error.kind() == ErrorKind::ResourceBusy => {
                Problem::overloaded("too many bodies are being read at once")
            }
            Cause::Input(error) => Problem::bad_request(error.to_string()),
            Cause::Log(error) => error.into(),
        };
        problem.with("sent", sent)
    }
}

/// Details repeat what was sent, which may be long; an answer is not.
fn short(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MOST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The client has stopped sending.
pub(crate) fn slow() -> Problem {
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "slow-body",
        "The body did not arrive in time",
        "the client stopped sending",
    )
}
