//! Statements over HTTP: one request is one transaction, begun and ended by the server, so that a process that freezes in
//! the middle holds no lock. A failed statement is answered with 200: the answer's list of errors counts.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use primal_core::settings::Secret;
use primal_core::{Fault, Retry, Settings, SettingsError, SinkError};
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take. A swap touches every node of two generations.
const ANSWER: Duration = Duration::from_secs(300);
/// How soon a transaction that gave way to another is tried again, at most twice that.
const AGAIN: Duration = Duration::from_millis(5);

/// One statement with its parameters.
#[derive(Debug, Serialize)]
pub(crate) struct Statement {
    pub(crate) statement: String,
    pub(crate) parameters: Value,
}

impl Statement {
    pub(crate) fn new(statement: impl Into<String>, parameters: Value) -> Self {
        Statement { statement: statement.into(), parameters }
    }
}

/// A row of an answer, a value per column.
pub(crate) type Row = Vec<Value>;

pub(crate) struct Client {
    http: reqwest::Client,
    url: Url,
    /// For messages: no password.
    address: String,
    user: Option<(String, String)>,
}

#[derive(Serialize)]
struct Request {
    statements: Vec<Statement>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<Rows>,
    #[serde(default)]
    errors: Vec<Said>,
}

#[derive(Deserialize)]
struct Rows {
    data: Vec<Data>,
}

#[derive(Deserialize)]
struct Data {
    row: Row,
}

#[derive(Deserialize)]
struct Said {
    code: String,
    message: String,
}

impl Client {
    /// No network.
    ///
    /// # Errors
    /// `url` is no address of a server.
    pub(crate) fn new(settings: &Settings, url: &Secret, database: &str) -> Result<Self, SettingsError> {
        let wrong = |what: &str| {
            settings.error(format!("`url` is no HTTP address such as http://user:password@host:7474: {what}"))
        };
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
        if let Ok(mut path) = base.path_segments_mut() {
            path.pop_if_empty().extend(["db", database, "tx", "commit"]);
        }
        let http = reqwest::Client::builder().connect_timeout(CONNECT).timeout(ANSWER).no_proxy().build();
        let http = http.map_err(|e| settings.error(format!("no HTTP client can be made: {e}")))?;
        Ok(Client { http, url: base, address: url.without_password(), user })
    }

    /// The address without password.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Runs statements in one transaction; the rows of each.
    ///
    /// # Errors
    /// Nothing of it was kept, unless it is the answer that got lost.
    pub(crate) async fn run(&self, doing: &str, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, SinkError> {
        let mut request = self.http.post(self.url.clone()).json(&Request { statements });
        if let Some((user, password)) = &self.user {
            request = request.basic_auth(user, Some(password));
        }
        let lost = |error: reqwest::Error| {
            SinkError::new(Fault::Unavailable, format!("{doing} {}", self.address))
                .because(causes(&error.without_url()))
        };
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(lost)?;
        let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
        let said = answer.as_ref().and_then(|answer| answer.errors.first());
        let fault = match (status, said) {
            (_, Some(said)) => fault(&said.code, &said.message),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, None) => Fault::Unauthorized,
            (StatusCode::NOT_FOUND, None) => Fault::Misconfigured,
            (status, None) if status.is_server_error() => Fault::Unavailable,
            (status, None) if !status.is_success() => Fault::Internal,
            (_, None) => match answer {
                Some(answer) => return Ok(answer.results.into_iter().map(Rows::rows).collect()),
                None => Fault::Internal,
            },
        };
        let why = said.map_or_else(|| status.to_string(), |said| format!("{}: {}", said.code, said.message));
        let why = why.split_at_checked(1_000).map_or(why.as_str(), |(beginning, _)| beginning);
        let mut error = SinkError::new(fault, format!("{doing} {}: {why}", self.address));
        // Two transactions waited for each other's nodes, and the other one has gone on.
        if said.is_some_and(|said| said.code.ends_with("DeadlockDetected")) {
            error.retry = Retry::After(AGAIN);
        }
        Err(error)
    }

    /// Runs one statement; its rows.
    pub(crate) async fn one(&self, doing: &str, statement: Statement) -> Result<Vec<Row>, SinkError> {
        Ok(self.run(doing, vec![statement]).await?.pop().unwrap_or_default())
    }
}

/// An error with its causes: the first says only that there was one.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Rows {
    fn rows(self) -> Vec<Row> {
        self.data.into_iter().map(|data| data.row).collect()
    }
}

/// What a status code of the server means (<https://neo4j.com/docs/status-codes/current/errors/all-errors/>).
fn fault(code: &str, message: &str) -> Fault {
    let rest = code.strip_prefix("Neo.").unwrap_or(code);
    match rest {
        _ if message.contains("No space left") => Fault::Full,
        // Of which event it is the server does not say: the runtime halves the batch until it knows.
        _ if message.contains("too large to index") => Fault::Rejected(Vec::new()),
        _ if rest.starts_with("TransientError.") => Fault::Unavailable,
        _ if rest.starts_with("ClientError.Security.") => Fault::Unauthorized,
        _ if rest.starts_with("ClientError.Cluster.") => Fault::Unavailable,
        "ClientError.General.ForbiddenOnReadOnlyDatabase" | "DatabaseError.Database.DatabaseUnavailable" => {
            Fault::Unavailable
        }
        "ClientError.Database.DatabaseNotFound" => Fault::Misconfigured,
        // Two transactions made a node of one key at once, as a swap and a reference to it may.
        "ClientError.Schema.ConstraintValidationFailed" => Fault::Unavailable,
        _ if rest.starts_with("ClientError.Schema.Constraint") => Fault::Incompatible,
        _ if rest.starts_with("ClientError.Schema.IndexAlreadyExists") => Fault::Incompatible,
        "ClientError.Schema.TokenNameError"
        | "ClientError.Schema.TokenLengthError"
        | "ClientError.Statement.TypeError"
        | "ClientError.Statement.ArgumentError" => Fault::Rejected(Vec::new()),
        _ => Fault::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use primal_core::settings::{Node, Value};

    fn client(url: &str) -> Result<Client, SettingsError> {
        let settings = Settings::new("hub.yaml", "sinks.s", Node { line: 1, value: Value::Null });
        Client::new(&settings, &Secret::new(url), "a/b")
    }

    #[test]
    fn credentials_leave_the_address_and_the_database_is_escaped() {
        let client = client("https://me:p%40ss@h:1/base").unwrap();
        assert_eq!(client.address(), "https://me@h:1/base");
        assert_eq!(client.user, Some(("me".to_owned(), "p@ss".to_owned())));
        assert_eq!(client.url.as_str(), "https://h:1/base/db/a%2Fb/tx/commit");
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_a_password() {
        for url in ["bolt://me:hunter2@h", "me:hunter2@h", "http://", ""] {
            let error = client(url).err().expect(url).to_string();
            assert!(error.contains("`url` is no HTTP address") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_code_says_whether_to_try_again() {
        assert_eq!(fault("Neo.TransientError.Transaction.DeadlockDetected", ""), Fault::Unavailable);
        assert_eq!(fault("Neo.ClientError.Security.Unauthorized", ""), Fault::Unauthorized);
        assert_eq!(fault("Neo.ClientError.Statement.SyntaxError", ""), Fault::Internal);
    }
}
