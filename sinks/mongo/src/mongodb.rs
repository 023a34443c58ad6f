//! MongoDB: a collection for each generation, and a view of the live one under the plain name. In a replica set data and
//! position are one transaction; on a single server the position is asked before the first record and moved after the last.

use std::sync::Arc;

use ::mongodb::ClientSession;
use ::mongodb::bson::{Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use ::mongodb::options::{ConnectionString, ReadConcern, WriteConcern};
use async_trait::async_trait;
use futures::TryStreamExt;
use primal_core::batch::Batch;
use primal_core::settings::Secret;
use primal_core::sink::{
    BUFFER, Build, Builds, Capability, Class, Health, OptionSpec, Outcome, Page, Positions, Projection, Reader, Sink,
    SinkSpec, Stored, Swap, SwapKind, Target,
};
use primal_core::{Collection, Fault, Offset, Settings, SettingsError, SinkError};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::connection::{Connection, DUPLICATE, is_rejection, number};
use crate::record::{NONE, decode, statements};
use crate::state::{builds_of, first_error, generations};

/// MongoDB.
pub static MONGODB: SinkSpec = SinkSpec {
    name: "mongodb",
    family: "mongo",
    summary: "MongoDB 4.4 and later, and servers that speak its protocol; a replica set makes it exactly once",
    capability: Capability {
        // What a single server keeps. A replica set has transactions, and then data and position are one.
        class: Class::Versioned,
        projections: &[Projection::Document, Projection::Events],
        swap: SwapKind::Atomic,
        reads: true,
        // A command takes 100,000 statements (https://www.mongodb.com/docs/manual/reference/limits/) and an event is two;
        // a transaction should end within seconds.
        max_batch: 1_000,
        // A document may have 16 MiB (the same page). The text always fits; the payload's second form, which is a document
        // and may weigh several times as much, is left out where it does not.
        max_payload: 8 << 20,
        buffer_bytes: BUFFER,
    },
    options: &[
        OptionSpec {
            name: "url",
            default: None,
            help: "`mongodb://user:password@host:27017,host2:27017/?replicaSet=rs0`, with `tls=true` for TLS; \
                   `mongodb+srv` is not taken, name the hosts",
        },
        OptionSpec {
            name: "database",
            default: Some("primalcore"),
            help: "the database that records are kept in; the user needs the roles `readWrite` and `dbAdmin` there, the latter for views",
        },
    ],
    build: |settings| Ok(Arc::new(Mongo::new(settings)?) as Arc<dyn Sink>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: Secret,
    #[serde(default = "default_database")]
    database: String,
}

fn default_database() -> String {
    "primalcore".to_owned()
}

/// Records of a page of a scan.
const PAGE: usize = 1_000;

/// A message may have 48,000,000 bytes (`maxMessageSizeBytes`,
/// <https://www.mongodb.com/docs/manual/reference/command/hello/>); a batch that is larger goes in several.
const MESSAGE: usize = 32 << 20;

pub(crate) struct Mongo {
    pub(crate) server: Connection,
}

impl Mongo {
    fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let config: Config = settings.read()?;
        // The parser's own words may quote what stands around a password.
        let url = ConnectionString::parse(config.url.expose()).map_err(|_| {
            settings.error(
                "`url` is no MongoDB address such as mongodb://user:password@host:27017/?replicaSet=rs0; letters like \
                 @ : / ? in user and password are written %40 %3A %2F %3F",
            )
        })?;
        if config.database.is_empty() || config.database.contains(['/', '\\', '.', ' ', '"', '$', '\0']) {
            return Err(settings.error(format!("`database` is no name of a database: {:?}", config.database)));
        }
        let address = config.url.without_password();
        Ok(Mongo { server: Connection { url, address, database: config.database, open: OnceCell::new() } })
    }
}

/// The collection that a target's records are in. The plain name is a view: what is meant for a generation that was
/// replaced meanwhile cannot land in its successor.
pub(crate) fn records(target: &Target) -> String {
    target.position_name()
}

#[async_trait]
impl Sink for Mongo {
    async fn check(&self) -> Result<Health, SinkError> {
        let open = self.server.open().await?;
        let built = self.server.run(None, "asking", doc! { "buildInfo": 1 }, false).await?;
        // Answered only to those who may read.
        let list = doc! { "listCollections": 1, "nameOnly": true };
        self.server.run(None, "listing collections of", list, false).await?;
        let version = built.get_str("version").unwrap_or("of unknown version");
        let mut notes = Vec::new();
        if !open.transactions {
            notes.push(
                "no transactions: positions are moved after the records (effectively once); a replica set, even of one \
                 member, makes it exactly once"
                    .to_owned(),
            );
        }
        let imitated = built.contains_key("ferretdbVersion") || built.contains_key("ferretdb");
        if imitated {
            notes.push("no views: read the live generation's own collection, such as flights__g1".to_owned());
        }
        let product = if imitated { "FerretDB, as MongoDB" } else { "MongoDB" };
        Ok(Health { version: format!("{product} {version}"), notes })
    }

    async fn builds(&self, sink: &str, collection: &Collection) -> Result<Builds, SinkError> {
        let found = self.server.state(None, doc! { "$in": [generations(sink, collection)] }).await?;
        Ok(builds_of(found.first()))
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        if target.columns().is_some() {
            let message = "mongodb has no columns; use projection document or events";
            return Err(SinkError::new(Fault::Misconfigured, message));
        }
        self.refuse_strange(target).await?;
        self.make(doc! { "create": records(target) }).await?;
        if matches!(target.build, Build::Live(_) | Build::Beside(_)) {
            let first = doc! {
                "q": { "_id": generations(&target.sink, &target.collection) },
                "u": { "$setOnInsert": { "live": 1_i64 } },
                "upsert": true,
            };
            self.server.update_state(None, "preparing", vec![first]).await?;
        }
        if let Build::Live(_) = target.build {
            self.show(target).await?;
        }
        Ok(())
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        self.server.positions_of(None, target).await
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        if self.server.open().await?.transactions {
            self.transaction("writing to", async |session| self.steps(Some(session), target, batch).await).await
        } else {
            self.steps(None, target, batch).await
        }
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    fn swap(&self) -> Option<&dyn Swap> {
        Some(self)
    }

    async fn close(&self) {
        if let Some(open) = self.server.open.get() {
            let ended = open.client.clone().shutdown();
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), ended).await;
        }
    }
}

impl Mongo {
    /// Asks, writes, moves the position: in this order also inside a transaction, so that the position of a partition is
    /// held for a moment only.
    async fn steps(
        &self,
        mut session: Option<&mut ClientSession>,
        target: &Target,
        batch: &Batch<'_>,
    ) -> Result<Outcome, SinkError> {
        self.server.fence(session.as_deref_mut(), target, batch.partition, batch.advance).await?;
        if let Some(session) = session.as_deref_mut()
            && batch.advance.is_none_or(|advance| advance.expected.is_none())
        {
            self.hold_generation(session, target).await?;
        }
        let outcome = self.apply(session.as_deref_mut(), target, batch).await?;
        if let Some(advance) = batch.advance {
            self.server.advance(session, target, batch.partition, advance).await?;
        }
        Ok(outcome)
    }

    /// All or nothing: whatever fails inside ends the transaction. What a frozen process began is ended by the server
    /// after a minute (`transactionLifetimeLimitSeconds`).
    pub(crate) async fn transaction<T>(
        &self,
        doing: &str,
        inside: impl AsyncFnOnce(&mut ClientSession) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let client = &self.server.open().await?.client;
        let mut session = self.server.bounded(doing, async { client.start_session().await }).await?;
        let begun = session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(WriteConcern::builder().w(Some(::mongodb::options::Acknowledgment::Majority)).build());
        self.server.bounded(doing, async { begun.await }).await?;
        match inside(&mut session).await {
            Ok(done) => {
                self.server.bounded(doing, async { session.commit_transaction().await }).await?;
                Ok(done)
            }
            Err(error) => {
                let _ = self.server.bounded(doing, async { session.abort_transaction().await }).await;
                Err(error)
            }
        }
    }

    /// Makes a transaction that moves no position a swap has seen collide with a swap: both write the generations.
    async fn hold_generation(&self, session: &mut ClientSession, target: &Target) -> Result<(), SinkError> {
        let live = match target.build {
            Build::Live(generation) => doc! { "$eq": generation as i64 },
            Build::Beside(generation) => doc! { "$ne": generation as i64 },
            Build::Named(_) => return Ok(()),
        };
        let id = generations(&target.sink, &target.collection);
        let hold = doc! { "q": { "_id": id, "live": live }, "u": { "$inc": { "held": 1_i64 } } };
        match self.server.update_state(Some(session), "writing to", vec![hold]).await? {
            0 => {
                let message = format!(
                    "generation of {} changed meanwhile, {:?} was to be written",
                    target.collection, target.build
                );
                Err(SinkError::new(Fault::Fenced, message))
            }
            _ => Ok(()),
        }
    }

    /// Sends the statements in as few commands as their size allows. Of each the answer's errors are read, because the
    /// command is a success all the same.
    async fn apply(
        &self,
        mut session: Option<&mut ClientSession>,
        target: &Target,
        batch: &Batch<'_>,
    ) -> Result<Outcome, SinkError> {
        let all = batch.events.iter().flat_map(|event| statements(event, target.projection, batch.mode));
        let (mut found, mut made) = (0, 0);
        for part in parts(all)? {
            let (offsets, updates): (Vec<_>, Vec<_>) = part.into_iter().unzip();
            let mut from = 0;
            while let Some(rest) = updates.get(from..).filter(|rest| !rest.is_empty()) {
                let mut list = RawArrayBuf::new();
                rest.iter().for_each(|update| list.push(update.as_ref()));
                let command = rawdoc! { "update": records(target), "updates": list, "ordered": true };
                let answer = self.server.run_raw(session.as_deref_mut(), "writing to", command, true).await?;
                found += number(&answer, "n");
                made += answer.get_array("upserted").map_or(0, Vec::len) as u64;
                let Some((place, code, why)) = first_error(&answer) else { break };
                from += place;
                match offsets.get(from) {
                    // Somebody else made the place at the same moment. It is there, so this goes on behind it.
                    Some(_) if code == DUPLICATE && session.is_none() => {
                        found += 1;
                        from += 1;
                    }
                    Some(offset) if is_rejection(code) => {
                        return Err(SinkError::rejected(*offset, format!("{why} (code {code})")));
                    }
                    _ => return Err(self.server.said("writing to", code, &why)),
                }
            }
        }
        // One statement of each event finds or makes its place, so the rest of what was found is what was replaced.
        let events = batch.events.len() as u64;
        let once = batch.mode == primal_core::Mode::Apply && target.projection.keeps_every_event();
        let applied = if once { made } else { (found as u64).saturating_sub(events) };
        Ok(Outcome { applied, stale: events - applied })
    }

    /// Makes a collection or view that may be there already.
    pub(crate) async fn make(&self, create: Document) -> Result<(), SinkError> {
        let open = self.server.open().await?;
        let call = async {
            match open.database.run_command(create).await {
                Ok(_) => Ok(()),
                // NamespaceExists.
                Err(error) if code_of(&error) == Some(48) => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.server.bounded("preparing", call).await
    }

    /// Refuses a collection with records of somebody else, or of another projection.
    async fn refuse_strange(&self, target: &Target) -> Result<(), SinkError> {
        let find =
            doc! { "find": records(target), "limit": 1, "singleBatch": true, "projection": { "data": 0, "_data": 0 } };
        let answer = self.server.run(None, "preparing", find, false).await?;
        let found = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).ok();
        let Some(one) = found.and_then(|found| found.first()).and_then(|one| one.as_document()) else { return Ok(()) };
        let (ours, events) = (one.contains_key("_version"), one.contains_key("_key"));
        if ours && events == target.projection.keeps_every_event() {
            return Ok(());
        }
        let held = if ours { "records of another projection" } else { "something that this hub did not write" };
        let message = format!(
            "collection {:?} of database {:?} at {} holds {held}; rename it, set `database` for sink {}, or rebuild \
             with `primalcore replay` (collection {})",
            records(target),
            self.server.database,
            self.server.address,
            target.sink,
            target.collection
        );
        Err(SinkError::new(Fault::Incompatible, message))
    }

    fn decoded(&self, target: &Target, record: &Document) -> Result<Stored, SinkError> {
        let strange = || {
            let id = record.get("_id").map(ToString::to_string).unwrap_or_default();
            let message =
                format!("{id} of {:?} at {} was not written by this hub", records(target), self.server.address);
            SinkError::new(Fault::Incompatible, message)
        };
        decode(record).ok_or_else(strange)
    }
}

/// The code of what a server said, if it said no.
pub(crate) fn code_of(error: &::mongodb::error::Error) -> Option<i32> {
    match &*error.kind {
        ::mongodb::error::ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

/// Encodes statements and cuts them into commands.
fn parts(
    statements: impl Iterator<Item = (Offset, Document)>,
) -> Result<Vec<Vec<(Offset, RawDocumentBuf)>>, SinkError> {
    let (mut parts, mut size) = (Vec::<Vec<_>>::new(), 0);
    for (offset, statement) in statements {
        let raw = RawDocumentBuf::try_from(&statement).map_err(|e| SinkError::rejected(offset, e.to_string()))?;
        // A place of the list has a name of digits.
        let weight = raw.as_bytes().len() + 16;
        match parts.last_mut().filter(|_| size + weight <= MESSAGE) {
            Some(part) => part.push((offset, raw)),
            None => {
                parts.push(vec![(offset, raw)]);
                size = 0;
            }
        }
        size += weight;
    }
    Ok(parts)
}

#[async_trait]
impl Reader for Mongo {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        Ok(self.find(target, doc! { "$eq": identity }).await?.pop())
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        let records = self.find(target, doc! { "$gt": cursor.unwrap_or("") }).await?;
        let next = records.last().filter(|_| records.len() == PAGE).map(|last| last.identity.clone());
        Ok(Page { records, next })
    }
}

impl Mongo {
    /// A page of records by a filter of their ids, in the order of these.
    async fn find(&self, target: &Target, ids: Document) -> Result<Vec<Stored>, SinkError> {
        let open = self.server.open().await?;
        let call = async {
            let collection = open.database.collection::<Document>(&records(target));
            let find = collection.find(doc! { "_id": ids, "_version": { "$gt": NONE } });
            let found = find.sort(doc! { "_id": 1 }).limit(PAGE as i64).projection(doc! { "data": 0 }).await?;
            found.try_collect::<Vec<Document>>().await
        };
        let found = self.server.bounded("reading", call).await?;
        found.iter().map(|record| self.decoded(target, record)).collect()
    }
}
