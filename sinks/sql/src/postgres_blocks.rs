//! Block digests in PostgreSQL: one aggregate over the table, in one transaction with the positions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use primal_core::blocks::{Block, Blocks, Digester, Left, Sum, Sums};
use primal_core::columns::{Column, Layout, Type};
use primal_core::sink::{Page, Target};
use primal_core::table::Cell;
use primal_core::{Fault, Position, SinkError};
use sqlx::{AssertSqlSafe, Row};

use crate::blocks::{NUMBER, Text, expression};
use crate::jsonb;
use crate::layout::quote;
use crate::postgres::{PAGE, Postgres, selected, stored};

/// How long the aggregate may take: about 400 million records at 200,000 a second.
const AGGREGATE: Duration = Duration::from_secs(2_000);

/// A column as text, spelled as [`spelled`] does.
fn text_of(column: &Column) -> String {
    let name = quote(&column.name);
    match column.kind {
        Type::Text => name,
        Type::Integer | Type::Boolean | Type::Json => format!("{name}::text"),
        Type::Double => format!("encode(float8send({name}), 'hex')"),
        Type::Timestamp => format!("(extract(epoch FROM {name}) * 1000000)::bigint::text"),
    }
}

/// A cell as PostgreSQL spells it by [`text_of`]; `None` for nothing.
fn spelled(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Null => None,
        Cell::Text(text) => Some(text.clone()),
        Cell::Integer(n) => Some(n.to_string()),
        Cell::Boolean(b) => Some(b.to_string()),
        Cell::Number(n) => Some(format!("{:016x}", n.to_bits())),
        Cell::Timestamp(at) => Some(at.0.to_string()),
        Cell::Json(text) => jsonb::printed(text),
    }
}

fn digest(target: &Target, left: &Left<'_>) -> Option<u128> {
    let mut text = Text::new(left.identity, left.version, left.event_id);
    match (left.data, target.columns()) {
        (None, _) => text.deleted(),
        (Some(data), None) => text.cell(Some(&jsonb::printed(data)?)),
        (Some(data), Some(table)) => {
            table.cells(data).ok()?.iter().for_each(|cell| text.cell(spelled(cell).as_deref()))
        }
    }
    Some(text.digest())
}

#[async_trait]
impl Blocks for Postgres {
    fn digester(&self, target: &Target) -> Digester {
        let target = target.clone();
        Arc::new(move |left| digest(&target, left))
    }

    async fn sums(&self, target: &Target) -> Result<Sums, SinkError> {
        let table = self.text.table(&target.place());
        let layout = Layout::of(target);
        let text = expression(&layout, "octet_length", |column| quote(&column.name));
        let data = layout.columns.iter().skip(layout.data_from);
        let columns: String = data.map(|c| format!(", {} AS {}", text_of(c), quote(&c.name))).collect();
        let identity = quote(layout.identity);
        let event_id = if layout.identity == "_event_id" { "" } else { ", \"_event_id\"" };
        // Without each OFFSET a subquery is pulled up: values would be spelled twice, and records hashed once for each half.
        let statement = format!(
            "SELECT block, count(*), sum(('x' || left(h, 16))::bit(64)::bigint)::text, \
             sum(('x' || right(h, 16))::bit(64)::bigint)::text \
             FROM (SELECT {NUMBER} AS block, md5({text}) AS h FROM \
             (SELECT {identity}{event_id}, \"_version\", \"_deleted\"{columns} FROM {table} OFFSET 0) AS spelled \
             OFFSET 0) AS records GROUP BY block"
        );
        let asked = async {
            let mut tx = self.pool.begin().await?;
            let limit = AGGREGATE.as_secs();
            let begin = format!(
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '{limit}s'"
            );
            sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *tx).await?;
            let positions = sqlx::query(AssertSqlSafe(self.text.positions.as_str()));
            let positions = positions.bind(&*target.sink).bind(target.position_name()).fetch_all(&mut *tx).await?;
            let blocks = sqlx::query(AssertSqlSafe(statement)).persistent(false).fetch_all(&mut *tx).await?;
            tx.commit().await?;
            let mut sums = Sums::default();
            sums.positions.extend(positions.iter().map(|row| (row.get::<i32, _>(0), Position::from_i64(row.get(1)))));
            for row in blocks {
                let half =
                    |index| row.get::<String, _>(index).parse::<i128>().map_err(|e| sqlx::Error::Decode(e.into()));
                let sum = Sum { count: row.get(1), high: half(2)?, low: half(3)? };
                sums.blocks.insert(Block(u64::try_from(row.get::<i64, _>(0)).unwrap_or(u64::MAX)), sum);
            }
            Ok(sums)
        };
        match tokio::time::timeout(AGGREGATE, asked).await {
            Ok(result) => result.map_err(|error| self.failed("summing up", error)),
            Err(_) => Err(SinkError::new(Fault::Unavailable, "summing up: no answer".to_owned())),
        }
    }

    async fn records(&self, target: &Target, of: &BTreeSet<Block>, cursor: Option<&str>) -> Result<Page, SinkError> {
        let layout = Layout::of(target);
        let (columns, table, key) = (selected(&layout), self.text.table(&target.place()), quote(layout.identity));
        let statement = format!(
            "SELECT {columns} FROM {table} WHERE {NUMBER} = ANY($2) AND {key} > $1 ORDER BY {key} LIMIT {PAGE}"
        );
        let blocks: Vec<i64> = of.iter().filter_map(|block| i64::try_from(block.0).ok()).collect();
        let asked = async {
            let query = sqlx::query(AssertSqlSafe(statement)).persistent(false).bind(cursor.unwrap_or("")).bind(blocks);
            let rows = query.fetch_all(&self.pool).await?;
            rows.iter().map(|row| stored(target, &layout, row)).collect::<Result<Vec<_>, _>>()
        };
        let records = self.bounded("reading", asked).await?;
        let more = records.len() == PAGE as usize;
        let next = records.last().filter(|_| more).map(|last| last.identity.clone());
        Ok(Page { records, next })
    }
}
