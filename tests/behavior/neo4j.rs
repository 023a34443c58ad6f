//! Relations in Neo4j, as somebody who asks the server sees them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use primal_core::mapping::{Edge, Graph};
use primal_core::sink::{Build, Projection};
use primal_core::{Collection, Fault, Mapping, Target};
use serde_json::{Value, json};

use crate::script::{Script, all, assert_holds, is_deleted};
use crate::stores::{Store, server, table};

#[derive(serde::Deserialize)]
struct Prefix {
    prefix: String,
}

struct World {
    store: Store,
    prefix: String,
    flights: Target,
    airports: Target,
}

impl World {
    async fn new() -> Self {
        let spec = primal_registry::find("neo4j").unwrap();
        let store = Store::new(spec).await;
        let prefix: Prefix = store.settings.read().unwrap();
        let prefix = prefix.prefix;
        let edge = |field: &str, to: &str, label: &str, kind: &str| Edge {
            field: field.into(),
            to: Collection::new(to).unwrap(),
            to_label: label.into(),
            kind: kind.into(),
        };
        let target = |collection: &str, label: &str, edges| Target {
            collection: Collection::new(collection).unwrap(),
            mapping: Arc::new(Mapping::Graph(Graph { label: label.into(), edges })),
            ..store.target(Projection::Graph)
        };
        let edges = vec![
            edge("origin", "airports", "Airport", "DEPARTS_FROM"),
            edge("crew", "people", "Person", "FLOWN_BY"),
            edge("next", "flights", "Flight", "FOLLOWED_BY"),
        ];
        let (flights, airports) = (target("flights", "Flight", edges), target("airports", "Airport", Vec::new()));
        store.sink.prepare(&flights).await.unwrap();
        store.sink.prepare(&airports).await.unwrap();
        World { store, prefix, flights, airports }
    }

    async fn write(&self, target: &Target, script: &Script, range: std::ops::Range<usize>) {
        self.store.sink.write(target, &script.advancing(Projection::Graph, range)).await.unwrap();
    }

    /// Asks the server; `P_` in the statement stands for the prefix of labels.
    async fn ask(&self, statement: &str) -> Vec<Vec<Value>> {
        let statement = statement.replace("P_", &self.prefix);
        let url = format!("{}db/neo4j/tx/commit", server("neo4j").await);
        let body = json!({ "statements": [{ "statement": statement }] });
        let answer = reqwest::Client::new().post(url).json(&body).send().await.unwrap().json::<Value>().await.unwrap();
        assert_eq!(answer["errors"], json!([]), "{statement}");
        let rows = answer["results"][0]["data"].as_array().unwrap();
        rows.iter().map(|row| row["row"].as_array().unwrap().clone()).collect()
    }

    /// All relations, as `from-TYPE->label:to`.
    async fn relations(&self) -> BTreeSet<String> {
        let rows = self.ask("MATCH (a)-[r]->(b) WHERE any(l IN labels(a) WHERE l STARTS WITH 'P_') RETURN labels(a)[0], a._key, type(r), labels(b)[0], b._key").await;
        let one = |row: &Vec<Value>| {
            let text = |i: usize| row[i].as_str().unwrap().trim_start_matches(&self.prefix).to_owned();
            format!("{}:{} {} {}:{}", text(0), text(1), text(2), text(3), text(4))
        };
        let relations: BTreeSet<String> = rows.iter().map(one).collect();
        assert_eq!(relations.len(), rows.len(), "each stands there once");
        relations
    }
}

fn set<const N: usize>(relations: [&str; N]) -> BTreeSet<String> {
    relations.into_iter().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn relations_follow_the_members_that_they_come_from() {
    let world = World::new().await;
    let script = Script::of(&[
        ("f1", Some(r#"{"origin":"JFK","crew":["a","b","a"],"next":"f2"}"#)),
        ("f2", Some(r#"{"origin":"JFK","crew":[],"next":null}"#)),
        ("f1", Some(r#"{"origin":"EWR","crew":["b","c"]}"#)),
        ("f1", None),
        ("f3", Some(r#"{"origin":"JFK","next":"f3"}"#)),
    ]);
    world.write(&world.flights, &script, 0..2).await;
    let first = [
        "Flight:f1 DEPARTS_FROM Airport:JFK",
        "Flight:f1 FLOWN_BY Person:a",
        "Flight:f1 FLOWN_BY Person:b",
        "Flight:f1 FOLLOWED_BY Flight:f2",
        "Flight:f2 DEPARTS_FROM Airport:JFK",
    ];
    assert_eq!(world.relations().await, set(first));
    // What was only led to is no record, and becomes one in its place.
    assert!(all(&*world.store.sink, &world.airports).await.is_empty());
    let airports =
        Script::of(&[("JFK", Some(r#"{"name":"Kennedy"}"#)), ("JFK", None), ("JFK", Some(r#"{"name":"K"}"#))]);
    world.write(&world.airports, &airports, 0..1).await;
    let name = "MATCH (:P_Flight {_key: 'f1'})-[:DEPARTS_FROM]->(a:P_Airport) RETURN a.name, a._key";
    assert_eq!(world.ask(name).await, [[json!("Kennedy"), json!("JFK")]]);

    // A changed reference moves; what did not change stays the relation that it was; an old event brings none back.
    let kept = "MATCH (:P_Flight {_key: 'f1'})-[r]->(:P_Person {_key: 'b'}) RETURN elementId(r)";
    let before = world.ask(kept).await;
    world.write(&world.flights, &script, 2..3).await;
    let second = [
        "Flight:f1 DEPARTS_FROM Airport:EWR",
        "Flight:f1 FLOWN_BY Person:b",
        "Flight:f1 FLOWN_BY Person:c",
        "Flight:f2 DEPARTS_FROM Airport:JFK",
    ];
    assert_eq!(world.relations().await, set(second));
    assert_eq!(world.ask(kept).await, before);
    let late = script.batch(Projection::Graph, 0..1);
    assert_eq!(world.store.sink.write(&world.flights, &late).await.unwrap().applied, 0);
    assert_eq!(world.relations().await, set(second));

    // Deleted, a node leads nowhere, and is led to by those that still name it.
    world.write(&world.flights, &script, 3..5).await;
    world.write(&world.airports, &airports, 1..2).await;
    let third =
        ["Flight:f2 DEPARTS_FROM Airport:JFK", "Flight:f3 DEPARTS_FROM Airport:JFK", "Flight:f3 FOLLOWED_BY Flight:f3"];
    assert_eq!(world.relations().await, set(third));
    assert!(is_deleted(&all(&*world.store.sink, &world.airports).await["JFK"]));
    world.write(&world.airports, &airports, 2..3).await;
    assert_eq!(world.relations().await, set(third));
    assert_holds(&*world.store.sink, &world.flights, &script).await;
    assert_holds(&*world.store.sink, &world.airports, &airports).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_collection_has_a_schema_reads_as_its_columns() {
    let world = World::new().await;
    let target = Target { table: Some(Arc::new(table())), ..world.airports.clone() };
    let odd =
        r#"{"n":9007199254740993,"x":1e308,"at":"2013-01-01T05:15:00.123456-05:00","j":[1,{"a":null}],"more":[1,2]}"#;
    let script = Script::of(&[("a", Some(odd)), ("b", Some(r#"{"s":"text"}"#)), ("c", Some(r#"{"n":"text"}"#))]);
    world.write(&target, &script, 0..2).await;
    let held = Script::of(&[("a", Some(odd)), ("b", Some(r#"{"s":"text"}"#))]);
    assert_holds(&*world.store.sink, &target, &held).await;
    let seen = world.ask("MATCH (a:P_Airport {_key: 'a'}) RETURN a.n, a.at, a.j, a.more").await;
    let j = r#"[1,{"a":null}]"#;
    assert_eq!(
        seen,
        [[json!(9007199254740993_u64), json!("2013-01-01T05:15:00.123456-05:00"), json!(j), json!([1, 2])]]
    );
    let error = world.store.sink.write(&target, &script.batch(Projection::Graph, 2..3)).await.unwrap_err();
    assert!(matches!(&error.fault, Fault::Rejected(rejected) if rejected[0].offset == 2), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_others_are_left_alone() {
    let world = World::new().await;
    let other = Target { collection: Collection::new("airfields").unwrap(), ..world.airports.clone() };
    let error = world.store.sink.prepare(&other).await.unwrap_err();
    assert_eq!(error.fault, Fault::Incompatible, "{error}");
    assert!(error.to_string().contains("\"Airport\"") && error.to_string().contains("collection airports"), "{error}");
    world.ask("CREATE (:P_Pilot {name: 'theirs'})").await;
    let graph = Graph { label: "Pilot".into(), edges: Vec::new() };
    let pilots = Target {
        collection: Collection::new("pilots").unwrap(),
        mapping: Arc::new(Mapping::Graph(graph)),
        ..world.airports.clone()
    };
    let error = world.store.sink.prepare(&pilots).await.unwrap_err();
    assert_eq!(error.fault, Fault::Incompatible, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_that_is_no_key_is_named() {
    let world = World::new().await;
    let script = Script::of(&[("a", Some(r#"{"origin":"X"}"#)), ("b", Some(r#"{"origin":{"key":"X"}}"#))]);
    let batch = script.advancing(Projection::Graph, 0..2);
    let error = world.store.sink.write(&world.flights, &batch).await.unwrap_err();
    let Fault::Rejected(rejected) = &error.fault else { panic!("{error}") };
    assert_eq!(rejected.iter().map(|r| r.offset).collect::<Vec<_>>(), [1]);
    assert!(rejected[0].reason.contains("\"origin\""), "{}", rejected[0].reason);
    assert!(all(&*world.store.sink, &world.flights).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_takes_along_what_leads_to_its_nodes() {
    let world = World::new().await;
    let (sink, swap) = (&world.store.sink, world.store.sink.swap().unwrap());
    let flights = Script::of(&[
        ("f1", Some(r#"{"origin":"JFK","next":"f2"}"#)),
        ("f2", Some(r#"{"origin":"EWR"}"#)),
        ("f3", Some(r#"{"origin":"JFK"}"#)),
    ]);
    let airports = Script::of(&[("JFK", Some(r#"{"name":"Kennedy"}"#))]);
    world.write(&world.flights, &flights, 0..2).await;
    world.write(&world.airports, &airports, 0..1).await;
    let leads = set([
        "Flight:f1 DEPARTS_FROM Airport:JFK",
        "Flight:f1 FOLLOWED_BY Flight:f2",
        "Flight:f2 DEPARTS_FROM Airport:EWR",
    ]);
    // Of the airports, EWR is only led to, and is not in the new generation.
    for (target, script, range) in [(&world.airports, &airports, 0..1), (&world.flights, &flights, 0..2)] {
        let beside = target.with_build(Build::Beside(2));
        swap.begin(&beside, "plan").await.unwrap();
        sink.prepare(&beside).await.unwrap();
        world.write(&beside, script, range).await;
        assert!(swap.swap(&beside, true).await.unwrap());
        let relations = world.relations().await;
        let live: BTreeSet<String> = relations.iter().filter(|r| r.starts_with("Flight:")).cloned().collect();
        assert_eq!(live, leads, "{relations:?}");
    }
    // The old flights lead to the same airports, and to one another.
    let old = set([
        "Flight__g1:f1 DEPARTS_FROM Airport:JFK",
        "Flight__g1:f1 FOLLOWED_BY Flight__g1:f2",
        "Flight__g1:f2 DEPARTS_FROM Airport:EWR",
    ]);
    assert_eq!(world.relations().await, &leads | &old);
    let flights2 = world.flights.with_build(Build::Live(2));
    world.write(&flights2, &flights, 2..3).await;
    assert!(world.relations().await.contains("Flight:f3 DEPARTS_FROM Airport:JFK"));
    // Back, and the next one leaves nothing of the generation before.
    assert!(swap.swap(&world.flights.with_build(Build::Beside(1)), false).await.unwrap());
    let live: BTreeSet<String> = world.relations().await.into_iter().filter(|r| r.starts_with("Flight:")).collect();
    assert_eq!(live, leads);
    swap.discard(&world.flights.with_build(Build::Beside(2))).await.unwrap();
    assert_eq!(world.relations().await, leads);
}

#[tokio::test(flavor = "multi_thread")]
async fn references_written_during_swaps_lead_to_what_is_live() {
    let world = Arc::new(World::new().await);
    let mut flights = Script::default();
    for offset in 0..400 {
        flights.push(&format!("f{offset}"), Some(&format!("{{\"origin\":\"a{}\"}}", offset % 9)), &[]);
    }
    let airports = Script::of(&(0..7).map(|_| ("a1", Some("{}"))).collect::<Vec<_>>());
    world.write(&world.airports, &airports, 0..1).await;
    let (writer, swapper) = (world.clone(), world.clone());
    let again = |error: &primal_core::SinkError| error.fault == Fault::Unavailable;
    let writing = tokio::spawn(async move {
        let mut from = 0;
        while from < 400 {
            let batch = flights.advancing(Projection::Graph, from..from + 5);
            match writer.store.sink.write(&writer.flights, &batch).await {
                Ok(_) => from += 5,
                Err(error) => assert!(again(&error), "{error}"),
            }
        }
    });
    for generation in 2..40 {
        if writing.is_finished() {
            break;
        }
        let beside = swapper.airports.with_build(Build::Beside(generation));
        let swap = swapper.store.sink.swap().unwrap();
        swap.begin(&beside, "plan").await.unwrap();
        swapper.store.sink.prepare(&beside).await.unwrap();
        swapper.write(&beside, &airports, 0..1).await;
        loop {
            match swap.swap(&beside, true).await {
                Ok(swapped) => break assert!(swapped),
                Err(error) => assert!(again(&error), "{error}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writing.await.unwrap();
    let relations = world.relations().await;
    assert_eq!(relations.len(), 400);
    let astray: Vec<_> = relations.iter().filter(|r| !r.contains(" DEPARTS_FROM Airport:")).collect();
    assert!(astray.is_empty(), "{astray:?}");
    let twice = world.ask("MATCH (a:P_Airport) WITH a._key AS k, count(*) AS n WHERE n > 1 RETURN k").await;
    assert!(twice.is_empty(), "{twice:?}");
}
