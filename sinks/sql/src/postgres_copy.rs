//! Rows in PostgreSQL's binary COPY format (https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format").

use primal_core::columns::Value;

/// Microseconds from 1970 to 2000, where PostgreSQL's timestamps begin.
const EPOCH_2000: i64 = 946_684_800_000_000;

/// All rows as one stream.
pub(crate) fn encode(rows: &[Vec<Value<'_>>]) -> Vec<u8> {
    let size = rows.iter().flatten().map(|value| 4 + length(value)).sum::<usize>() + rows.len() * 2;
    let mut out = Vec::with_capacity(size + 32);
    out.extend_from_slice(b"PGCOPY\n\xff\r\n\0");
    out.extend_from_slice(&[0; 8]);
    for row in rows {
        out.extend_from_slice(&(row.len() as i16).to_be_bytes());
        row.iter().for_each(|value| push(&mut out, value));
    }
    out.extend_from_slice(&(-1i16).to_be_bytes());
    out
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
