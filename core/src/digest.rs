//! Digests of contents, so that a store can be compared with the log by key, version and digest.
//!
//! The digest of a JSON text is that of its meaning: neither white space, nor the order of members, nor the spelling of
//! strings and numbers (`1e2` and `100`) changes it, but every digit of a number counts. PostgreSQL's `jsonb` keeps
//! exactly that much of a document.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

/// 128 bits of XXH3. It finds damage and mistakes; it is no defence against somebody who forges a collision.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Digest {
    /// Of a JSON text. A text that is not JSON has the digest of its bytes.
    pub fn of_json(text: &str) -> Self {
        let mut reader = Reader { text, at: 0 };
        let digest = reader.value(0).filter(|_| {
            reader.skip_space();
            reader.at == text.len()
        });
        Digest(digest.unwrap_or_else(|| tagged(b'!', text.as_bytes())))
    }

    /// Of parts in their order.
    pub fn of_parts(parts: impl IntoIterator<Item = Digest>) -> Self {
        let mut hasher = Xxh3::new();
        parts.into_iter().for_each(|part| hasher.update(&part.0.to_le_bytes()));
        Digest(hasher.digest128())
    }

    /// Of bytes of one kind: equal bytes under different tags differ.
    pub fn of_bytes(tag: u8, bytes: &[u8]) -> Self {
        Digest(tagged(tag, bytes))
    }
}

fn tagged(tag: u8, bytes: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&[tag]);
    hasher.update(bytes);
    hasher.digest128()
}

/// serde_json reads no deeper either, so nothing deeper comes this far.
const MAX_DEPTH: usize = 128;

/// Walks a JSON text that is known to be valid; answers `None` at anything that is not.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
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

    fn value(&mut self, depth: usize) -> Option<u128> {
        self.skip_space();
        match self.peek()? {
            _ if depth > MAX_DEPTH => None,
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(|raw| string_digest(b's', raw)).unwrap_or_default(),
            b'-' | b'0'..=b'9' => {
                let number = self.take_while(|b| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'));
                Some(tagged(b'n', canonical_number(number)?.as_bytes()))
            }
            _ => match self.take_while(|b| b.is_ascii_lowercase()) {
                word @ ("true" | "false" | "null") => Some(tagged(b'w', word.as_bytes())),
                _ => None,
            },
        }
    }

    fn object(&mut self, depth: usize) -> Option<u128> {
        let mut members = Vec::new();
        self.items(b'{', b'}', |reader| {
            reader.skip_space();
            let name = string_digest(b'k', reader.string()?)?;
            reader.expect(b':')?;
            members.push((name, reader.value(depth + 1)?));
            Some(())
        })?;
        // The sort is stable, so of equal names the last in the text is the last here, and that one counts.
        members.sort_by_key(|(name, _)| *name);
        let mut hasher = Xxh3::new();
        hasher.update(b"o");
        for (i, (name, value)) in members.iter().enumerate() {
            if members.get(i + 1).is_none_or(|(next, _)| next != name) {
                hasher.update(&name.to_le_bytes());
                hasher.update(&value.to_le_bytes());
            }
        }
        Some(hasher.digest128())
    }

    fn array(&mut self, depth: usize) -> Option<u128> {
        let mut hasher = Xxh3::new();
        hasher.update(b"a");
        self.items(b'[', b']', |reader| {
            hasher.update(&reader.value(depth + 1)?.to_le_bytes());
            Some(())
        })?;
        Some(hasher.digest128())
    }

    fn items(&mut self, open: u8, close: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(open)?;
        if self.expect(close).is_some() {
            return Some(());
        }
        loop {
            item(self)?;
            if self.expect(b',').is_none() {
                return self.expect(close);
            }
        }
    }

    /// A string with its quotes.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.expect(b'"')?;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.text.get(start..self.at)
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default()
    }
}

fn string_digest(tag: u8, quoted: &str) -> Option<u128> {
    if quoted.contains('\\') {
        return Some(tagged(tag, serde_json::from_str::<String>(quoted).ok()?.as_bytes()));
    }
    Some(tagged(tag, quoted.get(1..quoted.len() - 1)?.as_bytes()))
}

/// Sign, significant digits, exponent of the last digit: equal for equal values, whatever their spelling.
fn canonical_number(text: &str) -> Option<String> {
    let (sign, rest) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (rest.get(..at)?, rest.get(at + 1..)?.parse::<i128>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_end_matches('0');
    let exponent =
        exponent.checked_sub(fraction.len() as i128)?.checked_add((digits.len() - significant.len()) as i128)?;
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() { Some("0".to_owned()) } else { Some(format!("{sign}{significant}e{exponent}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_meanings_have_equal_digests() {
        let same = [
            (r#"{"a":1,"b":[1,2]}"#, r#" { "b" : [1,2], "a":1.0e0 } "#),
            (r#"{"a":"\u00e9\/"}"#, r#"{"a":"é/"}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            ("100", "1e2"),
            ("0.0", "-0"),
            ("-12.50", "-1250e-2"),
            ("{}", " { } "),
            ("0.1e-9223372036854775808", "1e-9223372036854775809"),
        ];
        for (a, b) in same {
            assert_eq!(Digest::of_json(a), Digest::of_json(b), "{a} {b}");
        }
    }

    #[test]
    fn different_meanings_have_different_digests() {
        let different = [
            ("9007199254740992", "9007199254740993"),
            ("0.1", "0.10000000000000001"),
            (r#"{"a":null}"#, "{}"),
            (r#"{"a":"1"}"#, r#"{"a":1}"#),
            (r#"["a","b"]"#, r#"["b","a"]"#),
            ("[]", "{}"),
            ("[[1],2]", "[1,[2]]"),
            ("{", "{}"),
            ("1 2", "12"),
        ];
        for (a, b) in different {
            assert_ne!(Digest::of_json(a), Digest::of_json(b), "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_digest(text in ".{0,60}") {
            let _ = Digest::of_json(&text);
        }

        #[test]
        fn printing_a_value_anew_keeps_the_digest(numbers in prop::collection::vec(any::<i64>(), 0..8), name in ".{0,8}") {
            let value = serde_json::json!({ name.as_str(): numbers, "n": null });
            let (short, pretty) = (value.to_string(), serde_json::to_string_pretty(&value).unwrap());
            prop_assert_eq!(Digest::of_json(&short), Digest::of_json(&pretty));
        }

        #[test]
        fn a_number_counts_by_its_value_and_every_digit_of_it_counts(
            digits in "[1-9][0-9]{0,40}",
            shift in 0usize..30,
            changed in 0usize..41,
        ) {
            let of = |text: &str| Digest::of_json(&format!("[{text}]"));
            let plain = of(&digits);
            prop_assert_eq!(plain, of(&format!("{digits}.{}", "0".repeat(shift + 1))));
            prop_assert_eq!(plain, of(&format!("{digits}{}E-{shift}", "0".repeat(shift))));
            prop_assert_eq!(plain, of(&format!("0.{}{digits}e{}", "0".repeat(shift), digits.len() + shift)));
            prop_assert_ne!(plain, of(&format!("-{digits}")));
            let place = changed % digits.len();
            let other = (digits.as_bytes()[place] - b'0' + 1) % 10;
            prop_assert_ne!(plain, of(&format!("{}{other}{}", &digits[..place], &digits[place + 1..])));
        }

        #[test]
        fn any_number_of_json_has_a_digest(text in "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,4})?([eE][-+]?[0-9]{1,22})?") {
            prop_assert_eq!(Digest::of_json(&format!("[{text}]")), Digest::of_json(&format!("[ {text}\n]")));
        }
    }
}
