//! Generations: building beside, swapping, rolling back, and what a schema's change does to what is there.

use std::sync::Arc;

use primal_core::batch::Batch;
use primal_core::sink::{Build, Builds, Projection, Rebuild, SwapKind};
use primal_core::table::{Column, Kind, Table};
use primal_core::{Fault, Position, Target};

use crate::case::{Lacks, Verdict, cases};
use crate::script::{Script, all, assert_holds};
use crate::stores::Store;

const A: &str = r#"{"n":1}"#;

async fn a_generation_is_built_beside_swapped_in_and_rolled_back(store: Store) -> Verdict {
    if store.spec.capability.swap == SwapKind::None {
        return Err(Lacks("a swap"));
    }
    for projection in &store.keyed()? {
        let live = store.target(*projection);
        let live = Target { collection: name(*projection), ..live };
        let (sink, swap) = (&store.sink, store.sink.swap().unwrap());
        let script = Script::of(&[("a", Some(A)), ("b", Some(A)), ("a", None), ("c", Some(A))]);
        sink.prepare(&live).await.unwrap();
        sink.write(&live, &script.advancing(*projection, 0..3)).await.unwrap();
        let beside = live.with_build(Build::Beside(2));
        swap.begin(&beside, "the plan").await.unwrap();
        sink.prepare(&beside).await.unwrap();
        let rebuild = Some(Rebuild { generation: 2, plan: "the plan".into() });
        assert_eq!(sink.builds("sink", &live.collection).await.unwrap(), Builds { live: 1, previous: None, rebuild });

        // Behind the live one it may not be swapped in; level with it, it may.
        sink.write(&beside, &script.advancing(*projection, 0..2)).await.unwrap();
        assert!(!swap.swap(&beside, true).await.unwrap());
        sink.write(&beside, &script.advancing(*projection, 2..3)).await.unwrap();
        assert!(swap.swap(&beside, true).await.unwrap());
        let builds = sink.builds("sink", &live.collection).await.unwrap();
        assert_eq!(builds, Builds { live: 2, previous: Some(1), rebuild: None });

        // A worker that missed the swap is fenced, and goes on with the new generation from its own position.
        let late = sink.write(&live, &script.advancing(*projection, 3..4)).await.unwrap_err();
        assert_eq!(late.fault, Fault::Fenced, "{late}");
        let live = live.with_build(Build::Live(2));
        assert_eq!(sink.positions(&live).await.unwrap()[&0], Position(3));
        sink.write(&live, &script.advancing(*projection, 3..4)).await.unwrap();
        assert_holds(&**sink, &live, &script).await;

        // Back: the old generation is as it was, with its own position.
        assert!(swap.swap(&live.with_build(Build::Beside(1)), false).await.unwrap());
        let first = live.with_build(Build::Live(1));
        assert_eq!(sink.positions(&first).await.unwrap()[&0], Position(3));
        assert!(!all(&**sink, &first).await.values().any(|stored| stored.event_id == "e3"));
        sink.write(&first, &script.advancing(*projection, 3..4)).await.unwrap();
        assert_holds(&**sink, &first, &script).await;
        let second = live.with_build(Build::Beside(2));
        assert_holds(&**sink, &second, &script).await;

        // The next swap keeps one previous generation, not two.
        let third = live.with_build(Build::Beside(3));
        swap.begin(&third, "again").await.unwrap();
        sink.prepare(&third).await.unwrap();
        sink.write(&third, &script.advancing(*projection, 0..4)).await.unwrap();
        assert!(swap.swap(&third, true).await.unwrap());
        assert!(sink.positions(&second).await.unwrap().is_empty());
        assert_holds(&**sink, &live.with_build(Build::Live(3)), &script).await;
    }
    Ok(())
}

async fn a_partition_that_only_the_live_generation_has_holds_the_swap_back(store: Store) -> Verdict {
    let swap = store.sink.swap().ok_or(Lacks("a swap"))?;
    let live = store.document()?;
    store.sink.prepare(&live).await.unwrap();
    let script = Script::of(&[("a", Some(A))]);
    store.sink.write(&live, &script.advancing(live.projection, 0..1)).await.unwrap();
    let beside = live.with_build(Build::Beside(2));
    swap.begin(&beside, "plan").await.unwrap();
    store.sink.prepare(&beside).await.unwrap();
    assert!(!swap.swap(&beside, true).await.unwrap());
    assert_holds(&*store.sink, &live, &script).await;
    Ok(())
}

async fn events_that_are_taken_for_new_are_compared_when_they_are_not(store: Store) -> Verdict {
    let swap = store.sink.swap().ok_or(Lacks("a swap"))?;
    for projection in &store.states()? {
        let live = Target { collection: name(*projection), ..store.target(*projection) };
        store.sink.prepare(&live).await.unwrap();
        let beside = live.with_build(Build::Beside(2));
        swap.begin(&beside, "plan").await.unwrap();
        store.sink.prepare(&beside).await.unwrap();
        let script = Script::of(&[("a", Some(A)), ("b", Some(A)), ("a", None), ("c", Some(A)), ("b", Some(A))]);
        let taken_for_new = |mut batch: Batch<'static>| {
            batch.events.iter_mut().for_each(|event| event.fresh = true);
            batch
        };
        let script: &'static Script = Box::leak(Box::new(script));
        // All are new, one is, none is, and none is newer than what is there.
        for range in [0..2, 2..4, 4..5] {
            let batch = taken_for_new(script.advancing(*projection, range));
            store.sink.write(&beside, &batch).await.unwrap();
        }
        let late = store.sink.write(&beside, &taken_for_new(script.batch(*projection, 0..3))).await.unwrap();
        assert_eq!((late.applied, late.stale), (0, 2));
        assert_holds(&*store.sink, &beside, script).await;
        // As one whose answer was lost is sent again.
        let again = store.sink.write(&beside, &taken_for_new(script.advancing(*projection, 4..5))).await.unwrap_err();
        assert_eq!(again.fault, Fault::Fenced, "{again}");
        assert_holds(&*store.sink, &beside, script).await;
    }
    Ok(())
}

async fn a_discarded_build_leaves_nothing(store: Store) -> Verdict {
    let swap = store.sink.swap().ok_or(Lacks("a swap"))?;
    let live = store.document()?;
    store.sink.prepare(&live).await.unwrap();
    let script = Script::of(&[("a", Some(A))]);
    for build in [Build::Beside(2), Build::Named("copy".into())] {
        let other = live.with_build(build);
        if matches!(other.build, Build::Beside(_)) {
            swap.begin(&other, "plan").await.unwrap();
        }
        store.sink.prepare(&other).await.unwrap();
        store.sink.write(&other, &script.advancing(live.projection, 0..1)).await.unwrap();
        assert_holds(&*store.sink, &other, &script).await;
        swap.discard(&other).await.unwrap();
        swap.discard(&other).await.unwrap();
        assert!(store.sink.positions(&other).await.unwrap().is_empty());
        store.sink.prepare(&other).await.unwrap();
        assert!(all(&*store.sink, &other).await.is_empty());
        swap.discard(&other).await.unwrap();
    }
    assert_eq!(store.sink.builds("sink", &live.collection).await.unwrap(), Builds { live: 1, ..Builds::default() });
    assert!(all(&*store.sink, &live).await.is_empty());
    Ok(())
}

async fn a_new_property_adds_a_column_and_a_changed_type_stops_before_anything_is_written(store: Store) -> Verdict {
    if !store.offers(Projection::Table) || store.spec.name == "memory" {
        return Err(Lacks("columns of its own"));
    }
    let column = |name: &str, kind| Column { name: name.into(), kind };
    let with =
        |columns: Vec<Column>| Target { table: Some(Arc::new(Table::new(columns))), ..store.target(Projection::Table) };
    let first = with(vec![column("n", Kind::Integer)]);
    store.sink.prepare(&first).await.unwrap();
    let script = Script::of(&[("a", Some(r#"{"n":1,"more":"m"}"#)), ("b", Some(r#"{"n":2,"more":"x"}"#))]);
    store.sink.write(&first, &script.advancing(Projection::Table, 0..1)).await.unwrap();
    let wider = with(vec![column("n", Kind::Integer), column("more", Kind::Text)]);
    store.sink.prepare(&wider).await.unwrap();
    store.sink.write(&wider, &script.advancing(Projection::Table, 1..2)).await.unwrap();
    let found = all(&*store.sink, &wider).await;
    assert_eq!(found["b"].digest(), Some(wider.digest(r#"{"n":2,"more":"x"}"#).unwrap()));
    let other = with(vec![column("n", Kind::Text)]);
    let error = store.sink.prepare(&other).await.unwrap_err();
    assert_eq!(error.fault, Fault::Incompatible, "{error}");
    let text = error.to_string();
    assert!(text.contains("\"n\"") && text.contains("my-flights") && text.contains("replay"), "{text}");
    let error = store.sink.prepare(&store.target(Projection::Events)).await.unwrap_err();
    assert_eq!(error.fault, Fault::Incompatible, "{error}");
    Ok(())
}

fn name(projection: Projection) -> primal_core::Collection {
    primal_core::Collection::new(&format!("as-{}", projection.as_str())).unwrap()
}

cases![
    a_generation_is_built_beside_swapped_in_and_rolled_back,
    a_partition_that_only_the_live_generation_has_holds_the_swap_back,
    events_that_are_taken_for_new_are_compared_when_they_are_not,
    a_discarded_build_leaves_nothing,
    a_new_property_adds_a_column_and_a_changed_type_stops_before_anything_is_written,
];
