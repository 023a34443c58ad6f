//! Points as lines (<https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/>).
//!
//! Names and tags cannot hold every text there: a line break ends the line, and a backslash takes the meaning of what
//! follows it. A text with a backslash or a control character is therefore percent-encoded, and so is one that looks as if
//! it were, so that each text has one form and each form one text. All others stand as they are.

use primal_core::columns::{Layout, Value};
use primal_core::{Timestamp, Version};

/// Longest text of a field (<https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/#length-limit>).
pub(super) const LONGEST_TEXT: usize = 64 * 1024;

/// A name or a tag's value in the form that is stored.
pub(super) fn encode(text: &str) -> String {
    let is_odd = |c: char| c == '\\' || c.is_control();
    if !text.contains(is_odd) && !has_escape(text) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c == '%' || is_odd(c) {
            let mut buffer = [0; 4];
            c.encode_utf8(&mut buffer).bytes().for_each(|byte| out.push_str(&format!("%{byte:02X}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// What [`encode`] was given.
pub(super) fn decode(stored: &str) -> String {
    if !has_escape(stored) {
        return stored.to_owned();
    }
    let (mut bytes, mut rest) = (Vec::with_capacity(stored.len()), stored.as_bytes());
    while let [first, after @ ..] = rest {
        rest = match escape(rest) {
            Some(byte) => {
                bytes.push(byte);
                after.get(2..).unwrap_or_default()
            }
            None => {
                bytes.push(*first);
                after
            }
        };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| stored.to_owned())
}

fn has_escape(text: &str) -> bool {
    text.bytes()
        .enumerate()
        .any(|(at, byte)| byte == b'%' && escape(text.as_bytes().get(at..).unwrap_or(&[])).is_some())
}

/// The byte that a text begins with in percent-encoded form.
fn escape(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// A name or a tag's value as it stands in a line.
fn push_name(line: &mut String, text: &str) {
    for c in encode(text).chars() {
        if matches!(c, ',' | '=' | ' ') {
            line.push('\\');
        }
        line.push(c);
    }
}

fn push_text(line: &mut String, text: &str) {
    line.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push('"');
}

/// Nanoseconds since 1970, if the store has that moment: it ends in 1677 and in 2262.
pub(super) fn nanoseconds(at: Timestamp) -> Option<i64> {
    at.0.checked_mul(1_000).filter(|nanoseconds| (i64::MIN + 2..i64::MAX).contains(nanoseconds))
}

/// Lines that become one request.
#[derive(Default)]
pub(super) struct Lines {
    /// The lines, each with its end.
    pub text: String,
}

impl Lines {
    /// Begins a line: the measurement and tags; one that is empty is left out, which is what the store calls empty.
    pub(super) fn begin<'a>(&mut self, measurement: &str, tags: impl IntoIterator<Item = (&'a str, &'a str)>) {
        push_name(&mut self.text, measurement);
        for (name, value) in tags.into_iter().filter(|(_, value)| !value.is_empty()) {
            self.text.push(',');
            push_name(&mut self.text, name);
            self.text.push('=');
            push_name(&mut self.text, value);
        }
        self.text.push(' ');
    }

    /// A field; nothing of what is null.
    pub(super) fn field(&mut self, name: &str, value: &Value<'_>) {
        if *value == Value::Null {
            return;
        }
        // The tags end with a space, a field never does.
        if !self.text.ends_with(' ') {
            self.text.push(',');
        }
        push_name(&mut self.text, name);
        self.text.push('=');
        let line = &mut self.text;
        match value {
            Value::Null => {}
            Value::Integer(n) => line.push_str(&format!("{n}i")),
            Value::Double(n) => line.push_str(&format!("{n:?}")),
            Value::Boolean(truth) => line.push_str(if *truth { "true" } else { "false" }),
            Value::Timestamp(at) => push_text(line, &at.to_string()),
            Value::Text(text) | Value::Json(text) => push_text(line, text),
            Value::Owned(text) | Value::OwnedJson(text) => push_text(line, text),
        }
    }

    /// Ends a line.
    pub(super) fn end(&mut self, nanoseconds: i64) {
        self.text.push_str(&format!(" {nanoseconds}\n"));
    }
}

/// A point of a target: its row, as [`primal_core::columns::rows`] gives it, by its parts.
pub(super) struct Point<'r, 'a> {
    /// What tells it apart.
    pub identity: &'r str,
    /// Nanoseconds since 1970.
    pub at: i64,
    /// Names and values, by name, which is the order that the store likes.
    pub tags: Vec<(&'r str, &'r str)>,
    /// Names and values, the hub's own first.
    pub fields: Vec<(&'r str, &'r Value<'a>)>,
    /// The version of its event.
    pub version: Version,
}

/// The name of the event's time; `_time` is what Flux calls the moment of the point.
pub(super) const EVENT_TIME: &str = "_event_time";

/// The name that a column has in the store.
pub(super) fn field_name(column: &str) -> &str {
    if column == "_time" { EVENT_TIME } else { column }
}

impl<'r, 'a> Point<'r, 'a> {
    /// Reads a row.
    ///
    /// # Errors
    /// Its version, and why the store cannot hold it.
    pub(super) fn of(layout: &'r Layout, row: &'r [Value<'a>]) -> Result<Self, (Version, String)> {
        let named = layout.columns.iter().zip(row).find(|(column, _)| column.name == "_version");
        let version = match named {
            Some((_, Value::Integer(n))) => Version(u64::try_from(*n).unwrap_or(0)),
            _ => Version(0),
        };
        Point::read(layout, row, version).map_err(|reason| (version, reason))
    }

    fn read(layout: &'r Layout, row: &'r [Value<'a>], version: Version) -> Result<Self, String> {
        let tags_end = tags_end(layout);
        let mut cells = layout.columns.iter().map(|column| column.name.as_str()).zip(row);
        let identity = cells.next().and_then(|(_, value)| value.text()).unwrap_or_default();
        let Some((_, Value::Timestamp(moment))) = cells.next() else {
            return Err("this is no point of a series".to_owned());
        };
        let at = nanoseconds(*moment)
            .ok_or_else(|| format!("InfluxDB has no moment {moment}; it begins in 1677 and ends in 2262"))?;
        let mut tags: Vec<(&str, &str)> =
            cells.by_ref().take(tags_end - 2).map(|(name, value)| (name, value.text().unwrap_or_default())).collect();
        tags.sort_unstable();
        let fields: Vec<_> = cells.map(|(name, value)| (field_name(name), value)).collect();
        let mut lengths = fields.iter().filter_map(|(name, value)| Some((*name, length(value)?)));
        if let Some((name, length)) = lengths.find(|(_, length)| *length > LONGEST_TEXT) {
            return Err(format!("field {name:?} has {length} bytes, InfluxDB takes {LONGEST_TEXT}"));
        }
        Ok(Point { identity, at, tags, fields, version })
    }

    /// Adds its line.
    pub(super) fn push(&self, lines: &mut Lines, measurement: &str) {
        lines.begin(measurement, self.tags.iter().copied());
        for (name, value) in &self.fields {
            lines.field(name, value);
        }
        lines.end(self.at);
    }
}

fn length(value: &Value<'_>) -> Option<usize> {
    match value {
        Value::Json(text) => Some(text.len()),
        Value::OwnedJson(text) => Some(text.len()),
        other => other.text().map(str::len),
    }
}

/// Where the tags end among the columns of a series: identity and moment stand before them, `_key` behind.
pub(super) fn tags_end(layout: &Layout) -> usize {
    layout.columns.iter().position(|column| column.name == "_key").unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the server's parser makes of a name or tag: a special character behind a backslash is itself, any other
    /// backslash too (models/points.go of InfluxDB 1.x). What is left begins with the character that ended it.
    fn parse(text: &str) -> (String, &str) {
        let mut out = String::new();
        let mut chars = text.char_indices().peekable();
        while let Some((index, c)) = chars.next() {
            match (c, chars.peek()) {
                ('\\', Some((_, next @ (',' | '=' | ' ')))) => {
                    out.push(*next);
                    chars.next();
                }
                (',' | '=' | ' ' | '\n', _) => return (out, &text[index..]),
                (c, _) => out.push(c),
            }
        }
        (out, "")
    }

    proptest! {
        #[test]
        fn every_text_has_one_form_and_comes_back(text in any::<String>()) {
            prop_assert_eq!(decode(&encode(&text)), text.clone());
            let mut line = String::new();
            push_name(&mut line, &text);
            line.push_str(",rest");
            let (stored, rest) = parse(&line);
            prop_assert_eq!(rest, ",rest");
            prop_assert_eq!(decode(&stored), text);
        }

        #[test]
        fn two_texts_have_two_forms(a in "[%a0-9A-F\\\\\n]{0,6}", b in "[%a0-9A-F\\\\\n]{0,6}") {
            prop_assert_eq!(a == b, encode(&a) == encode(&b));
        }

        #[test]
        fn a_line_has_as_many_fields_as_it_was_given(values in proptest::collection::vec(any::<String>(), 1..5)) {
            let mut lines = Lines::default();
            lines.begin("m", [("tag", "value")]);
            for (index, text) in values.iter().enumerate() {
                lines.field(&format!("f {index}"), &Value::Text(text));
            }
            lines.end(7);
            let mut rest = lines.text.strip_prefix("m,tag=value ").unwrap();
            for (index, text) in values.iter().enumerate() {
                rest = rest.strip_prefix(&format!("f\\ {index}=\"")).unwrap();
                let (mut out, mut chars) = (String::new(), rest.char_indices());
                let end = loop {
                    match chars.next().unwrap() {
                        (_, '\\') => out.push(chars.next().unwrap().1),
                        (at, '"') => break at,
                        (_, c) => out.push(c),
                    }
                };
                prop_assert_eq!(&out, text);
                rest = rest[end + 1..].trim_start_matches(',');
            }
            prop_assert_eq!(rest, " 7\n");
        }
    }

    #[test]
    fn plain_texts_stand_as_they_are() {
        for text in ["", "EWR", "50% off", "%zz", "a,b=c d", "\"'"] {
            assert_eq!(encode(text), text);
        }
        assert_eq!(encode("a\\"), "a%5C");
        assert_eq!(encode("50%25"), "50%2525");
    }

    #[test]
    fn numbers_are_exact_and_moments_have_limits() {
        let mut lines = Lines::default();
        lines.begin("m", [("a", ""), ("b", "x")]);
        for (name, value) in [
            ("i", Value::Integer(i64::MAX)),
            ("none", Value::Null),
            ("d", Value::Double(-0.0)),
            ("e", Value::Double(1e-300)),
            ("t", Value::Boolean(true)),
        ] {
            lines.field(name, &value);
        }
        lines.end(1);
        assert_eq!(lines.text, "m,b=x i=9223372036854775807i,d=-0.0,e=1e-300,t=true 1\n");
        assert_eq!(nanoseconds(Timestamp(i64::MAX / 1_000)), Some(i64::MAX / 1_000 * 1_000));
        assert_eq!(nanoseconds(Timestamp(i64::MAX / 1_000 + 1)), None);
    }
}
