//! The HTTP client of all stores here: one address, credentials, time limits, and what an answer means before a store's
//! own rules come in.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use percent_encoding::percent_decode_str;
use primal_core::settings::Secret;
use primal_core::{Fault, Retry, Settings, SettingsError, SinkError};
use reqwest::header::{CONTENT_ENCODING, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take; the worker's own limit for writes is shorter or longer as configured.
const ANSWER: Duration = Duration::from_secs(120);
/// Bodies below this are sent as they are: compressing them costs more than it saves.
const WORTH_COMPRESSING: usize = 1_024;

/// How a store wants to be told who asks.
pub(crate) enum Login {
    /// Not at all, or by what the address holds.
    Address,
    /// `Authorization: <scheme> <secret>`, such as `Bearer …` or `Token …`.
    Scheme(&'static str, Secret),
    /// A header of the store's own with the secret in it.
    Header(&'static str, Secret),
}

/// A store's address and how to talk to it.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    /// For messages: no password.
    address: String,
    user: Option<(String, String)>,
    login: Login,
}

/// An answer that is neither a lost connection, nor a refusal of who we are, nor "later".
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Client {
    /// `url` is `http://` or `https://`, with `user:password@` where the store wants that. No network.
    ///
    /// # Errors
    /// It is no such address.
    pub(crate) fn new(settings: &Settings, url: &Secret, login: Login) -> Result<Self, SettingsError> {
        let address = url.without_password();
        let wrong = |what: &str| settings.error(format!("`url` is no HTTP address: {what}"));
        let mut base = Url::parse(url.expose()).map_err(|e| wrong(&e.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(wrong("it begins with neither http:// nor https://"));
        }
        // https:// needs a provider of cryptography for the process; one that is there already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let user = (!base.username().is_empty()).then(|| {
            let plain = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
            (plain(base.username()), plain(base.password().unwrap_or_default()))
        });
        // They go into a header instead, so that no message shows them.
        let _ = base.set_username("");
        let _ = base.set_password(None);
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let http = reqwest::Client::builder().connect_timeout(CONNECT).timeout(ANSWER).build();
        let http = http.map_err(|e| settings.error(format!("no HTTP client can be made: {e}")))?;
        Ok(Client { http, base, address, user, login })
    }

    /// The address without password.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A request to a path below the address; its segments are escaped.
    pub(crate) fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self.http.request(method, url);
        match (&self.login, &self.user) {
            (Login::Scheme(scheme, secret), _) => {
                request.header(reqwest::header::AUTHORIZATION, format!("{scheme} {}", secret.expose()))
            }
            (Login::Header(name, secret), _) => request.header(*name, secret.expose()),
            (Login::Address, Some((user, password))) => request.basic_auth(user, Some(password)),
            (Login::Address, None) => request,
        }
    }

    /// Sends a request; `doing` is for messages, such as `writing to`.
    ///
    /// # Errors
    /// `Unavailable` when there is no answer, or one that says "later" (429, 502, 503, 504, and `Retry-After` counts);
    /// `Unauthorized` for 401 and 403; `Full` for 507. What any other status means is the store's to say.
    pub(crate) async fn send(&self, doing: &str, request: RequestBuilder) -> Result<Answer, SinkError> {
        let lost = |error: reqwest::Error| {
            SinkError::new(Fault::Unavailable, format!("{doing} {}", self.address)).because(error.without_url())
        };
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = response.bytes().await.map_err(lost)?;
        let fault = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::Unauthorized,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Fault::Unavailable,
            StatusCode::INSUFFICIENT_STORAGE => Fault::Full,
            _ => return Ok(Answer { status, body }),
        };
        let mut error = self.error(fault, doing, &Answer { status, body });
        if let (Fault::Unavailable, Some(seconds)) = (&error.fault, after) {
            error.retry = Retry::After(Duration::from_secs(seconds));
        }
        Err(error)
    }

    /// An error that shows what the store said.
    pub(crate) fn error(&self, fault: Fault, doing: &str, answer: &Answer) -> SinkError {
        SinkError::new(fault, format!("{doing} {}: {}: {}", self.address, answer.status, answer.text()))
    }
}

impl Answer {
    /// The body as JSON; `None` if it is none of that form.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The beginning of the body, for messages.
    pub(crate) fn text(&self) -> String {
        const SHOWN: usize = 500;
        let text = String::from_utf8_lossy(&self.body);
        let text = text.trim();
        match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
            None => text.to_owned(),
        }
    }
}

/// Puts a body into a request, compressed where that is worth it.
pub(crate) fn gzipped(request: RequestBuilder, body: Vec<u8>) -> RequestBuilder {
    if body.len() < WORTH_COMPRESSING {
        return request.body(body);
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    match encoder.write_all(&body).and_then(|()| encoder.finish()) {
        Ok(small) => request.header(CONTENT_ENCODING, "gzip").body(small),
        Err(_) => request.body(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use primal_core::settings::{Node, Value};

    fn client(url: &str) -> Result<Client, SettingsError> {
        let settings = Settings::new("hub.yaml", "sinks.s", Node { line: 1, value: Value::Null });
        Client::new(&settings, &Secret::new(url), Login::Address)
    }

    #[test]
    fn credentials_leave_the_address_and_paths_are_escaped() {
        let client = client("https://me:p%40ss@h:1/base").unwrap();
        assert_eq!(client.address(), "https://me@h:1/base");
        assert_eq!(client.user, Some(("me".to_owned(), "p@ss".to_owned())));
        let request = client.request(Method::GET, &["a/b", "ключ?"]).build().unwrap();
        assert_eq!(request.url().as_str(), "https://h:1/base/a%2Fb/%D0%BA%D0%BB%D1%8E%D1%87%3F");
        assert!(request.headers().contains_key("authorization"));
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_a_password() {
        for url in ["ftp://me:hunter2@h", "me:hunter2@h", "http://", ""] {
            let error = client(url).err().expect(url).to_string();
            assert!(error.contains("`url` is no HTTP address") && !error.contains("hunter2"), "{error}");
        }
    }
}
