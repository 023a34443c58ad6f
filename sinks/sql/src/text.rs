//! SQL text about positions and generations that both stores understand. `$n` are parameters in both.

use crate::layout::quote;

pub(crate) const POSITIONS: &str = "_primal_positions";
pub(crate) const GENERATIONS: &str = "_primal_generations";

/// Statements over one schema.
pub(crate) struct Text {
    prefix: String,
    pub positions: String,
    pub builds: String,
    pub known: String,
    pub begin: String,
    pub live: String,
    pub advance: String,
    pub insert_position: String,
    pub behind: String,
    pub set_live: String,
    pub forget_rebuild: String,
    pub drop_positions: String,
}

impl Text {
    /// `schema` is where the tables are; none in a file of their own.
    pub(crate) fn new(schema: Option<&str>) -> Self {
        let prefix = schema.map_or(String::new(), |schema| format!("{}.", quote(schema)));
        let (positions, generations) = (format!("{prefix}{POSITIONS}"), format!("{prefix}{GENERATIONS}"));
        let of_target = "sink = $1 AND place = $2";
        let of_collection = "sink = $1 AND collection = $2";
        Text {
            positions: format!("SELECT \"partition\", position FROM {positions} WHERE {of_target}"),
            builds: format!("SELECT live, previous, rebuild, plan FROM {generations} WHERE {of_collection}"),
            known: format!(
                "INSERT INTO {generations} (sink, collection, live) VALUES ($1, $2, 1) ON CONFLICT DO NOTHING"
            ),
            begin: format!("UPDATE {generations} SET rebuild = $3, plan = $4 WHERE {of_collection}"),
            live: format!("SELECT live FROM {generations} WHERE {of_collection}"),
            advance: format!(
                "UPDATE {positions} SET position = $4, updated_at = CURRENT_TIMESTAMP \
                 WHERE {of_target} AND \"partition\" = $3 AND position = $5"
            ),
            insert_position: format!(
                "INSERT INTO {positions} (sink, place, \"partition\", position) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT DO NOTHING"
            ),
            behind: format!(
                "SELECT count(*) FROM {positions} AS live LEFT JOIN {positions} AS next \
                 ON next.sink = live.sink AND next.place = $3 AND next.\"partition\" = live.\"partition\" \
                 WHERE live.sink = $1 AND live.place = $2 AND coalesce(next.position, -1) < live.position"
            ),
            set_live: format!(
                "UPDATE {generations} SET live = $3, previous = $4, \
                 plan = CASE WHEN rebuild = $3 THEN NULL ELSE plan END, \
                 rebuild = CASE WHEN rebuild = $3 THEN NULL ELSE rebuild END WHERE {of_collection}"
            ),
            forget_rebuild: format!(
                "UPDATE {generations} SET plan = CASE WHEN rebuild = $3 THEN NULL ELSE plan END, \
                 previous = CASE WHEN previous = $3 THEN NULL ELSE previous END, \
                 rebuild = CASE WHEN rebuild = $3 THEN NULL ELSE rebuild END WHERE {of_collection}"
            ),
            drop_positions: format!("DELETE FROM {positions} WHERE {of_target}"),
            prefix,
        }
    }

    /// The table of a place, quoted, with its schema.
    pub(crate) fn table(&self, place: &str) -> String {
        format!("{}{}", self.prefix, quote(place))
    }

    /// The hub's own tables. `integer` and `moment` are the store's types.
    pub(crate) fn own_tables(&self, integer: &str, moment: &str, suffix: &str) -> String {
        let Text { prefix, .. } = self;
        format!(
            "CREATE TABLE IF NOT EXISTS {prefix}{POSITIONS} (sink TEXT NOT NULL, place TEXT NOT NULL, \
             \"partition\" INTEGER NOT NULL, position {integer} NOT NULL, \
             updated_at {moment} NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (sink, place, \"partition\")){suffix}; \
             CREATE TABLE IF NOT EXISTS {prefix}{GENERATIONS} (sink TEXT NOT NULL, collection TEXT NOT NULL, \
             live {integer} NOT NULL, previous {integer}, rebuild {integer}, plan TEXT, \
             PRIMARY KEY (sink, collection)){suffix}"
        )
    }
}
