//! What somebody who asks a MongoDB server himself sees, and what the sink makes of what others left there.

use ::mongodb::bson::{Document, doc};
use ::mongodb::{Client, Collection, Database};
use primal_core::Fault;
use primal_core::sink::Projection;

use crate::script::{Script, all, assert_holds};
use crate::stores::{Store, server};

#[derive(serde::Deserialize)]
struct Settings {
    database: String,
}

async fn world() -> (Store, Database) {
    let store = Store::new(primal_registry::find("mongodb").unwrap()).await;
    let settings: Settings = store.settings.read().unwrap();
    let client = Client::with_uri_str(server("ferretdb").await).await.unwrap();
    (store, client.database(&settings.database))
}

fn records(database: &Database) -> Collection<Document> {
    database.collection("my-flights__g1")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_can_be_asked_for_by_its_members_and_stands_there_as_it_came() {
    let (store, database) = world().await;
    let target = store.target(Projection::Document);
    store.sink.prepare(&target).await.unwrap();
    let data = r#"{ "carrier": "UA", "n": 9007199254740993, "n": 1.0, "a.b": {"$x": [18446744073709551615]} }"#;
    let script = Script::of(&[("k", Some(data)), ("gone", None)]);
    store.sink.write(&target, &script.advancing(Projection::Document, 0..2)).await.unwrap();
    let found = records(&database).find_one(doc! { "data.carrier": "UA" }).await.unwrap().unwrap();
    assert_eq!(found.get_str("_data").unwrap(), data);
    let inner = doc! { "\u{ff04}x": [18446744073709551615_f64] };
    assert_eq!(found.get_document("data").unwrap(), &doc! { "carrier": "UA", "n": 1.0, "a\u{ff0e}b": inner });
    assert_eq!((found.get_str("_id").unwrap(), found.get_i64("_version").unwrap()), ("k", 1));
    let gone = records(&database).find_one(doc! { "_id": "gone" }).await.unwrap().unwrap();
    assert!(gone.get_bool("_deleted").unwrap() && !gone.contains_key("data"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_was_made_and_not_filled_is_no_record() {
    let (store, database) = world().await;
    let target = store.target(Projection::Document);
    store.sink.prepare(&target).await.unwrap();
    records(&database).insert_one(doc! { "_id": "k", "_version": -1_i64, "_deleted": true }).await.unwrap();
    assert!(all(&*store.sink, &target).await.is_empty());
    assert_eq!(store.sink.reader().unwrap().get(&target, "k").await.unwrap(), None);
    store.sink.prepare(&target).await.unwrap();
    let script = Script::of(&[("k", Some("{}"))]);
    let outcome = store.sink.write(&target, &script.advancing(Projection::Document, 0..1)).await.unwrap();
    assert_eq!((outcome.applied, outcome.stale), (1, 0));
    assert_holds(&*store.sink, &target, &script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_of_others_are_left_alone() {
    let (store, database) = world().await;
    let target = store.target(Projection::Document);
    for name in ["my-flights", "my-flights__g1"] {
        let theirs = database.collection::<Document>(name);
        theirs.insert_one(doc! { "_id": "theirs" }).await.unwrap();
        let error = store.sink.prepare(&target).await.unwrap_err();
        assert_eq!(error.fault, Fault::Incompatible, "{error}");
        assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        theirs.drop().await.unwrap();
    }
    store.sink.prepare(&target).await.unwrap();
    let script = Script::of(&[("k", Some("{}"))]);
    store.sink.write(&target, &script.advancing(Projection::Document, 0..1)).await.unwrap();
    let error = store.sink.prepare(&store.target(Projection::Events)).await.unwrap_err();
    assert_eq!(error.fault, Fault::Incompatible, "{error}");
}
