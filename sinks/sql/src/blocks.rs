//! Digests of records as SQL and as Rust, side by side: the MD5 of one text that both put together the same way. A store
//! says how it spells the values of a column; its lengths make the text unambiguous.

use std::fmt::Write;

use md5::{Digest, Md5};
use primal_core::Version;
use primal_core::columns::{Column, Layout};

use crate::layout::quote;

/// The number of a record's block ([`primal_core::blocks::Block::of`]).
pub(crate) const NUMBER: &str = "((\"_version\" >> 40) << 27 | ((\"_version\" & 1099511627775) - 1) / 10000)";

/// The text that a record's digest is of. `spelled` is a column as text; `length` the function that counts its bytes.
pub(crate) fn expression(layout: &Layout, length: &str, spelled: impl Fn(&Column) -> String) -> String {
    let sized = |text: &str| format!("{length}({text}) || ':' || {text}");
    let mut parts =
        vec![sized(&quote(layout.identity)), "\"_version\"".to_owned(), "':'".to_owned(), sized("\"_event_id\"")];
    let cells = layout.columns.iter().skip(layout.data_from).map(|column| {
        let text = spelled(column);
        format!("coalesce({}, '-')", sized(&text))
    });
    let cells = cells.collect::<Vec<_>>().join(" || ");
    parts.push(format!("CASE WHEN \"_deleted\" THEN 'd' ELSE {cells} END"));
    parts.join(" || ")
}

/// The same text of a record that an event leaves, hashed.
pub(crate) struct Text(String);

impl Text {
    pub(crate) fn new(identity: &str, version: Version, event_id: &str) -> Self {
        let mut text = String::with_capacity(identity.len() + event_id.len() + 512);
        let (n, m) = (identity.len(), event_id.len());
        let _ = write!(text, "{n}:{identity}{version}:{m}:{event_id}");
        Text(text)
    }

    pub(crate) fn cell(&mut self, spelled: Option<&str>) {
        match spelled {
            None => self.0.push('-'),
            Some(spelled) => {
                let _ = write!(self.0, "{}:{spelled}", spelled.len());
            }
        }
    }

    pub(crate) fn deleted(&mut self) {
        self.0.push('d');
    }

    pub(crate) fn digest(&self) -> u128 {
        u128::from_be_bytes(Md5::digest(self.0.as_bytes()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_belongs_to_which_part() {
        let of = |identity, id, cells: &[Option<&str>]| {
            let mut text = Text::new(identity, Version(7), id);
            cells.iter().for_each(|cell| text.cell(*cell));
            text.digest()
        };
        let all = [
            of("a", "b", &[Some("1"), None]),
            of("a", "b", &[None, Some("1")]),
            of("a", "b", &[Some("1-")]),
            of("a7:1:b", "b", &[Some("1"), None]),
            of("a", "b1:1", &[None]),
            of("", "", &[]),
        ];
        let different: std::collections::BTreeSet<_> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn the_digest_is_the_md5_that_a_store_prints() {
        // SELECT md5('1:k3:1:e2:{}')
        let mut text = Text::new("k", Version(3), "e");
        text.cell(Some("{}"));
        assert_eq!(text.0, "1:k3:1:e2:{}");
        assert_eq!(format!("{:032x}", Text("abc".into()).digest()), "900150983cd24fb0d6963f7d28e17f72");
    }
}
