//! Sums of blocks: what a store adds up itself is what the log adds up, for any payload; and a block's records are its own.

use std::collections::{BTreeMap, BTreeSet};

use primal_core::blocks::{BLOCK, Block, Blocks, Left, Sum};
use primal_core::sink::Target;
use primal_core::{Position, Version};

use crate::case::{Lacks, Verdict, cases};
use crate::script::Script;
use crate::stores::Store;

/// The projections of which a store can add up records.
fn added_up(store: &Store) -> Result<Vec<Target>, Lacks> {
    let reader = store.sink.reader().ok_or(Lacks("records that can be read"))?;
    let keyed = store.keyed()?.into_iter().map(|projection| store.target(projection));
    let found: Vec<_> = keyed.filter(|target| reader.blocks(target).is_some()).collect();
    if found.is_empty() { Err(Lacks("sums of blocks")) } else { Ok(found) }
}

fn blocks<'a>(store: &'a Store, target: &Target) -> &'a dyn Blocks {
    store.sink.reader().unwrap().blocks(target).unwrap()
}

/// What a batch adds up to.
fn expected(store: &Store, target: &Target, script: &Script) -> BTreeMap<Block, Sum> {
    let digester = blocks(store, target).digester(target);
    let mut sums: BTreeMap<Block, Sum> = BTreeMap::new();
    for event in &script.batch(target.projection, 0..script.len()).events {
        let identity = event.identity(target.projection);
        let left = Left { identity, version: event.version, event_id: event.id, data: event.data };
        sums.entry(Block::of(event.version)).or_default().add(digester(&left).unwrap());
    }
    sums
}

/// JSON as nobody sensible writes it: each value must be spelled here as the store spells it.
const ODD: &[&str] = &[
    r#"{}"#,
    r#" { "c":1 , "a":[ ] , "aa":{ } } "#,
    r#"{"n":1e3,"x":1.50e1,"s":"\u0041\/\b\f\n\r\t\u001f\"\\"}"#,
    r#"{"x":-0.0,"more":-0,"z":0e5,"y":1E-7,"w":12345678901234567890.12345678901234567890e-5}"#,
    r#"{"x":1e308,"more":1e400,"z":100000e-3,"y":-1.0E+2,"w":0.000}"#,
    r#"{"s":"é","鍵":"😀","\ud83d\ude00":"\u00e9","é":1,"zz":2,"z":3,"":4}"#,
    r#"{"a":1,"a":{"c":1,"bb":[1,{"x":null}]},"more":[true,false,null,"",[]]}"#,
    r#"{"b":true,"at":"2013-01-01T00:00:00.123456+01:00","j":{"k":[1.0,{"b":2,"a":1}]},"x":0.1}"#,
    r#"{"j":"text","order":"a:b1:2","Ключ 鍵":"ü","x":5e-324,"n":-9223372036854775808}"#,
];

fn number() -> String {
    let digits = |most: usize| -> String { (0..fastrand::usize(1..=most)).map(|_| fastrand::digit(10)).collect() };
    let whole = digits(24).trim_start_matches('0').to_owned();
    let mut text = format!("{}{}", ["", "-"][fastrand::usize(..2)], if whole.is_empty() { "0" } else { &whole });
    if fastrand::bool() {
        text += &format!(".{}", digits(24));
    }
    if fastrand::bool() {
        text += &format!("{}{}", ["e", "E", "e+", "E-"][fastrand::usize(..4)], fastrand::usize(..40));
    }
    text
}

fn string() -> String {
    let one = || match fastrand::u8(..8) {
        0 => "\\n".to_owned(),
        1 => format!("\\u{:04x}", fastrand::u32(1..0xd800)),
        2 => format!("\\u{:04X}", fastrand::u32(0xe000..0xfffe)),
        3 => "\\ud83d\\ude00".to_owned(),
        4 => ["é", "鍵", "\u{7f}", "\u{85}", "\u{2028}", "😀"][fastrand::usize(..6)].to_owned(),
        _ => fastrand::char('#'..'[').to_string(),
    };
    let text: String = (0..fastrand::usize(..7)).map(|_| one()).collect();
    format!("\"{text}\"")
}

fn value(depth: usize) -> String {
    let space = || ["", " ", "\n"][fastrand::usize(..3)];
    let items = |one: &dyn Fn() -> String| -> String {
        let items: Vec<_> = (0..fastrand::usize(..5)).map(|_| format!("{}{}{}", space(), one(), space())).collect();
        items.join(",")
    };
    match fastrand::usize(..if depth > 3 { 4 } else { 6 }) {
        0 => number(),
        1 | 2 => string(),
        3 => ["true", "false", "null"][fastrand::usize(..3)].to_owned(),
        4 => format!("[{}]", items(&|| value(depth + 1))),
        _ => object(depth + 1),
    }
}

fn object(depth: usize) -> String {
    let members: Vec<_> = (0..fastrand::usize(..6)).map(|_| format!("{}:{}", string(), value(depth))).collect();
    format!("{{{}}}", members.join(","))
}

async fn a_store_adds_up_what_the_log_adds_up(store: Store) -> Verdict {
    for target in added_up(&store)? {
        let target = Target { collection: crate::cases::name(target.projection), ..target };
        store.sink.prepare(&target).await.unwrap();
        let mut script = Script::default();
        for (number, odd) in ODD.iter().enumerate() {
            script.push(&format!("odd {number} é:'\""), Some(odd), &[]);
        }
        fastrand::seed(41);
        for number in 0..2_000 {
            script.push(&format!("k{number}"), Some(&object(0)), &[]);
        }
        script.push("k7", None, &[]);
        script.push("never there", None, &[]);
        script.push("k8", Some("{}"), &[]);
        store.sink.write(&target, &script.advancing(target.projection, 0..script.len())).await.unwrap();
        let sums = blocks(&store, &target).sums(&target).await.unwrap();
        assert_eq!(sums.positions[&0], Position(script.len() as u64));
        assert_eq!(sums.blocks, expected(&store, &target, &script), "{:?}", target.projection);
    }
    Ok(())
}

async fn a_blocks_records_are_its_own(store: Store) -> Verdict {
    let target = added_up(&store)?.remove(0);
    store.sink.prepare(&target).await.unwrap();
    let mut script = Script::default();
    for number in 0..3 * BLOCK - 5 {
        script.push(&format!("k{number}"), Some("{}"), &[]);
    }
    for part in 0..3 {
        let (from, to) = (part * 10_000, ((part + 1) * 10_000).min(script.len()));
        store.sink.write(&target, &script.advancing(target.projection, from..to)).await.unwrap();
    }
    let blocks = blocks(&store, &target);
    assert_eq!(blocks.sums(&target).await.unwrap().blocks, expected(&store, &target, &script));
    let wanted = BTreeSet::from([Block(0), Block(2)]);
    let (mut found, mut cursor) = (BTreeSet::new(), None::<String>);
    loop {
        let page = blocks.records(&target, &wanted, cursor.as_deref()).await.unwrap();
        found.extend(page.records.into_iter().map(|stored| stored.version));
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let offsets = (0..BLOCK).chain(2 * BLOCK..3 * BLOCK - 5);
    assert_eq!(found, offsets.map(|offset| Version::new(0, offset)).collect());
    Ok(())
}

cases![a_store_adds_up_what_the_log_adds_up, a_blocks_records_are_its_own];
