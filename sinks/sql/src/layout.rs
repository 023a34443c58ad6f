//! A layout as SQL: names, definitions, and what happens when a record is there already. Shared by PostgreSQL and SQLite;
//! each names the types its way.

use primal_core::SinkError;
use primal_core::columns::{Column, Layout, Type};
use primal_core::sink::{Projection, Target};

/// What both stores write the same way.
pub(crate) trait Statements {
    /// The names, quoted, with commas.
    fn names(&self) -> String;

    /// Column definitions for `CREATE TABLE`, the primary key included.
    fn definitions(&self, type_name: fn(Type) -> &'static str) -> String;

    /// What happens when the identity is there already: a higher version replaces the record (in repair an equal one
    /// too); an event is never changed (in repair the first one of an id is written again).
    fn on_conflict(&self, place: &str, repair: bool) -> String;

    /// What makes a table fit: it is made, with the store's own `options` behind the columns, or gets the columns that it
    /// lacks. `found` are the columns that it has (name and type); none where there is no such table.
    ///
    /// # Errors
    /// A column of another type, or a table of another projection or another program.
    fn changes(
        &self,
        target: &Target,
        table: &str,
        found: &[(String, String)],
        type_name: fn(Type) -> &'static str,
        options: &str,
    ) -> Result<Vec<String>, SinkError>;
}

impl Statements for Layout {
    fn names(&self) -> String {
        self.columns.iter().map(|column| quote(&column.name)).collect::<Vec<_>>().join(", ")
    }

    fn definitions(&self, type_name: fn(Type) -> &'static str) -> String {
        let one = |column: &Column| {
            let (name, kind) = (quote(&column.name), type_name(column.kind));
            let required = column.ours && !matches!(column.name.as_str(), "data" | "_extra");
            format!("{name} {kind}{}", if required { " NOT NULL" } else { "" })
        };
        let columns: Vec<_> = self.columns.iter().map(one).collect();
        format!("{}, PRIMARY KEY ({})", columns.join(", "), key(self))
    }

    fn on_conflict(&self, place: &str, repair: bool) -> String {
        let key = key(self);
        let comparison = match (self.projection, repair) {
            (Projection::Events, false) => return format!("ON CONFLICT ({key}) DO NOTHING"),
            (Projection::Events, true) => "<=",
            (_, false) => ">",
            (_, true) => ">=",
        };
        let set = |column: &Column| format!("{0} = excluded.{0}", quote(&column.name));
        let others = self.columns.iter().filter(|column| !self.key().contains(&column.name.as_str()));
        format!(
            "ON CONFLICT ({key}) DO UPDATE SET {} WHERE excluded.\"_version\" {comparison} {place}.\"_version\"",
            others.map(set).collect::<Vec<_>>().join(", "),
        )
    }

    fn changes(
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
}

/// The columns of the primary key, quoted, with commas.
fn key(layout: &Layout) -> String {
    layout.key().iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
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
