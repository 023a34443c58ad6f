//! What differs between two states of an entity, member by member. Numbers and nested members are compared by meaning, as
//! verification does it, and shown as they were written.

use std::collections::BTreeMap;

use primal_core::Digest;
use serde::Serialize;
use serde_json::value::RawValue;

/// One member that is not the same in both states.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Where it stands, as a JSON pointer (RFC 6901); empty for the whole payload.
    pub member: String,
    /// What it was; absent where it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<RawValue>>,
    /// What it is; absent where it is no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Box<RawValue>>,
}

/// What changed from one payload to another, ordered by member. No payload (not there, or deleted) has no members.
pub fn changes(before: Option<&str>, after: Option<&str>) -> Vec<Change> {
    let mut all = Vec::new();
    let (before, after) = (before.map(raw), after.map(raw));
    let empty = || BTreeMap::<String, &RawValue>::new();
    match (before.as_deref(), after.as_deref()) {
        (None, None) => {}
        (Some(before), Some(after)) => compare(before, after, "", &mut all),
        (Some(only), None) => match members(only) {
            Some(before) => walk(&before, &empty(), "", &mut all),
            None => all.push(Change { member: String::new(), before: Some(only.to_owned()), after: None }),
        },
        (None, Some(only)) => match members(only) {
            Some(after) => walk(&empty(), &after, "", &mut all),
            None => all.push(Change { member: String::new(), before: None, after: Some(only.to_owned()) }),
        },
    }
    all
}

/// A payload as JSON. What is none, as a foreign producer may write it, becomes a text.
pub(crate) fn raw(text: &str) -> Box<RawValue> {
    let quoted = || RawValue::from_string(serde_json::Value::from(text).to_string());
    serde_json::from_str(text).or_else(|_| quoted()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn compare(before: &RawValue, after: &RawValue, place: &str, all: &mut Vec<Change>) {
    if Digest::of_json(before.get()) == Digest::of_json(after.get()) {
        return;
    }
    if let (Some(before), Some(after)) = (members(before), members(after)) {
        return walk(&before, &after, place, all);
    }
    if let (Some(before), Some(after)) = (items(before), items(after)) {
        let mut before = before.into_iter();
        let mut after = after.into_iter();
        for index in 0.. {
            let (before, after) = (before.next(), after.next());
            if before.is_none() && after.is_none() {
                break;
            }
            one(before, after, format!("{place}/{index}"), all);
        }
        return;
    }
    one_changed(Some(before), Some(after), place.to_owned(), all);
}

fn walk(before: &BTreeMap<String, &RawValue>, after: &BTreeMap<String, &RawValue>, place: &str, all: &mut Vec<Change>) {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let member = format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"));
        one(before.get(name).copied(), after.get(name).copied(), member, all);
    }
}

fn one(before: Option<&RawValue>, after: Option<&RawValue>, member: String, all: &mut Vec<Change>) {
    match (before, after) {
        (Some(before), Some(after)) => compare(before, after, &member, all),
        _ => one_changed(before, after, member, all),
    }
}

fn one_changed(before: Option<&RawValue>, after: Option<&RawValue>, member: String, all: &mut Vec<Change>) {
    all.push(Change { member, before: before.map(RawValue::to_owned), after: after.map(RawValue::to_owned) });
}

/// The members of an object; of equal names the last counts.
fn members(value: &RawValue) -> Option<BTreeMap<String, &RawValue>> {
    value.get().starts_with('{').then(|| serde_json::from_str(value.get()).ok())?
}

fn items(value: &RawValue) -> Option<Vec<&RawValue>> {
    value.get().starts_with('[').then(|| serde_json::from_str(value.get()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(before: Option<&str>, after: Option<&str>) -> Vec<String> {
        let side = |value: &Option<Box<RawValue>>| value.as_ref().map_or("-".to_owned(), |raw| raw.get().to_owned());
        changes(before, after).iter().map(|c| format!("{} {} {}", c.member, side(&c.before), side(&c.after))).collect()
    }

    #[test]
    fn nested_members_are_named_by_pointer() {
        let before = r#"{"a":{"b":[1,{"c":2}],"same":[true]},"x/y~":1,"gone":null}"#;
        let after = r#"{"a":{"same":[true],"b":[1,{"c":3},4]},"x/y~":{"z":1},"new":"n"}"#;
        let expected = ["/a/b/1/c 2 3", "/a/b/2 - 4", "/gone null -", "/new - \"n\"", "/x~1y~0 1 {\"z\":1}"];
        assert_eq!(shown(Some(before), Some(after)), expected);
    }

    #[test]
    fn order_and_spelling_are_no_change_but_every_digit_is() {
        let before = r#"{"s":"\u0041", "n":1.0, "big":9007199254740993, "t":1,"t":2}"#;
        let after = r#"{"big":9007199254740992,"n":1,"t":2,"s":"A"}"#;
        assert_eq!(shown(Some(before), Some(after)), ["/big 9007199254740993 9007199254740992"]);
    }

    #[test]
    fn what_begins_and_ends_is_all_members_and_no_json_is_a_text() {
        assert_eq!(shown(None, Some(r#"{"a":1,"b":{}}"#)), ["/a - 1", "/b - {}"]);
        assert_eq!(shown(Some(r#"{"a":1}"#), None), ["/a 1 -"]);
        assert_eq!(shown(Some("{oops"), Some("{}")), [" \"{oops\" {}"]);
        assert_eq!(shown(None, Some("7")), [" - 7"]);
        assert!(shown(None, None).is_empty() && shown(Some("{}"), None).is_empty());
    }
}
