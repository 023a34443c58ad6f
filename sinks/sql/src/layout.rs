//! How a target lies in columns: the hub's own, then the data's. Shared by all SQL stores; each names the types its way.

use primal_core::sink::{Projection, Target};
use primal_core::table::Kind;
use primal_core::{Fault, SinkError};

/// What a column holds, whatever the store calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Type {
    Text,
    Integer,
    Double,
    Boolean,
    Timestamp,
    Json,
}

impl From<Kind> for Type {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Integer => Type::Integer,
            Kind::Number => Type::Double,
            Kind::Boolean => Type::Boolean,
            Kind::Text => Type::Text,
            Kind::Timestamp => Type::Timestamp,
            Kind::Json => Type::Json,
        }
    }
}

/// A column. One that is not `ours` comes from the schema and may be added to an existing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub name: String,
    pub kind: Type,
    pub ours: bool,
}

/// The columns of one target.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub columns: Vec<Column>,
    /// The primary key: what identifies a record.
    pub identity: &'static str,
    /// Where the data begin.
    pub data_from: usize,
    pub projection: Projection,
}

const STATE: &[(&str, Type)] = &[
    ("_key", Type::Text),
    ("_version", Type::Integer),
    ("_deleted", Type::Boolean),
    ("_event_id", Type::Text),
    ("_time", Type::Timestamp),
    ("_alpha", Type::Double),
    ("_lambda", Type::Double),
    ("_k", Type::Double),
];
const EVENT: &[(&str, Type)] = &[("_op", Type::Text), ("_type", Type::Text)];

impl Layout {
    pub(crate) fn of(target: &Target) -> Self {
        let ours = |(name, kind): &(&str, Type)| Column { name: (*name).to_owned(), kind: *kind, ours: true };
        let mut columns: Vec<Column> = STATE.iter().map(ours).collect();
        if target.projection == Projection::Events {
            columns.extend(EVENT.iter().map(ours));
        }
        let data_from = columns.len();
        match (target.columns(), target.projection) {
            (Some(table), Projection::Table) => columns.extend(table.columns().iter().map(|column| Column {
                name: column.name.clone(),
                kind: column.kind.into(),
                ours: column.name.starts_with('_'),
            })),
            _ => columns.push(ours(&("data", Type::Json))),
        }
        let identity = if target.projection.keeps_every_event() { "_event_id" } else { "_key" };
        Layout { columns, identity, data_from, projection: target.projection }
    }

    /// The names, quoted, with commas.
    pub(crate) fn names(&self) -> String {
        self.columns.iter().map(|column| quote(&column.name)).collect::<Vec<_>>().join(", ")
    }

    /// Column definitions for `CREATE TABLE`, the primary key included.
    fn definitions(&self, type_name: fn(Type) -> &'static str) -> String {
        let one = |column: &Column| {
            let (name, kind) = (quote(&column.name), type_name(column.kind));
            let key = if column.name == self.identity { " PRIMARY KEY" } else { "" };
            let required = column.ours && !matches!(column.name.as_str(), "data" | "_extra");
            format!("{name} {kind}{}{key}", if required { " NOT NULL" } else { "" })
        };
        self.columns.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// What happens when the identity is there already: a higher version replaces the record (in repair an equal one
    /// too); an event is never changed (in repair the first one of an id is written again).
    pub(crate) fn on_conflict(&self, place: &str, repair: bool) -> String {
        let comparison = match (self.projection.keeps_every_event(), repair) {
            (true, false) => return format!("ON CONFLICT ({}) DO NOTHING", quote(self.identity)),
            (true, true) => "<=",
            (false, false) => ">",
            (false, true) => ">=",
        };
        let set = |column: &Column| format!("{0} = excluded.{0}", quote(&column.name));
        let others = self.columns.iter().filter(|column| column.name != self.identity);
        format!(
            "ON CONFLICT ({}) DO UPDATE SET {} WHERE excluded.\"_version\" {comparison} {place}.\"_version\"",
            quote(self.identity),
            others.map(set).collect::<Vec<_>>().join(", "),
        )
    }

    /// What makes a table fit: it is made, with the store's own `options` behind the columns, or gets the columns that it
    /// lacks. `found` are the columns that it has (name and type); none where there is no such table.
    ///
    /// # Errors
    /// A column of another type, or a table of another projection or another program.
    pub(crate) fn changes(
        &self,
        target: &Target,
        table: &str,
        found: &[(String, String)],
        type_name: fn(Type) -> &'static str,
        options: &str,
    ) -> Result<Vec<String>, SinkError> {
        if !found.is_empty() {
            let add = |c: &Column| format!("ALTER TABLE {table} ADD COLUMN {} {}", quote(&c.name), type_name(c.kind));
            return Ok(self.missing(target, found, type_name)?.into_iter().map(add).collect());
        }
        let mut statements = vec![format!("CREATE TABLE {table} ({}){options}", self.definitions(type_name))];
        if self.projection == Projection::Events {
            // Its number goes along with the table through swaps.
            let index = quote(&format!("{}__by_key", target.position_name()));
            statements.push(format!("CREATE INDEX {index} ON {table} (\"_key\")"));
        }
        Ok(statements)
    }

    /// Compares with the columns that a table has (name and type); the ones to be added.
    ///
    /// # Errors
    /// A column of another type, or a table of another projection or another program.
    fn missing(
        &self,
        target: &Target,
        found: &[(String, String)],
        type_name: fn(Type) -> &'static str,
    ) -> Result<Vec<&Column>, SinkError> {
        let place = target.place();
        let incompatible = |what: String| {
            Err(SinkError::new(
                Fault::Incompatible,
                format!(
                    "table {place:?} {what}; `replay --sink {} --collection {} --from earliest --mode shadow --execute` \
                     builds it anew beside the old one, or move that table out of the way",
                    target.sink, target.collection
                ),
            ))
        };
        let mut missing = Vec::new();
        for column in &self.columns {
            let wanted = type_name(column.kind);
            match found.iter().find(|(name, _)| *name == column.name) {
                Some((_, kind)) if kind.eq_ignore_ascii_case(wanted) => {}
                Some((_, kind)) => {
                    return incompatible(format!("has column {:?} of type {kind}, expected {wanted}", column.name));
                }
                None if column.ours => {
                    let projection = self.projection.as_str();
                    return incompatible(format!(
                        "has no column {:?}: it is not a `{projection}` projection of this hub",
                        column.name
                    ));
                }
                None => missing.push(column),
            }
        }
        Ok(missing)
    }
}

/// An identifier in double quotes, as both stores and the SQL standard have them.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use primal_core::Collection;
    use primal_core::sink::Build;

    fn target(projection: Projection) -> Target {
        Target {
            sink: "pg".into(),
            collection: Collection::new("my-flights").unwrap(),
            build: Build::Live(1),
            projection,
            table: None,
            mapping: Default::default(),
        }
    }

    fn upper(kind: Type) -> &'static str {
        if kind == Type::Json { "JSON" } else { "X" }
    }

    #[test]
    fn identifiers_cannot_break_out() {
        assert_eq!(quote(r#"a"b"#), r#""a""b""#);
    }

    #[test]
    fn a_foreign_table_and_another_projection_are_refused() {
        let layout = Layout::of(&target(Projection::Document));
        let mut found: Vec<_> = layout.columns.iter().map(|c| (c.name.clone(), upper(c.kind).to_lowercase())).collect();
        assert!(layout.missing(&target(Projection::Document), &found, upper).unwrap().is_empty());
        let events = Layout::of(&target(Projection::Events));
        let error = events.missing(&target(Projection::Events), &found, upper).unwrap_err().to_string();
        assert!(error.contains("_op") && error.contains("events"), "{error}");
        found[1].1 = "text".into();
        let error = layout.missing(&target(Projection::Document), &found, upper).unwrap_err().to_string();
        assert!(error.contains("_version") && error.contains("my-flights"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn a_quoted_name_is_one_identifier_and_reads_as_it_was(name in "[a\"'`; é-]{0,20}|\\PC{0,20}") {
            let quoted = quote(&name);
            let inside = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
            // Inside, quotes come in pairs only, so none of them ends it.
            proptest::prop_assert!(!inside.replace("\"\"", "").contains('"'));
            proptest::prop_assert_eq!(inside.replace("\"\"", "\""), name);
        }
    }
}
