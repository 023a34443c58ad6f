//! Rows as one array a column, bound to one statement: PostgreSQL has all of them before it begins, in one round trip. A COPY
//! takes three, and its last message waits for the acknowledgement of the one before (40 ms) where TCP_NODELAY is not
//! set, which sqlx 0.9.0 does not (https://github.com/transact-rs/sqlx/issues/4335).
//!
//! The binary format of arrays is that of `array_recv` (src/backend/utils/adt/arrayfuncs.c), the numbers of types those of
//! src/include/catalog/pg_type.dat.

use primal_core::columns::{Layout, Type, Value};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, Postgres};

/// Microseconds from 1970 to 2000, where PostgreSQL's timestamps begin.
const EPOCH_2000: i64 = 946_684_800_000_000;

/// One column of rows.
pub(crate) struct Array<'a> {
    kind: Type,
    column: usize,
    rows: &'a [Vec<Value<'a>>],
}

/// All columns of rows, in the layout's order.
pub(crate) fn arrays<'a>(layout: &Layout, rows: &'a [Vec<Value<'a>>]) -> Vec<Array<'a>> {
    let one = |(column, kind)| Array { kind, column, rows };
    layout.columns.iter().map(|column| column.kind).enumerate().map(one).collect()
}

/// The rows again, as a query over parameters that begin with `$1`.
pub(crate) fn select(layout: &Layout) -> String {
    let list = |one: fn(usize) -> String| (1..=layout.columns.len()).map(one).collect::<Vec<_>>().join(", ");
    let (names, parameters) = (list(|n| format!("c{n}")), list(|n| format!("${n}")));
    format!("SELECT {names} FROM unnest({parameters}) AS rows({names})")
}

/// The numbers of a type and of its array.
fn numbers(kind: Type) -> (u32, u32) {
    match kind {
        Type::Text => (25, 1009),
        Type::Integer => (20, 1016),
        Type::Double => (701, 1022),
        Type::Boolean => (16, 1000),
        Type::Timestamp => (1184, 1185),
        Type::Json => (3802, 3807),
    }
}

impl sqlx::Type<Postgres> for Array<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(numbers(Type::Text).1))
    }
}

impl<'q> sqlx::Encode<'q, Postgres> for Array<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let values = || self.rows.iter().filter_map(|row| row.get(self.column));
        buffer.reserve(values().map(|value| 4 + length(value)).sum::<usize>() + 20);
        let has_null = values().any(|value| *value == Value::Null);
        let number = numbers(self.kind).0;
        // Dimensions, whether there are nulls, the type, how many there are, and the first index.
        for head in [1, u32::from(has_null), number, u32::try_from(self.rows.len())?, 1] {
            buffer.extend_from_slice(&head.to_be_bytes());
        }
        values().for_each(|value| push(buffer, value));
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(numbers(self.kind).1)))
    }
}

fn length(value: &Value<'_>) -> usize {
    match value {
        Value::Text(text) | Value::Json(text) => text.len() + 1,
        Value::Owned(text) | Value::OwnedJson(text) => text.len() + 1,
        _ => 8,
    }
}

fn push(out: &mut Vec<u8>, value: &Value<'_>) {
    let mut field = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::Null => out.extend_from_slice(&(-1i32).to_be_bytes()),
        Value::Text(text) => field(text.as_bytes()),
        Value::Owned(text) => field(text.as_bytes()),
        Value::Integer(n) => field(&n.to_be_bytes()),
        Value::Double(n) => field(&n.to_be_bytes()),
        Value::Boolean(b) => field(&[u8::from(*b)]),
        Value::Timestamp(at) => field(&at.0.saturating_sub(EPOCH_2000).to_be_bytes()),
        Value::Json(text) => json(out, text),
        Value::OwnedJson(text) => json(out, text),
    }
}

/// `jsonb` on the wire: a version byte, then text.
fn json(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as i32 + 1).to_be_bytes());
    out.push(1);
    out.extend_from_slice(text.as_bytes());
}
