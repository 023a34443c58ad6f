//! What the routes do.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Path, State as Given};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio_util::io::StreamReader;

use super::connections::Connection;
use super::problem::Problem;
use super::{State, body, cloudevent};
use crate::draft::Refused;
use crate::line_reader::Bounds;
use crate::lines::{self, How};
use crate::{Draft, Receipt};

pub(crate) const OPENAPI: &str = include_str!("openapi.json");
/// Batches under way for one streamed body.
const LANES: usize = 4;

type Shared = Given<Arc<State>>;
type On = Extension<Arc<Connection>>;

pub(crate) async fn index() -> Response {
    let body = json!({
        "name": "PrimalCore DataHub",
        "publish": "POST /v1/events",
        "put": "PUT /v1/collections/{collection}/entities/{key}",
        "status": "/v1/status", "health": "/health/ready", "metrics": "/metrics", "description": "/openapi.json",
    });
    json_response(StatusCode::OK, body.to_string())
}

pub(crate) async fn events(
    Given(state): Shared,
    Extension(connection): On,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let media = media_type(&headers);
    match media.as_str() {
        "application/x-ndjson" | "application/ndjson" => ndjson(&state, connection, body).await,
        "application/cloudevents+json" | "application/json" => {
            let body = body::whole(&state, &connection, &headers, body, state.limits.body_bytes).await?;
            publish(&state, vec![cloudevent::one(&body.bytes)?]).await
        }
        "application/cloudevents-batch+json" => {
            let body = body::whole(&state, &connection, &headers, body, state.limits.body_bytes).await?;
            publish(&state, cloudevent::batch(&body.bytes)?).await
        }
        other => {
            let detail = format!(
                "{other:?} is not taken; expected application/cloudevents+json, application/cloudevents-batch+json or \
                 application/x-ndjson"
            );
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", "The body's type is not taken", detail))
        }
    }
}

async fn ndjson(state: &State, connection: Arc<Connection>, body: Body) -> Result<Response, Problem> {
    let input = StreamReader::new(Box::pin(body::stream(state, connection, body)));
    let how = How { concurrency: LANES, skip_bad: false };
    let limits = &state.limits;
    let bounds = Bounds { memory: state.bodies.clone(), line: limits.body, patience: limits.idle };
    let summary = lines::publish_within(Some(bounds), &state.producer, input, how, Arc::new(|_| {})).await?;
    let body = json!({ "sent": summary.sent, "repeated": summary.repeated });
    Ok(json_response(StatusCode::CREATED, body.to_string()))
}

pub(crate) async fn put(
    Given(state): Shared,
    Extension(connection): On,
    Path((collection, key)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let most = state.producer.options().max_event_bytes;
    let body = body::whole(&state, &connection, &headers, body, most).await?;
    let data = std::str::from_utf8(&body.bytes).map_err(|e| Refused::field("data", format!("not UTF-8: {e}")))?;
    let draft = Draft { op: Some("put".into()), data: Some(data.into()), ..entity(collection, key, &headers)? };
    publish(&state, vec![draft]).await
}

pub(crate) async fn delete(
    Given(state): Shared,
    Path((collection, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let draft = Draft { op: Some("delete".into()), ..entity(collection, key, &headers)? };
    publish(&state, vec![draft]).await
}

/// What path and headers say of an event: `Idempotency-Key` is its id, `ce-*` are CloudEvents' attributes.
fn entity(collection: String, key: String, headers: &HeaderMap) -> Result<Draft<'static>, Problem> {
    if headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_NONE_MATCH) {
        let detail = "conditional writes (If-Match, If-None-Match) are not supported; nothing was written";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "conditional", "Not supported", detail));
    }
    let mut draft = Draft { collection: collection.into(), key: key.into(), ..Draft::default() };
    for (name, value) in headers {
        let name = name.as_str();
        let attribute = match name {
            "idempotency-key" => "id",
            "traceparent" => "traceparent",
            _ => match name.strip_prefix("ce-") {
                Some(attribute) => attribute,
                None => continue,
            },
        };
        let value = value.to_str().map_err(|_| Refused::field(name, "is not ASCII text"))?.to_owned();
        let value: Cow<'static, str> = value.into();
        match attribute {
            "specversion" => {}
            "id" => draft.id = Some(value),
            "type" => draft.kind = Some(value),
            "source" => draft.source = Some(value),
            "time" => draft.time = Some(value),
            "primal" => draft.primal = Some(value),
            "dataschema" => draft.data_schema = Some(value),
            other => draft.extensions.push((other.to_owned().into(), value)),
        }
    }
    Ok(draft)
}

async fn publish(state: &State, drafts: Vec<Draft<'_>>) -> Result<Response, Problem> {
    let published = tokio::time::timeout(state.limits.answer, state.producer.publish(drafts)).await;
    let unanswered = |_| Problem::overloaded("the log did not answer in time; the same ids can be sent again");
    let receipts: Vec<Receipt> = published.map_err(unanswered)??;
    let all_repeated = !receipts.is_empty() && receipts.iter().all(|receipt| receipt.repeated);
    let status = if all_repeated { StatusCode::OK } else { StatusCode::CREATED };
    Ok(json_response(status, json!({ "receipts": receipts }).to_string()))
}

pub(crate) async fn status(Given(state): Shared) -> Response {
    json_response(StatusCode::OK, state.hub.status().await.to_string())
}

pub(crate) async fn live() -> Response {
    json_response(StatusCode::OK, json!({ "status": "live" }).to_string())
}

pub(crate) async fn ready(Given(state): Shared) -> Result<Response, Problem> {
    match state.hub.ready().await {
        Ok(()) => Ok(json_response(StatusCode::OK, json!({ "status": "ready" }).to_string())),
        Err(detail) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "The hub is not ready", detail)),
    }
}

pub(crate) async fn metrics(Given(state): Shared) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], state.hub.metrics()).into_response()
}

pub(crate) async fn openapi() -> Response {
    json_response(StatusCode::OK, OPENAPI.to_owned())
}

pub(crate) async fn no_route(uri: Uri) -> Problem {
    let detail = format!("{} is not here; GET / names what is", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "no-route", "There is no such path", detail)
}

pub(crate) async fn no_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{method} does nothing at {}; /openapi.json says what does", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "The method is not allowed here", detail)
}

fn json_response(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
