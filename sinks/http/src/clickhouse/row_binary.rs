//! Rows in the format RowBinary (https://clickhouse.com/docs/interfaces/formats/RowBinary): lengths as LEB128, numbers in
//! little endian, a byte before what may be null.

use primal_core::columns::{Layout, Type, Value, content};
use primal_core::sink::{Stored, Target};
use primal_core::table::Cell;
use primal_core::{Primal, Timestamp, Version};

/// All rows; values from `data_from` on may be null.
pub(super) fn encode<'r, 'v: 'r>(rows: impl Iterator<Item = &'r Vec<Value<'v>>>, data_from: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for row in rows {
        for (index, value) in row.iter().enumerate() {
            if index >= data_from {
                out.push(u8::from(*value == Value::Null));
            }
            match value {
                Value::Null => {}
                Value::Text(text) | Value::Json(text) => push_text(&mut out, text),
                Value::Owned(text) | Value::OwnedJson(text) => push_text(&mut out, text),
                Value::Integer(n) => out.extend_from_slice(&n.to_le_bytes()),
                Value::Double(n) => out.extend_from_slice(&n.to_le_bytes()),
                Value::Boolean(b) => out.push(u8::from(*b)),
                Value::Timestamp(at) => out.extend_from_slice(&at.0.to_le_bytes()),
            }
        }
    }
    out
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(text.as_bytes());
}

/// What is left of an answer.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn eight(&mut self) -> Option<[u8; 8]> {
        self.take(8)?.try_into().ok()
    }

    fn text(&mut self) -> Option<String> {
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }

    fn cell(&mut self, kind: Type) -> Option<Cell> {
        Some(match kind {
            Type::Text => Cell::Text(self.text()?),
            Type::Json => Cell::Json(self.text()?),
            Type::Integer => Cell::Integer(i64::from_le_bytes(self.eight()?)),
            Type::Double => Cell::Number(f64::from_le_bytes(self.eight()?)),
            Type::Boolean => Cell::Boolean(self.byte()? != 0),
            Type::Timestamp => Cell::Timestamp(Timestamp(i64::from_le_bytes(self.eight()?))),
        })
    }
}

/// All rows of an answer; `None` if they are not such rows.
pub(super) fn decode(bytes: &[u8], target: &Target, layout: &Layout) -> Option<Vec<Stored>> {
    let (mut rest, mut records) = (Rest(bytes), Vec::new());
    while !rest.0.is_empty() {
        let mut cells = Vec::with_capacity(layout.columns.len());
        for (index, column) in layout.columns.iter().enumerate() {
            let is_null = index >= layout.data_from && rest.byte()? == 1;
            cells.push(if is_null { Cell::Null } else { rest.cell(column.kind)? });
        }
        records.push(stored(target, layout, cells)?);
    }
    Some(records)
}

fn stored(target: &Target, layout: &Layout, mut cells: Vec<Cell>) -> Option<Stored> {
    let data = cells.split_off(layout.data_from);
    let mut head = cells.into_iter();
    let mut next = || head.next();
    let (Some(Cell::Text(key)), Some(Cell::Integer(version)), Some(Cell::Boolean(deleted))) = (next(), next(), next())
    else {
        return None;
    };
    let (Some(Cell::Text(event_id)), Some(Cell::Timestamp(time))) = (next(), next()) else { return None };
    let (Some(Cell::Number(alpha)), Some(Cell::Number(lambda)), Some(Cell::Number(k))) = (next(), next(), next())
    else {
        return None;
    };
    Some(Stored {
        identity: if layout.identity == "_event_id" { event_id.clone() } else { key },
        version: Version::from_i64(version),
        event_id,
        time,
        primal: Primal { alpha, lambda, k },
        content: content(target, deleted, data),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_comes_back(text in "\\PC{0,300}") {
            let mut out = Vec::new();
            push_text(&mut out, &text);
            let mut rest = Rest(&out);
            prop_assert_eq!(rest.text(), Some(text));
            prop_assert!(rest.0.is_empty());
        }

        #[test]
        fn noise_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut rest = Rest(&bytes);
            for kind in [Type::Text, Type::Integer, Type::Boolean, Type::Json] {
                let _ = rest.cell(kind);
            }
        }
    }
}
