//! Generations by label. A swap gives the plain label to the nodes of the new generation, and to these the relations that
//! led to the old ones from elsewhere, in one transaction. The server holds that in its memory, about 10 KB for each key: with
//! a heap of 512 MB 30,000 went and 40,000 did not. Where it has not enough, the swap fails whole and nothing has changed.

use async_trait::async_trait;
use primal_core::sink::{Build, Swap, Target};
use primal_core::{Fault, SinkError};
use serde_json::{Value, json};

use crate::client::Statement;
use crate::cypher::{constraint, generations, positions, quote, state, unconstrained};
use crate::neo4j::Neo4j;

/// Nodes that are deleted in one transaction.
const DELETED: usize = 5_000;

#[async_trait]
impl Swap for Neo4j {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        let (generation, id) = (target.beside()?, generations(&target.sink, &target.collection));
        let schema = constraint(&format!("{}PrimalState", self.prefix), "id");
        self.client.one("preparing", schema).await?;
        let text = format!(
            "MERGE (g:{} {{id: $id}}) ON CREATE SET g.live = 1 SET g.rebuild = $generation, g.plan = $plan",
            state(&self.prefix)
        );
        let parameters = json!({ "id": id, "generation": generation, "plan": plan });
        self.client.one("recording a rebuild in", Statement::new(text, parameters)).await.map(|_| ())
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        let generation = to.beside()?;
        let builds = self.builds_of(to).await?;
        let (live, old) = (to.with_build(Build::Live(builds.live)), to.with_build(Build::Beside(builds.live)));
        let older = builds.previous.filter(|older| *older != generation);
        let older = older.map(|older| to.with_build(Build::Beside(older)));
        let doing = "swapping generations in";
        // Nodes enter and leave a label several times faster where it has no constraint. What was live gets its own again
        // from the next `prepare`; until then nobody writes to it.
        self.client.one(doing, unconstrained(&self.names(to).label(&old.build))).await?;
        let mut statements = self.exchange(to, &live, &old, caught_up);
        if let Some(older) = &older {
            statements.push(self.forget_positions(older));
        }
        let open = 2;
        let answers = self.client.run(doing, statements).await.map_err(|error| self.without_room(error))?;
        let swapped = answers.get(open).and_then(|rows| rows.first()?.first()) == Some(&Value::Bool(true));
        if let Some(older) = older.filter(|_| swapped) {
            self.drop_nodes(&older).await?;
        }
        Ok(swapped)
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        let mut statements = Vec::new();
        if let Build::Beside(generation) = target.build {
            let text = format!(
                "MATCH (g:{} {{id: $id}}) \
                 FOREACH (_ IN CASE WHEN g.rebuild = $generation THEN [1] ELSE [] END | REMOVE g.rebuild, g.plan) \
                 FOREACH (_ IN CASE WHEN g.previous = $generation THEN [1] ELSE [] END | REMOVE g.previous)",
                state(&self.prefix)
            );
            let id = generations(&target.sink, &target.collection);
            statements.push(Statement::new(text, json!({ "id": id, "generation": generation })));
        }
        let text = format!("MATCH (p:{}) WHERE p.id STARTS WITH $prefix DELETE p", state(&self.prefix));
        statements.push(Statement::new(text, json!({ "prefix": positions(target) })));
        self.client.run("dropping a build from", statements).await?;
        self.drop_nodes(target).await
    }
}

impl Neo4j {
    async fn builds_of(&self, target: &Target) -> Result<primal_core::sink::Builds, SinkError> {
        use primal_core::Sink;
        self.builds(&target.sink, &target.collection).await
    }

    /// Says what helps where the transaction is too large for the server.
    fn without_room(&self, error: SinkError) -> SinkError {
        if !error.context.contains("MemoryPoolOutOfMemory") {
            return error;
        }
        let message = format!(
            "swapping generations in {}: the server has not the memory for one transaction over all their nodes, about \
             10 KB each; raise `server.memory.heap.max_size` and `dbms.memory.transaction.total.max` there",
            self.client.address()
        );
        SinkError::new(Fault::Full, message).because(error)
    }

    /// The transaction of a swap: the live positions are locked, as writers do it, then the generations; the third says
    /// whether it may be; the others do nothing if not.
    fn exchange(&self, to: &Target, live: &Target, old: &Target, caught_up: bool) -> Vec<Statement> {
        let (state, names) = (state(&self.prefix), self.names(to));
        let [plain, next, past] = [&live.build, &to.build, &old.build].map(|build| quote(&names.label(build)));
        let parameters = json!({
            "id": generations(&to.sink, &to.collection),
            "from": positions(live),
            "to": positions(to),
            "live": match live.build { Build::Live(generation) => generation, _ => 0 },
            "next": match to.build { Build::Beside(generation) => generation, _ => 0 },
            "caught_up": caught_up,
        });
        let gate = format!("MATCH (g:{state} {{id: $id}}) WHERE g.open");
        let texts = [
            format!("MATCH (p:{state}) WHERE p.id STARTS WITH $from SET p.locked = true"),
            format!("MERGE (g:{state} {{id: $id}}) ON CREATE SET g.live = 1 SET g.locked = true"),
            format!(
                "MATCH (g:{state} {{id: $id}}) \
                 OPTIONAL MATCH (a:{state}) WHERE a.id STARTS WITH $from AND a.at IS NOT NULL \
                 OPTIONAL MATCH (b:{state} {{id: $to + substring(a.id, size($from))}}) \
                 WITH g, sum(CASE WHEN a IS NULL OR b.at >= a.at THEN 0 ELSE 1 END) AS behind \
                 WITH g, g.live = $live AND g.live <> $next AND (NOT $caught_up OR behind = 0) AS open \
                 SET g.open = open RETURN open"
            ),
            format!("{gate} MATCH (n:{plain}) REMOVE n:{plain} SET n:{past}"),
            format!("{gate} MATCH (n:{next}) REMOVE n:{next} SET n:{plain}"),
            format!(
                "{gate} MATCH (from)-[r]->(n:{past}) WHERE NOT from:{past} MERGE (end:{plain} {{_key: n._key}}) \
                 CREATE (from)-[moved:$(type(r))]->(end) SET moved = properties(r) DELETE r"
            ),
            format!(
                "{gate} SET g.previous = g.live, g.live = $next \
                 FOREACH (_ IN CASE WHEN g.rebuild = $next THEN [1] ELSE [] END | REMOVE g.rebuild, g.plan)"
            ),
        ];
        texts.into_iter().map(|text| Statement::new(text, parameters.clone())).collect()
    }

    /// Of the generation before, in the transaction of a swap that was made.
    fn forget_positions(&self, target: &Target) -> Statement {
        let state = state(&self.prefix);
        let text = format!(
            "MATCH (g:{state} {{id: $id}}) WHERE g.open MATCH (p:{state}) WHERE p.id STARTS WITH $prefix DELETE p"
        );
        let id = generations(&target.sink, &target.collection);
        Statement::new(text, json!({ "id": id, "prefix": positions(target) }))
    }

    /// Deletes nodes some at a time, because a transaction is held in memory, and then their label's constraint.
    async fn drop_nodes(&self, target: &Target) -> Result<(), SinkError> {
        let (label, doing) = (self.names(target).label(&target.build), "dropping a build from");
        let text = format!("MATCH (n:{}) WITH n LIMIT {DELETED} DETACH DELETE n RETURN count(*)", quote(&label));
        loop {
            let rows = self.client.one(doing, Statement::new(text.as_str(), json!({}))).await?;
            if rows.first().and_then(|row| row.first()?.as_u64()).unwrap_or(0) == 0 {
                break;
            }
        }
        self.client.one(doing, unconstrained(&label)).await.map(|_| ())
    }
}
