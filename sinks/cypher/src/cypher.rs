//! The statements. What stands between backticks or single quotes in them is put there by [`quote`] or is a parameter.

use primal_core::Collection;
use primal_core::batch::{Batch, Mode};
use primal_core::mapping::{Graph, Mapping, label};
use primal_core::sink::{Build, Target};
use serde_json::{Value, json};

use crate::client::Statement;
use crate::node::Node;

/// The names that a target has in the store.
pub(crate) struct Names {
    /// Before every label.
    pub(crate) prefix: String,
    pub(crate) graph: Graph,
}

impl Names {
    pub(crate) fn of(target: &Target, prefix: &str) -> Self {
        let graph = match &*target.mapping {
            Mapping::Graph(graph) => graph.clone(),
            _ => Graph { label: label(&target.collection), edges: Vec::new() },
        };
        Names { prefix: prefix.to_owned(), graph }
    }

    /// The label of a build's nodes: the plain one for what is live.
    pub(crate) fn label(&self, build: &Build) -> String {
        let plain = format!("{}{}", self.prefix, self.graph.label);
        match build {
            Build::Live(_) => plain,
            Build::Beside(generation) => format!("{plain}__g{generation}"),
            Build::Named(name) => format!("{plain}__copy_{name}"),
        }
    }

    /// The labels of the nodes that each edge leads to. Those of the same collection are of the same build; of others only
    /// the live ones are there.
    pub(crate) fn ends(&self, target: &Target) -> Vec<String> {
        let end = |edge: &primal_core::mapping::Edge| match edge.to == target.collection {
            true => self.label(&target.build),
            false => format!("{}{}", self.prefix, edge.to_label),
        };
        self.graph.edges.iter().map(end).collect()
    }

    /// The label of what the hub remembers.
    pub(crate) fn state(&self) -> String {
        state(&self.prefix)
    }
}

pub(crate) fn state(prefix: &str) -> String {
    quote(&format!("{prefix}PrimalState"))
}

/// A name between backticks. The server reads `\uXXXX` before all else, so that a backslash is written that way.
pub(crate) fn quote(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\u005c").replace('`', "``"))
}

/// The node of a collection's generations.
pub(crate) fn generations(sink: &str, collection: &Collection) -> String {
    format!("generation/{sink}/{collection}")
}

/// What the ids of a target's positions begin with; the partition follows.
pub(crate) fn positions(target: &Target) -> String {
    format!("position/{}/{}/", target.sink, target.position_name())
}

/// Makes a property the identity of a label. Without it a merge would look at every node, and lock none.
pub(crate) fn constraint(label: &str, property: &str) -> Statement {
    let (name, label) = (quote(&format!("primal_{label}")), quote(label));
    let text = format!("CREATE CONSTRAINT {name} IF NOT EXISTS FOR (n:{label}) REQUIRE n.{property} IS UNIQUE");
    Statement::new(text, json!({}))
}

/// Takes that back.
pub(crate) fn unconstrained(label: &str) -> Statement {
    Statement::new(format!("DROP CONSTRAINT {} IF EXISTS", quote(&format!("primal_{label}"))), json!({}))
}

/// The statements of a batch, in one transaction. The first locks the position by writing to it, so that whoever comes
/// second waits before anything is read; the second checks and moves it and says whether the gate is open; the others do
/// nothing while it is not.
///
/// The answer of the second is `open, position, live generation`, that of the third how many nodes were written.
pub(crate) fn write(target: &Target, names: &Names, batch: &Batch<'_>, nodes: &[Node]) -> Vec<Statement> {
    let mut statements = fence(target, names, batch);
    let (state, label) = (names.state(), quote(&names.label(&target.build)));
    let position = format!("{}{}", positions(target), batch.partition);
    let gate = format!("MATCH (gate:{state} {{id: $position}}) WHERE gate.open");
    let older = if batch.mode == Mode::Repair { "<=" } else { "<" };
    let rows: Vec<&Value> = nodes.iter().map(|node| &node.row).collect();
    statements.push(Statement::new(
        format!(
            "{gate} UNWIND $rows AS row MERGE (n:{label} {{_key: row.k}}) \
             WITH n, row WHERE n._version IS NULL OR n._version {older} row.v \
             SET n = row.p SET n._time = datetime({{epochSeconds: row.s, nanosecond: row.ns}}) RETURN count(*)"
        ),
        json!({ "position": position, "rows": rows }),
    ));
    if names.graph.edges.is_empty() || nodes.is_empty() {
        return statements;
    }
    // Of the events that were written, and of those that had been written before: their edges are the same.
    let written = format!("MATCH (n:{label} {{_key: row.k}}) WHERE n._version = row.v");
    let kept: Vec<Value> = nodes.iter().map(|node| kept(&names.graph, node)).collect();
    statements.push(Statement::new(
        format!(
            "{gate} UNWIND $rows AS row {written} MATCH (n)-[r]->(end) \
             WHERE r._field IS NOT NULL AND NOT [r._field, type(r), end._key] IN row.x \
             WITH r, end ORDER BY end._key DELETE r"
        ),
        json!({ "position": position, "rows": kept }),
    ));
    for (place, (edge, end)) in names.graph.edges.iter().zip(names.ends(target)).enumerate() {
        let mut leads: Vec<(&String, &Node)> = nodes.iter().flat_map(|node| ends_at(node, place)).collect();
        if leads.is_empty() {
            continue;
        }
        // Many lead to the same few: in one order fewer transactions of two partitions wait for one another in a circle.
        leads.sort_by_key(|(end, _)| *end);
        let row = |(end, node): (&String, &Node)| json!({ "k": node.key, "v": node.version, "e": end });
        let rows: Vec<Value> = leads.into_iter().map(row).collect();
        // The merge locks the key in the label's constraint, so that a swap takes no label away before the relation is there.
        let (end, kind) = (quote(&end), quote(&edge.kind));
        let parameters = json!({ "position": position, "rows": rows, "field": edge.field });
        statements.push(Statement::new(
            format!(
                "{gate} UNWIND $rows AS row {written} MERGE (end:{end} {{_key: row.e}}) MERGE (n)-[:{kind} {{_field: $field}}]->(end)"
            ),
            parameters,
        ));
    }
    statements
}

/// Where an edge of the mapping leads from a node.
fn ends_at(node: &Node, place: usize) -> impl Iterator<Item = (&String, &Node)> {
    node.ends.get(place).into_iter().flatten().map(move |end| (end, node))
}

/// The edges that a node keeps, as `[member, type, key]`.
fn kept(graph: &Graph, node: &Node) -> Value {
    let of = |(edge, ends): (&primal_core::mapping::Edge, &Vec<String>)| -> Vec<Value> {
        ends.iter().map(|key| json!([edge.field, edge.kind, key])).collect()
    };
    let edges: Vec<Value> = graph.edges.iter().zip(&node.ends).flat_map(of).collect();
    json!({ "k": node.key, "v": node.version, "x": edges })
}

fn fence(target: &Target, names: &Names, batch: &Batch<'_>) -> Vec<Statement> {
    let state = names.state();
    let position = format!("{}{}", positions(target), batch.partition);
    let generation = generations(&target.sink, &target.collection);
    let mut statements = vec![Statement::new(
        format!("MERGE (p:{state} {{id: $position}}) SET p.locked = true"),
        json!({ "position": position }),
    )];
    // A swap locks the positions that there are; who makes a new one, or moves none, locks the generations instead.
    let unseen = batch.advance.is_none_or(|advance| advance.expected.is_none());
    if unseen && !matches!(target.build, Build::Named(_)) {
        let lock = format!("MATCH (g:{state} {{id: $generation}}) SET g.locked = true");
        statements.push(Statement::new(lock, json!({ "generation": generation })));
    }
    let (live, number) = match &target.build {
        Build::Live(generation) => ("coalesce(g.live, 1) = $number", *generation),
        Build::Beside(generation) => ("coalesce(g.live, 1) <> $number", *generation),
        Build::Named(_) => ("true", 0),
    };
    let at = match batch.advance {
        None => "true",
        Some(advance) if advance.expected.is_none() => "p.at IS NULL",
        Some(_) => "p.at = $expected",
    };
    let moved = if batch.advance.is_some() { "[1]" } else { "[]" };
    statements.push(Statement::new(
        format!(
            "MATCH (p:{state} {{id: $position}}) OPTIONAL MATCH (g:{state} {{id: $generation}}) \
             WITH p, p.at AS at, coalesce(g.live, 1) AS live, coalesce(({live}) AND ({at}), false) AS open \
             SET p.open = open FOREACH (_ IN CASE WHEN open THEN {moved} ELSE [] END | SET p.at = $next) \
             RETURN open, at, live"
        ),
        json!({
            "position": position,
            "generation": generation,
            "number": number,
            "expected": batch.advance.and_then(|advance| advance.expected).map(|at| at.as_i64()),
            "next": batch.advance.map(|advance| advance.next.as_i64()),
        }),
    ));
    statements
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_quoted_name_ends_where_it_should(name in "[`\\\\a-z0-9u' ]{0,20}") {
            let quoted = quote(&name);
            // As the server reads it: the escapes first, then doubled backticks.
            let inner = quoted.strip_prefix('`').unwrap().strip_suffix('`').unwrap();
            prop_assert!(!inner.replace("\\u005c", "").contains('\\'));
            prop_assert!(!inner.replace("``", "").contains('`'));
            prop_assert_eq!(inner.replace("\\u005c", "\\").replace("``", "`"), name);
        }
    }
}
