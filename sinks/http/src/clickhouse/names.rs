//! Names and texts in ClickHouse's SQL, the columns of a target, and what its tables and their comments say of generations.

use std::collections::BTreeMap;

use primal_core::Collection;
use primal_core::columns::{Column, Layout, Type};
use primal_core::sink::{Builds, Rebuild, Target};
use serde::{Deserialize, Serialize};

/// An identifier (https://clickhouse.com/docs/sql-reference/syntax#identifiers).
pub(super) fn quote(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text (https://clickhouse.com/docs/sql-reference/syntax#string).
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'").replace('\0', "\\0"))
}

/// The table of a target's positions; its data are in that of [`Target::position_name`].
pub(super) fn positions(target: &Target) -> String {
    format!("{}__positions", target.position_name())
}

/// The columns of a target, quoted, with commas.
pub(super) fn columns(layout: &Layout) -> String {
    layout.columns.iter().map(|column| quote(&column.name)).collect::<Vec<_>>().join(", ")
}

pub(super) fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Text | Type::Json => "String",
        Type::Integer => "Int64",
        Type::Double => "Float64",
        Type::Boolean => "Bool",
        Type::Timestamp => "DateTime64(6, 'UTC')",
    }
}

/// The definition of a column. Only the data's may be null.
pub(super) fn definition(column: &Column, is_data: bool) -> String {
    let (name, kind) = (quote(&column.name), type_name(column.kind));
    if is_data { format!("{name} Nullable({kind})") } else { format!("{name} {kind}") }
}

/// A type without its Nullable.
pub(super) fn bare(kind: &str) -> &str {
    kind.strip_prefix("Nullable(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(kind)
}

/// The comment of the readers' view.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Live {
    pub live: u64,
    pub previous: Option<u64>,
}

/// The comment of a generation's table.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Made {
    pub plan: Option<String>,
}

/// The tables of a collection.
#[derive(Debug, Default)]
pub(super) struct Generations {
    view: Option<Live>,
    tables: BTreeMap<u64, Made>,
    /// Something stands under the plain name that is no view of this hub.
    pub foreign: bool,
}

impl Generations {
    /// From rows of name, engine and comment.
    pub(super) fn read(collection: &Collection, rows: &[Vec<String>]) -> Self {
        let mut found = Generations::default();
        for row in rows {
            let [name, engine, comment] = row.as_slice() else { continue };
            let number = name.strip_prefix(collection.as_str()).and_then(|rest| rest.strip_prefix("__g"));
            match number.and_then(|number| number.parse().ok()) {
                Some(number) => drop(found.tables.insert(number, serde_json::from_str(comment).unwrap_or_default())),
                None => {
                    found.view = serde_json::from_str(comment).ok().filter(|_| engine == "View");
                    found.foreign = found.view.is_none();
                }
            }
        }
        found
    }

    pub(super) fn builds(&self) -> Builds {
        let (live, previous) = self.view.as_ref().map_or((1, None), |view| (view.live, view.previous));
        let free = |number: &u64| self.view.is_none() || (*number != live && Some(*number) != previous);
        let rebuild = self.tables.iter().rev().filter(|(number, _)| free(number));
        let mut rebuild = rebuild.filter_map(|(number, made)| {
            made.plan.as_ref().map(|plan| Rebuild { generation: *number, plan: plan.clone() })
        });
        Builds { live, previous: previous.filter(|number| self.tables.contains_key(number)), rebuild: rebuild.next() }
    }

    /// Whether readers see any generation.
    pub(super) fn has_view(&self) -> bool {
        self.view.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_told_by_comments() {
        let row = |name: &str, engine: &str, comment: &str| [name, engine, comment].map(str::to_owned).to_vec();
        let flights = Collection::new("flights").unwrap();
        let rows = [
            row("flights", "View", r#"{"live":2,"previous":1}"#),
            row("flights__g1", "ReplacingMergeTree", ""),
            row("flights__g2", "ReplacingMergeTree", r#"{"plan":"old"}"#),
            row("flights__g3", "ReplacingMergeTree", r#"{"plan":"all"}"#),
        ];
        let rebuild = Some(Rebuild { generation: 3, plan: "all".into() });
        let found = Generations::read(&flights, &rows);
        assert_eq!(found.builds(), Builds { live: 2, previous: Some(1), rebuild });
        assert!(Generations::read(&flights, &[row("flights", "MergeTree", "")]).foreign);
        assert_eq!(Generations::read(&flights, &[]).builds(), Builds { live: 1, ..Builds::default() });
    }

    proptest::proptest! {
        #[test]
        fn a_text_cannot_break_out(text in "[a'`\\\\\\x00; é-]{0,20}|\\PC{0,20}") {
            for (quoted, mark) in [(literal(&text), '\''), (quote(&text), '`')] {
                let inside = quoted.strip_prefix(mark).and_then(|rest| rest.strip_suffix(mark)).unwrap();
                // Read as the server does: a backslash and what follows is one character, and no mark stands alone.
                let (mut read, mut rest) = (String::new(), inside.chars());
                while let Some(c) = rest.next() {
                    proptest::prop_assert!(c != mark);
                    read.push(if c != '\\' { c } else {
                        match rest.next() { Some('0') => '\0', Some(c) => c, None => unreachable!() }
                    });
                }
                proptest::prop_assert_eq!(read, text.as_str());
            }
        }
    }
}
