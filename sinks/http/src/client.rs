//! Requests to a store: where it is, who asks, how long an answer may take, and what it means when none comes. What an answer
//! says is the business of the store's own file.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use primal_core::settings::Secret;
use primal_core::{Fault, Settings, SettingsError, SinkError};
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Method, Url};
use serde::de::DeserializeOwned;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Shorter bodies are not worth compressing.
const WORTH_COMPRESSING: usize = 1_024;
/// Of what a store says about a failure, this much is passed on.
const MOST_SAID: usize = 400;

/// A server and the right to ask it.
pub(crate) struct Http {
    client: Client,
    base: Url,
    authorization: Option<HeaderValue>,
    /// A key in a header of the store's own, where that is the login.
    key: Option<(&'static str, HeaderValue)>,
    /// For messages: no password.
    pub address: String,
    gzip: bool,
}

/// What a body is.
#[derive(Clone, Copy)]
pub(crate) enum Body<'a> {
    None,
    Json(&'a str),
    Lines(&'a str),
    Text(&'a str),
    Binary(&'a [u8]),
    /// Names and values as a form has them, percent-encoded.
    Form(&'a str),
    /// A message of protobuf, compressed by snappy.
    Snappy(&'a [u8]),
}

/// What came back.
pub(crate) struct Answer {
    pub status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Http {
    /// `url` may hold user and password; `authorization` is the whole header where there is another login.
    pub(crate) fn new(
        settings: &Settings,
        url: &Secret,
        authorization: Option<String>,
        gzip: bool,
    ) -> Result<Self, SettingsError> {
        let wrong = |why: &dyn std::fmt::Display| settings.error(format!("`url` is no HTTP address: {why}"));
        let base = Url::parse(url.expose()).map_err(|e| wrong(&e))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(wrong(&"it does not begin with http:// or https:// and a host"));
        }
        let authorization = authorization.map(|text| HeaderValue::from_str(&text)).transpose();
        let mut authorization =
            authorization.map_err(|_| settings.error("the credentials have a character that no header takes"))?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        // https:// needs a provider of cryptography for the process; one that is there already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().connect_timeout(CONNECT).timeout(ANSWER).no_proxy().build();
        let client = client.map_err(|e| settings.error(format!("no HTTP client: {e}")))?;
        Ok(Http { client, base, authorization, key: None, address: url.without_password(), gzip })
    }

    /// The same with a key in a header of the store's own.
    pub(crate) fn with_key(
        mut self,
        settings: &Settings,
        header: &'static str,
        key: Option<&Secret>,
    ) -> Result<Self, SettingsError> {
        if let Some(key) = key {
            let value = HeaderValue::from_str(key.expose());
            let mut value = value.map_err(|_| settings.error("the key has a character that no header takes"))?;
            value.set_sensitive(true);
            self.key = Some((header, value));
        }
        Ok(self)
    }

    /// Asks, and gives whatever the server says. `path` begins with `/`, its parts are percent-encoded by the caller.
    ///
    /// # Errors
    /// The server did not answer.
    pub(crate) async fn ask(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: Body<'_>,
    ) -> Result<Answer, SinkError> {
        let silent = |e: reqwest::Error| {
            SinkError::new(Fault::Unavailable, format!("{doing} {}", self.address)).because(causes(&e.without_url()))
        };
        let base = self.base.as_str().trim_end_matches('/');
        let mut request = self.client.request(method, format!("{base}{path}"));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some((name, key)) = &self.key {
            request = request.header(*name, key.clone());
        }
        let (kind, bytes) = match body {
            Body::None => ("", &[][..]),
            Body::Json(text) => ("application/json", text.as_bytes()),
            Body::Lines(text) => ("application/x-ndjson", text.as_bytes()),
            Body::Text(text) => ("text/plain; charset=utf-8", text.as_bytes()),
            Body::Binary(bytes) => ("application/octet-stream", bytes),
            Body::Form(text) => ("application/x-www-form-urlencoded", text.as_bytes()),
            Body::Snappy(bytes) => ("application/x-protobuf", bytes),
        };
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
            request = match (body, self.compressed(bytes)) {
                (Body::Snappy(_), _) => request.header(CONTENT_ENCODING, "snappy").body(bytes.to_vec()),
                (_, Some(short)) => request.header(CONTENT_ENCODING, "gzip").body(short),
                (_, None) => request.body(bytes.to_vec()),
            };
        }
        let response = request.send().await.map_err(silent)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await.map_err(silent)? })
    }

    fn compressed(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if !self.gzip || bytes.len() < WORTH_COMPRESSING {
            return None;
        }
        let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).ok()
    }
}

impl Answer {
    /// Whether the server did what it was asked.
    pub(crate) fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }

    /// The beginning of the body, for a message.
    pub(crate) fn said(&self) -> String {
        let text = self.text();
        let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= MOST_SAID).last().unwrap_or(0);
        if text.len() <= MOST_SAID { text.to_owned() } else { format!("{}…", text.get(..end).unwrap_or_default()) }
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is something else: whoever answered is not the store.
    pub(crate) fn json<T: DeserializeOwned>(&self, doing: &str, address: &str) -> Result<T, SinkError> {
        serde_json::from_slice(&self.body).map_err(|e| {
            let message = format!("{doing} {address}: not the answer of this store: {}", self.said());
            SinkError::new(Fault::Internal, message).because(e)
        })
    }
}

/// A text as part of a URL's query or of a form.
pub(crate) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// An error with its causes, whose first word says least: "error sending request: … : Connection refused".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
