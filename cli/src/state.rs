//! `primalcore state`: one entity as the log says it.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use primal_audit::{AsOf, Change, Entity, Entry, StateError, changes};
use primal_core::{Moment, Version};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::output::{self, Columns, short};
use crate::{ConfigFile, Failure, Outcome, past};

/// So many characters of a value are shown in a table.
const SHOWN: usize = 60;
/// So many changed members are named in a row of the history.
const NAMED: usize = 6;

/// The state of one entity as the log says it: the last put or delete that the log took at or before a moment. Only the
/// entity's partition is read.
#[derive(Args)]
#[command(disable_version_flag = true)]
pub(crate) struct State {
    #[command(flatten)]
    config: ConfigFile,
    /// The collection
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// The entity's key
    #[arg(long, value_name = "KEY")]
    key: String,
    /// When, by recorded time: a date, a time (UTC without a zone), how long ago (2h), earliest, or latest
    #[arg(long, value_name = "T", value_parser = past, default_value = "latest")]
    as_of: Moment,
    /// The state that this version wrote
    #[arg(long, value_name = "V", conflicts_with = "as_of")]
    version: Option<u64>,
    /// All versions up to then, and what each changed
    #[arg(long, conflicts_with = "version")]
    history: bool,
    /// What differs between two moments, member by member
    #[arg(long, value_names = ["T1", "T2"], num_args = 2, value_parser = past, conflicts_with_all = ["as_of", "version", "history"])]
    diff: Vec<Moment>,
    /// How to print; json has one object per version with --history
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// A state as JSON.
#[derive(Serialize)]
struct Known<'a> {
    as_of: String,
    exists: bool,
    #[serde(flatten)]
    entry: &'a Entry,
    data: Option<Box<RawValue>>,
}

impl<'a> Known<'a> {
    fn new(as_of: String, entry: &'a Entry) -> Self {
        Known { as_of, exists: !entry.is_delete(), entry, data: entry.payload() }
    }
}

/// A version as JSON. No `json!` here or below: it would round the numbers of the payload.
#[derive(Serialize)]
struct Changed<'a> {
    event: &'a Entry,
    changes: &'a [Change],
}

/// Two states and what differs, as JSON.
#[derive(Serialize)]
struct Differences<'a> {
    before: Side<'a>,
    after: Side<'a>,
    changes: &'a [Change],
}

#[derive(Serialize)]
struct Side<'a> {
    as_of: String,
    /// The event that wrote it; a delete too. Absent where the entity was not there yet.
    event: Option<&'a Entry>,
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Scan(error) => error.into(),
            StateError::NoKey { .. } | StateError::NoVersion { .. } => Failure::usage(error),
            StateError::NotYet { .. } | StateError::OnlyAppends { .. } => Failure::failed(error),
        }
    }
}

impl State {
    pub(crate) async fn run(self) -> Outcome {
        let hub = Arc::new(self.config.open().await?);
        let entity = Entity::new(hub.log.clone(), hub.source(&self.collection)?, &self.key);
        #[cfg(feature = "query")]
        let entity = entity.with(Arc::new(crate::query::Snapshots(hub)));
        if let [from, to] = self.diff.as_slice() {
            return self.differences(&entity, *from, *to).await;
        }
        if self.history {
            return self.versions(&entity).await;
        }
        let as_of = match self.version {
            Some(version) => AsOf::Version(Version(version)),
            None => AsOf::Moment(self.as_of),
        };
        let entry = entity.state(as_of).await?;
        let when = match as_of {
            AsOf::Version(version) => format!("version {version}"),
            AsOf::Moment(moment) => moment.to_string(),
        };
        if self.format == Format::Json {
            return output::json(&Known::new(when, &entry));
        }
        self.headline(&match as_of {
            AsOf::Version(_) => when,
            AsOf::Moment(moment) => spoken(moment),
        });
        show(&entry);
        Ok(())
    }

    fn headline(&self, when: &str) {
        output::line(&format!("{} {}, {when}", self.collection, output::printable(&self.key)));
    }

    async fn versions(&self, entity: &Entity) -> Outcome {
        // A key that is not there at all, or not yet, is told as it is for a single state.
        if let Err(error) = entity.state(AsOf::Moment(self.as_of)).await
            && !matches!(error, StateError::OnlyAppends { .. })
        {
            return Err(error.into());
        }
        let mut versions = entity.versions(self.as_of).await?;
        if self.format == Format::Table {
            self.headline(&format!("all versions, {}", spoken(self.as_of)));
        }
        let mut columns = Columns::new(&["recorded", "version", "op", "type", "event id", "changed"], 500);
        let mut first = true;
        while let Some((entry, changes)) = versions.next().await? {
            let goes_on = match self.format {
                Format::Json => output::json_line(&Changed { event: &entry, changes: &changes })?,
                Format::Table => columns.row(vec![
                    entry.recorded.to_string(),
                    entry.version.to_string(),
                    entry.op.map_or("no event", |op| op.as_str()).to_owned(),
                    entry.kind.clone(),
                    entry.id.clone(),
                    if entry.is_delete() || first { String::new() } else { named(&changes) },
                ]),
            };
            first = if entry.is_state() { entry.is_delete() } else { first };
            if !goes_on {
                return Ok(());
            }
        }
        let _ = self.format == Format::Table && columns.flush();
        Ok(())
    }

    async fn differences(&self, entity: &Entity, from: Moment, to: Moment) -> Outcome {
        let (before, after) = (entity.state_or_none(from).await?, entity.state_or_none(to).await?);
        let data = |entry: &Option<Entry>| entry.as_ref().and_then(|entry| entry.data.clone());
        let changes = changes(data(&before).as_deref(), data(&after).as_deref());
        if self.format == Format::Json {
            let side = |moment: Moment, event| Side { as_of: moment.to_string(), event };
            let (before, after) = (side(from, before.as_ref()), side(to, after.as_ref()));
            return output::json(&Differences { before, after, changes: &changes });
        }
        for (moment, entry) in [(from, &before), (to, &after)] {
            let what = entry.as_ref().map_or("not there yet".to_owned(), |entry| {
                let op = entry.op.map_or("no event", |op| op.as_str());
                format!("version {}, {op}, recorded {}, event {}", entry.version, entry.recorded, entry.id)
            });
            self.headline(&format!("{}: {what}", spoken(moment)));
        }
        if changes.is_empty() {
            output::line("nothing differs");
            return Ok(());
        }
        let value = |raw: &Option<Box<RawValue>>| raw.as_ref().map_or(String::new(), |raw| short(raw.get(), SHOWN));
        let mut columns = Columns::new(&["member", "before", "after"], usize::MAX);
        let all = changes.iter().all(|c| columns.row(vec![c.member.clone(), value(&c.before), value(&c.after)]));
        let _ = all && columns.flush();
        Ok(())
    }
}

/// A moment in a headline: which clock is meant, and in which zone it is written.
fn spoken(moment: Moment) -> String {
    match moment {
        Moment::Time(at) => format!("as of {at} (recorded time, UTC)"),
        other => format!("as of {other} (recorded time)"),
    }
}

fn show(entry: &Entry) {
    let mut pairs = vec![
        ("op", entry.op.map_or("no event", |op| op.as_str()).to_owned()),
        ("version", entry.version.to_string()),
        ("event id", entry.id.clone()),
        ("recorded", entry.recorded.to_string()),
        ("time", entry.time.clone().unwrap_or_default()),
        ("type", entry.kind.clone()),
        ("source", entry.source.clone()),
        ("actor", entry.actor.clone().unwrap_or_default()),
        ("place", format!("partition {}, offset {}", entry.partition, entry.offset)),
    ];
    pairs.retain(|(_, value)| !value.is_empty());
    output::pairs(&pairs);
    payload(entry);
}

/// The payload, one member a line.
pub(crate) fn payload(entry: &Entry) {
    match entry.payload() {
        Some(payload) => output::line(&output::indented(payload.get())),
        None => output::line("deleted: there is no payload"),
    }
}

/// The changed members by pointer; `+` where one is new, `-` where it is gone.
fn named(changes: &[Change]) -> String {
    let one = |change: &Change| match (&change.before, &change.after) {
        (None, _) => format!("+{}", change.member),
        (_, None) => format!("-{}", change.member),
        _ => change.member.clone(),
    };
    let mut text = changes.iter().take(NAMED).map(one).collect::<Vec<_>>().join(" ");
    if changes.len() > NAMED {
        text += &format!(" and {} more", changes.len() - NAMED);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_printed_with_every_digit() {
        let changes = changes(Some(r#"{"n":1}"#), Some(r#"{"n":0.10000000000000000555}"#));
        let side = || Side { as_of: "latest".to_owned(), event: None };
        let text = serde_json::to_string(&Differences { before: side(), after: side(), changes: &changes }).unwrap();
        assert!(text.contains(r#"{"member":"/n","before":1,"after":0.10000000000000000555}"#), "{text}");
        assert_eq!(named(&changes), "/n");
    }
}
