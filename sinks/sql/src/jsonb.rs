//! JSON as PostgreSQL's `jsonb` prints it: members by length and bytes of their names, of equal names the last, one space
//! behind `:` and `,`, strings with as few escapes as can be, numbers written out with the digits that they were given
//! (src/backend/utils/adt/jsonb.c, jsonb_util.c, json.c `escape_json`, numeric.c). Where a text is odder than that (a
//! number of ten thousand digits), the answer may be another one than PostgreSQL's; nothing relies on it being the same.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;

/// The deepest nesting that is read; payloads are checked to be no deeper.
const MAX_DEPTH: usize = 128;
/// The longest number that is written out, in digits.
const MAX_DIGITS: i64 = 20_000;

/// What `jsonb` prints of a JSON text; `None` where it is none.
pub(crate) fn printed(text: &str) -> Option<String> {
    let mut printer = Printer { text, at: 0, out: String::with_capacity(text.len() + text.len() / 8) };
    printer.value(0)?;
    printer.skip_space();
    (printer.at == text.len()).then_some(printer.out)
}

struct Printer<'a> {
    text: &'a str,
    at: usize,
    out: String,
}

impl<'a> Printer<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// Takes one byte that must come next, after white space.
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        self.skip_space();
        match self.peek()? {
            _ if depth > MAX_DEPTH => None,
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => {
                let string = self.string()?;
                push_string(&mut self.out, &string);
                Some(())
            }
            b'-' | b'0'..=b'9' => {
                let raw = self.take_while(|b| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'));
                push_number(&mut self.out, raw)
            }
            _ => match self.take_while(|b| b.is_ascii_lowercase()) {
                word @ ("true" | "false" | "null") => {
                    self.out.push_str(word);
                    Some(())
                }
                _ => None,
            },
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.expect(b'[')?;
        self.out.push('[');
        if self.expect(b']').is_none() {
            loop {
                self.value(depth + 1)?;
                if self.expect(b',').is_none() {
                    break;
                }
                self.out.push_str(", ");
            }
            self.expect(b']')?;
        }
        self.out.push(']');
        Some(())
    }

    /// Each member is printed where it comes; then all are put in their order.
    fn object(&mut self, depth: usize) -> Option<()> {
        self.expect(b'{')?;
        let start = self.out.len();
        let mut members: Vec<(Cow<'a, str>, Range<usize>)> = Vec::new();
        if self.expect(b'}').is_none() {
            loop {
                self.skip_space();
                let name = self.string()?;
                self.expect(b':')?;
                let from = self.out.len();
                push_string(&mut self.out, &name);
                self.out.push_str(": ");
                self.value(depth + 1)?;
                members.push((name, from..self.out.len()));
                if self.expect(b',').is_none() {
                    break;
                }
            }
            self.expect(b'}')?;
        }
        // The sort is stable: of equal names the last in the text is the last here.
        members.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes())));
        let mut ordered = String::with_capacity(self.out.len() - start + 2 * members.len() + 2);
        ordered.push('{');
        for (index, (name, range)) in members.iter().enumerate() {
            if members.get(index + 1).is_some_and(|(next, _)| next == name) {
                continue;
            }
            if ordered.len() > 1 {
                ordered.push_str(", ");
            }
            ordered.push_str(self.out.get(range.clone())?);
        }
        ordered.push('}');
        self.out.truncate(start);
        self.out.push_str(&ordered);
        Some(())
    }

    /// A string without its quotes and escapes.
    fn string(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        self.expect(b'"')?;
        let mut is_plain = true;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    is_plain = false;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
        }
        self.at += 1;
        match is_plain {
            true => self.text.get(start + 1..self.at - 1).map(Cow::Borrowed),
            false => serde_json::from_str::<String>(self.text.get(start..self.at)?).ok().map(Cow::Owned),
        }
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default()
    }
}

fn push_string(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let mut chars = from.chars();
        match chars.next() {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\u{8}') => out.push_str("\\b"),
            Some('\u{c}') => out.push_str("\\f"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some(other) => drop(write!(out, "\\u{:04x}", u32::from(other))),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

/// A `numeric` prints all digits that it was given, without an exponent.
fn push_number(out: &mut String, raw: &str) -> Option<()> {
    let (is_negative, rest) = raw.strip_prefix('-').map_or((false, raw), |rest| (true, rest));
    if !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()) {
        out.push_str(if rest == "0" { rest } else { raw });
        return Some(());
    }
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (rest.get(..at)?, rest.get(at + 1..)?.parse::<i64>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if whole.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || exponent.abs() > MAX_DIGITS {
        return None;
    }
    let is_zero = digits.bytes().all(|b| b == b'0');
    if is_negative && !is_zero {
        out.push('-');
    }
    // Digits before the point, once it was moved.
    let point = whole.len() as i64 + exponent;
    let scale = (fraction.len() as i64 - exponent).max(0) as usize;
    let before: String = match usize::try_from(point).unwrap_or(0) {
        0 => String::new(),
        point if point <= digits.len() => digits.get(..point)?.to_owned(),
        point => digits.clone() + &"0".repeat(point - digits.len()),
    };
    let before = before.trim_start_matches('0');
    out.push_str(if before.is_empty() { "0" } else { before });
    if scale > 0 {
        out.push('.');
        let after = match point {
            1.. => digits.get(point as usize..).unwrap_or_default().to_owned(),
            _ => "0".repeat(point.unsigned_abs() as usize) + &digits,
        };
        out.push_str(after.get(..scale).unwrap_or(&after));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_as_postgresql_does() {
        // Right sides: `SELECT '…'::jsonb::text` in PostgreSQL 15.
        let cases = [
            (r#" { "bb" : 1, "a":2,"c":[ ],"b":{}}"#, r#"{"a": 2, "b": {}, "c": [], "bb": 1}"#),
            (r#"{"a":1,"a":{"y":1,"x":[true,null,false]}}"#, r#"{"a": {"x": [true, null, false], "y": 1}}"#),
            (r#"["\u0041\/\n\u001f\"\\\u007f\ud83d\ude00é"]"#, "[\"A/\\n\\u001f\\\"\\\\\u{7f}😀é\"]"),
            ("[1e3,1.10,-0,-0.0,1.50e1,1E-3,0.00,12.5e-2]", "[1000, 1.10, 0, 0.0, 15.0, 0.001, 0.00, 0.125]"),
            (
                "[1.23e1,123e-5,0e5,0e-3,-1.5e+2,100,9007199254740993]",
                "[12.3, 0.00123, 0, 0.000, -150, 100, 9007199254740993]",
            ),
            (r#"{"é":1,"zz":2,"ab":3}"#, r#"{"ab": 3, "zz": 2, "é": 1}"#),
        ];
        for (text, expected) in cases {
            assert_eq!(printed(text).as_deref(), Some(expected), "{text}");
        }
        for bad in ["", "{", "[1,]", "nul", "1 2", r#"{"a"}"#, "[1e]", "[-]"] {
            assert_eq!(printed(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn it_means_the_same_and_is_its_own_printing(text in r#"[\[\]{}:,"\\a-c0-9.eE +-]{0,40}"#) {
            if let (Some(once), true) = (printed(&text), serde_json::from_str::<serde_json::Value>(&text).is_ok()) {
                proptest::prop_assert_eq!(primal_core::Digest::of_json(&once), primal_core::Digest::of_json(&text));
                let again = printed(&once);
                proptest::prop_assert_eq!(again.as_deref(), Some(once.as_str()));
            }
        }
    }
}
