//! Redis: a collection is one hash, so that a swap is one rename; a batch is one script call with data and position.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind};
use async_trait::async_trait;
use primal_core::batch::{Batch, Mode};
use primal_core::settings::Secret;
use primal_core::sink::{
    BUFFER, Build, Builds, Capability, Class, Health, OptionSpec, Outcome, Page, Positions, Projection, Reader,
    Rebuild, Sink, SinkSpec, Stored, Swap, SwapKind, Target,
};
use primal_core::{Collection, Fault, Position, Settings, SettingsError, SinkError};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::envelope::{HEAD, decode, encode};
use crate::script;

/// Redis.
pub static REDIS: SinkSpec = SinkSpec {
    name: "redis",
    family: "resp",
    summary: "Redis 6 and later, one node (no cluster)",
    capability: Capability {
        class: Class::Transactional,
        projections: &[Projection::Document, Projection::Events],
        swap: SwapKind::Atomic,
        reads: true,
        // A script blocks the server while it runs, and five hundred events a call went faster than a thousand.
        max_batch: 500,
        // A value may have 512 MB (https://redis.io/docs/latest/develop/data-types/strings/); a script call of several
        // such would block for long.
        max_payload: 8 << 20,
        buffer_bytes: BUFFER,
    },
    options: &[
        OptionSpec {
            name: "url",
            default: None,
            help: "`redis://user:password@host:6379/0`, or `rediss://` with TLS; the number is the database",
        },
        OptionSpec { name: "prefix", default: Some("\"\""), help: "put before the name of every hash" },
    ],
    build: |settings| Ok(Arc::new(Redis::new(settings)?) as Arc<dyn Sink>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: Secret,
    #[serde(default)]
    prefix: String,
}

/// Fields asked for per step of a scan.
const PAGE: usize = 1_000;

struct Redis {
    client: Client,
    /// For messages: no password.
    address: String,
    prefix: String,
    connection: Mutex<Option<MultiplexedConnection>>,
    write: Script,
    swap: Script,
    discard: Script,
}

impl Redis {
    fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let config: Config = settings.read()?;
        // rediss:// needs a provider of cryptography for the process; one that is there already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            Client::open(config.url.expose()).map_err(|e| settings.error(format!("`url` is no Redis address: {e}")))?;
        Ok(Redis {
            client,
            address: config.url.without_password(),
            prefix: config.prefix,
            connection: Mutex::new(None),
            write: Script::new(script::WRITE),
            swap: Script::new(script::SWAP),
            discard: Script::new(script::DISCARD),
        })
    }

    async fn connection(&self) -> Result<MultiplexedConnection, SinkError> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = &*slot {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(5)))
            .set_response_timeout(Some(Duration::from_secs(30)));
        let made = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let connection = made.map_err(|e| failed(&self.address, "connecting to", e))?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    /// Runs a command, and forgets a connection that has broken.
    async fn ask<T: FromRedisValue>(
        &self,
        doing: &str,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, SinkError> {
        let mut connection = self.connection().await?;
        match call(&mut connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                if error.is_unrecoverable_error() || error.is_timeout() || error.is_io_error() {
                    *self.connection.lock().await = None;
                }
                Err(failed(&self.address, doing, error))
            }
        }
    }

    fn state(&self) -> String {
        format!("{}_primal_positions", self.prefix)
    }

    fn records(&self, place: &str) -> String {
        format!("{}{place}", self.prefix)
    }

    fn tombstones(&self, place: &str) -> String {
        format!("{}{place}:deleted", self.prefix)
    }
}

/// What a driver's error means.
fn failed(address: &str, doing: &str, error: RedisError) -> SinkError {
    let message = error.to_string();
    let fault = match error.kind() {
        _ if message.contains("FENCED") => Fault::Fenced,
        // What Redis says to a long command of a client that has not logged in.
        _ if message.contains("unauthenticated") => Fault::Unauthorized,
        ErrorKind::AuthenticationFailed => Fault::Unauthorized,
        ErrorKind::Server(ServerErrorKind::NoPerm) => Fault::Unauthorized,
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown | ServerErrorKind::ReadOnly) => {
            Fault::Unavailable
        }
        ErrorKind::InvalidClientConfig => Fault::Misconfigured,
        _ => match error.code() {
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => Fault::Unauthorized,
            Some("OOM") => Fault::Full,
            Some("WRONGTYPE") => Fault::Incompatible,
            Some("LOADING" | "READONLY" | "MASTERDOWN" | "MISCONF" | "BUSY" | "CLUSTERDOWN") => Fault::Unavailable,
            Some(_) if message.contains("WRONGTYPE") => Fault::Incompatible,
            Some(_) if message.contains("OOM command") => Fault::Full,
            Some(_) => Fault::Internal,
            None => Fault::Unavailable,
        },
    };
    SinkError::new(fault, format!("{doing} {address}")).because(error)
}

/// The fields of a collection's generations.
fn generations(sink: &str, collection: &Collection) -> String {
    format!("generation/{sink}/{collection}/")
}

/// The fields of a target's positions; the partition follows.
fn positions(target: &Target) -> String {
    format!("position/{}/{}/", target.sink, target.position_name())
}

#[async_trait]
impl Sink for Redis {
    async fn check(&self) -> Result<Health, SinkError> {
        let info: String = self.ask("connecting to", async |c| ::redis::cmd("INFO").query_async(c).await).await?;
        let value = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().to_owned()
        };
        if value("cluster_enabled") == "1" {
            let message = format!("{} is a cluster: data and position must be on one node", self.address);
            return Err(SinkError::new(Fault::Misconfigured, message));
        }
        let mut notes = Vec::new();
        if value("maxmemory_policy") != "noeviction" && value("maxmemory") != "0" {
            notes.push(format!(
                "maxmemory-policy is {}: set noeviction, or records may vanish",
                value("maxmemory_policy")
            ));
        }
        if value("aof_enabled") == "0" {
            notes.push("append-only file is off: after a crash the log fills in what was lost".to_owned());
        }
        Ok(Health { version: format!("Redis {}", value("redis_version")), notes })
    }

    async fn builds(&self, sink: &str, collection: &Collection) -> Result<Builds, SinkError> {
        let prefix = generations(sink, collection);
        let fields = ["live", "previous", "rebuild", "plan"].map(|name| format!("{prefix}{name}"));
        let found: Vec<Option<String>> = self
            .ask("reading generations of", async |c| {
                ::redis::cmd("HMGET").arg(self.state()).arg(&fields).query_async(c).await
            })
            .await?;
        let text = |i: usize| found.get(i).cloned().flatten();
        let number = |i: usize| text(i).and_then(|t| t.parse::<u64>().ok());
        let rebuild = number(2).map(|generation| Rebuild { generation, plan: text(3).unwrap_or_default() });
        Ok(Builds { live: number(0).unwrap_or(1), previous: number(1), rebuild })
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        if target.columns().is_some() {
            return Err(SinkError::new(
                Fault::Misconfigured,
                "redis has no columns; use projection document or events",
            ));
        }
        let name = self.records(&target.place());
        let one: Result<Vec<String>, SinkError> = self
            .ask("preparing", async |c| {
                let (_, fields): (String, Vec<String>) =
                    ::redis::cmd("HSCAN").arg(&name).arg(0).arg("COUNT").arg(1).query_async(c).await?;
                Ok(fields)
            })
            .await;
        let strange = || {
            let (sink, collection) = (&target.sink, &target.collection);
            SinkError::new(
                Fault::Incompatible,
                format!(
                    "key {name:?} of {} holds something that this hub did not write; move it out of the way, or set \
                     `prefix` for sink {sink} (collection {collection})",
                    self.address
                ),
            )
        };
        match one {
            Ok(fields) if fields.get(1).is_none_or(|value| value.starts_with(HEAD)) => Ok(()),
            Ok(_) => Err(strange()),
            Err(error) if error.fault == Fault::Incompatible => Err(strange()),
            Err(error) => Err(error),
        }
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        let all: Vec<(String, String)> = self
            .ask("reading positions of", async |c| ::redis::cmd("HGETALL").arg(self.state()).query_async(c).await)
            .await?;
        let prefix = positions(target);
        let one = |(field, at): (String, String)| {
            Some((field.strip_prefix(&prefix)?.parse().ok()?, Position(at.parse().ok()?)))
        };
        Ok(all.into_iter().filter_map(one).collect())
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        let place = target.place();
        let (generation, rule) = match &target.build {
            Build::Live(generation) => (*generation, "live"),
            Build::Beside(generation) => (*generation, "beside"),
            Build::Named(_) => (0, "any"),
        };
        let mode = match (batch.mode, target.projection) {
            (Mode::Repair, Projection::Events) => "first",
            (Mode::Repair, _) => "repair",
            (Mode::Apply, Projection::Events) => "append",
            (Mode::Apply, _) => "apply",
        };
        let mut call = self.write.prepare_invoke();
        call.key(self.state()).key(self.records(&place)).key(self.tombstones(&place));
        call.arg(format!("{}live", generations(&target.sink, &target.collection))).arg(generation).arg(rule);
        match batch.advance {
            Some(advance) => {
                call.arg(format!("{}{}", positions(target), batch.partition));
                call.arg(advance.expected.map_or(String::new(), |position| position.0.to_string()));
                call.arg(advance.next.0);
            }
            None => drop(call.arg("").arg("").arg("")),
        }
        call.arg(mode);
        for event in &batch.events {
            call.arg(event.identity(target.projection)).arg(event.version.0);
            call.arg(encode(event, target.projection)).arg(u8::from(event.data.is_none()));
        }
        let applied: u64 = self.ask("writing to", async |c| call.invoke_async(c).await).await?;
        Ok(Outcome { applied, stale: batch.events.len() as u64 - applied })
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    fn swap(&self) -> Option<&dyn Swap> {
        Some(self)
    }

    async fn close(&self) {
        self.connection.lock().await.take();
    }
}

#[async_trait]
impl Reader for Redis {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        let place = target.place();
        for hash in [self.records(&place), self.tombstones(&place)] {
            let value: Option<String> = self
                .ask("reading", async |c| ::redis::cmd("HGET").arg(&hash).arg(identity).query_async(c).await)
                .await?;
            if let Some(value) = value {
                return self.decoded(&hash, identity, &value).map(Some);
            }
        }
        Ok(None)
    }

    /// A cursor is `records:N` or `deleted:N`, N being the server's own.
    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        let (part, at) = cursor.and_then(|c| c.split_once(':')).unwrap_or(("records", "0"));
        let place = target.place();
        let hash = if part == "records" { self.records(&place) } else { self.tombstones(&place) };
        let (next, fields): (String, Vec<(String, String)>) = self
            .ask("reading", async |c| {
                ::redis::cmd("HSCAN").arg(&hash).arg(at).arg("COUNT").arg(PAGE).query_async(c).await
            })
            .await?;
        let records = fields.iter().map(|(identity, value)| self.decoded(&hash, identity, value));
        let next = match (part, next.as_str()) {
            ("records", "0") => Some("deleted:0".to_owned()),
            (_, "0") => None,
            (part, next) => Some(format!("{part}:{next}")),
        };
        Ok(Page { records: records.collect::<Result<_, _>>()?, next })
    }
}

impl Redis {
    fn decoded(&self, hash: &str, identity: &str, value: &str) -> Result<Stored, SinkError> {
        let strange = || {
            let message = format!("field {identity:?} of {hash:?} in {} was not written by this hub", self.address);
            SinkError::new(Fault::Incompatible, message)
        };
        decode(identity, value).ok_or_else(strange)
    }

    fn hashes(&self, target: &Target) -> [String; 2] {
        let place = target.place();
        [self.records(&place), self.tombstones(&place)]
    }
}

#[async_trait]
impl Swap for Redis {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        let generation = target.beside()?;
        let prefix = generations(&target.sink, &target.collection);
        self.ask("recording a rebuild in", async |c| {
            let mut set = ::redis::cmd("HSET");
            set.arg(self.state()).arg(format!("{prefix}rebuild")).arg(generation);
            set.arg(format!("{prefix}plan")).arg(plan).query_async(c).await
        })
        .await
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        let generation = to.beside()?;
        let builds = self.builds(&to.sink, &to.collection).await?;
        let from = to.with_build(Build::Live(builds.live));
        let old = to.with_build(Build::Beside(builds.live));
        let older = builds.previous.filter(|older| *older != generation).map(|g| to.with_build(Build::Beside(g)));
        let mut call = self.swap.prepare_invoke();
        call.key(self.state());
        for (a, b) in [(&from, &old), (to, &from)] {
            for (a, b) in self.hashes(a).into_iter().zip(self.hashes(b)) {
                call.key(a).key(b);
            }
        }
        older.iter().flat_map(|older| self.hashes(older)).for_each(|hash| {
            call.key(hash);
        });
        call.arg(generations(&to.sink, &to.collection)).arg(generation).arg(builds.live).arg(u8::from(caught_up));
        call.arg(positions(&from)).arg(positions(to));
        call.arg(builds.previous.map_or(String::new(), |g| g.to_string()));
        call.arg(older.as_ref().map_or(String::new(), positions)).arg(4);
        let done: u8 = self.ask("swapping generations in", async |c| call.invoke_async(c).await).await?;
        Ok(done == 1)
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        let mut call = self.discard.prepare_invoke();
        call.key(self.state());
        self.hashes(target).into_iter().for_each(|hash| {
            call.key(hash);
        });
        call.arg(positions(target)).arg(generations(&target.sink, &target.collection));
        call.arg(target.beside().map_or(String::new(), |g| g.to_string()));
        self.ask("dropping a build from", async |c| call.invoke_async::<u8>(c).await).await.map(|_| ())
    }
}
