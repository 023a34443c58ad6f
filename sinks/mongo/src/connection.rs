//! A connection that is made at first use, what the server behind it can do, and what its errors mean.

use std::time::Duration;

use ::mongodb::bson::raw::cstr;
use ::mongodb::bson::{Bson, Document, RawDocumentBuf, doc, rawdoc};
use ::mongodb::error::{Error, ErrorKind, TRANSIENT_TRANSACTION_ERROR, WriteFailure};
use ::mongodb::options::{ClientOptions, ConnectionString, ReadPreference, SelectionCriteria};
use ::mongodb::{Client, ClientSession, Database};
use primal_core::{Fault, SinkError};
use tokio::sync::OnceCell;

use crate::state::STATE;

/// How long a call may take. The driver itself waits for an answer without limit.
const CALL: Duration = Duration::from_secs(30);

/// A server, and how it is reached.
pub(crate) struct Connection {
    pub(crate) url: ConnectionString,
    /// For messages: no password.
    pub(crate) address: String,
    pub(crate) database: String,
    pub(crate) open: OnceCell<Open>,
}

/// What was found at first use.
pub(crate) struct Open {
    pub(crate) client: Client,
    pub(crate) database: Database,
    /// Whether several documents can be written in one transaction: in a replica set and in a sharded cluster.
    pub(crate) transactions: bool,
}

impl Connection {
    pub(crate) async fn open(&self) -> Result<&Open, SinkError> {
        self.open.get_or_try_init(|| self.bounded("connecting to", self.connect())).await
    }

    async fn connect(&self) -> Result<Open, Error> {
        let mut options = ClientOptions::parse(self.url.clone()).await?;
        options.app_name.get_or_insert_with(|| "primalcore".to_owned());
        options.connect_timeout = Some(Duration::from_secs(5));
        options.server_selection_timeout = Some(Duration::from_secs(5));
        // What is read decides what is written, so it comes from where it is written.
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        let client = Client::with_options(options)?;
        let database = client.database(&self.database);
        let hello = database.run_command(doc! { "hello": 1 }).await?;
        let grouped = hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
        // Some servers call themselves a replica set and have no transactions, so that one is tried.
        let transactions = grouped && tries_transaction(&client, &database).await?;
        Ok(Open { client, database, transactions })
    }

    /// A call that ends in time, its error read.
    pub(crate) async fn bounded<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, SinkError> {
        match tokio::time::timeout(CALL, call).await {
            Ok(result) => result.map_err(|error| failed(&self.address, doing, error)),
            Err(_) => Err(SinkError::new(Fault::Unavailable, format!("{doing} {}: no answer", self.address))),
        }
    }

    /// Runs a command, alone or in a transaction. Alone what it writes is durable once it is answered: on most members, in
    /// their journals.
    pub(crate) async fn run(
        &self,
        session: Option<&mut ClientSession>,
        doing: &str,
        command: Document,
        writes: bool,
    ) -> Result<Document, SinkError> {
        let raw = RawDocumentBuf::try_from(&command);
        let raw = raw.map_err(|e| SinkError::new(Fault::Internal, format!("{doing} {}", self.address)).because(e))?;
        self.run_raw(session, doing, raw, writes).await
    }

    /// The same with a command that is encoded already.
    pub(crate) async fn run_raw(
        &self,
        session: Option<&mut ClientSession>,
        doing: &str,
        mut command: RawDocumentBuf,
        writes: bool,
    ) -> Result<Document, SinkError> {
        let open = self.open().await?;
        if writes && session.is_none() {
            command.append(cstr!("writeConcern"), rawdoc! { "w": "majority", "j": true, "wtimeout": 20_000 });
        }
        let call = async {
            match session {
                Some(session) => open.database.run_raw_command(command).session(session).await,
                None => open.database.run_raw_command(command).await,
            }
        };
        let answer = self.bounded(doing, call).await?;
        if let Some(Bson::Document(concern)) = answer.get("writeConcernError") {
            let why = concern.get_str("errmsg").unwrap_or("no reason given");
            let message = format!("{doing} {}: not on most members yet: {why}", self.address);
            return Err(SinkError::new(Fault::Unavailable, message));
        }
        Ok(answer)
    }
}

async fn tries_transaction(client: &Client, database: &Database) -> Result<bool, Error> {
    let mut session = match client.start_session().await {
        Ok(session) => session,
        Err(error) if is_refusal(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    if session.start_transaction().await.is_err() {
        return Ok(false);
    }
    let asked =
        database.run_command(doc! { "find": STATE, "limit": 1, "singleBatch": true }).session(&mut session).await;
    // It wrote nothing; a server without transactions has none to end.
    let _ = session.abort_transaction().await;
    match asked {
        Ok(_) => Ok(true),
        Err(error) if is_refusal(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the server said that it does not do such a thing: no such field (9), not supported here (20, 263), unknown
/// command (59), not implemented (238).
fn is_refusal(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Command(command) => matches!(command.code, 9 | 20 | 59 | 238 | 263 | 40415),
        ErrorKind::SessionsNotSupported | ErrorKind::Transaction { .. } | ErrorKind::IncompatibleServer { .. } => true,
        _ => false,
    }
}

/// What a driver's error means.
pub(crate) fn failed(address: &str, doing: &str, error: Error) -> SinkError {
    let fault = match &*error.kind {
        _ if error.contains_label(TRANSIENT_TRANSACTION_ERROR) => Fault::Unavailable,
        ErrorKind::Authentication { .. } => Fault::Unauthorized,
        ErrorKind::Command(command) => fault(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => fault(write.code),
        ErrorKind::Write(_)
        | ErrorKind::Io(_)
        | ErrorKind::ServerSelection { .. }
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. } => Fault::Unavailable,
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => Fault::Misconfigured,
        ErrorKind::IncompatibleServer { .. } => Fault::Misconfigured,
        _ => Fault::Internal,
    };
    SinkError::new(fault, format!("{doing} {address}")).because(error)
}

/// What a server's error code means (<https://www.mongodb.com/docs/manual/reference/error-codes/>).
pub(crate) fn fault(code: i32) -> Fault {
    match code {
        // Unauthorized, AuthenticationFailed; the last is a hosted service's.
        13 | 18 | 8000 => Fault::Unauthorized,
        // OutOfDiskSpace.
        14031 => Fault::Full,
        // CommandNotSupportedOnView: something else has the name.
        166 => Fault::Incompatible,
        // HostUnreachable, HostNotFound, LockTimeout, MaxTimeMSExpired, WriteConcernFailed, NetworkTimeout,
        // ShutdownInProgress, WriteConcernTimeout and others of a primary that is no more, WriteConflict.
        6 | 7 | 24 | 46 | 50 | 64 | 89 | 91 | 100 | 112 | 133 | 134 | 175 | 189 | 225 | 244 | 246 | 251 | 262
        | 9001 | 10058 | 10107 | 11600 | 11602 | 13388 | 13435 | 13436 => Fault::Unavailable,
        // Two at once made the same: the one that lost finds it when it tries again.
        DUPLICATE => Fault::Unavailable,
        _ => Fault::Internal,
    }
}

/// DuplicateKey.
pub(crate) const DUPLICATE: i32 = 11000;

/// Codes of an event that can never be written: BadValue, FailedToParse, TypeMismatch, Overflow, InvalidLength,
/// DollarPrefixedFieldName, InvalidIdField, EmptyFieldName, DottedFieldName, DocumentValidationFailure, BSONObjectTooLarge,
/// and documents that would be too large or have keys that are.
pub(crate) fn is_rejection(code: i32) -> bool {
    matches!(code, 2 | 9 | 14 | 15 | 16 | 52 | 53 | 56 | 57 | 121 | 10334 | 15959 | 17280 | 17419 | 17420)
}

/// A number of an answer; servers differ in its width.
pub(crate) fn number(answer: &Document, name: &str) -> i64 {
    match answer.get(name) {
        Some(Bson::Int32(n)) => i64::from(*n),
        Some(Bson::Int64(n)) => *n,
        Some(Bson::Double(n)) => *n as i64,
        _ => 0,
    }
}
