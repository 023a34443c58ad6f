//! A case of the suite: a rule as a function that takes one empty store and panics where the store breaks the rule. The
//! same function runs for every store of the registry, and for the doubles that break its rule.

use std::pin::Pin;

use crate::stores::Store;

/// What a store has not, for which a case is not about it.
#[derive(Debug)]
pub struct Lacks(pub &'static str);

/// Whether a case was run to its end.
pub type Verdict = Result<(), Lacks>;

/// A case by name.
pub struct Case {
    pub name: &'static str,
    pub run: fn(Store) -> Pin<Box<dyn Future<Output = Verdict> + Send>>,
}

/// Lists the cases of a file in `CASES`, and makes each a test over every store of the registry.
macro_rules! cases {
    [$($name:ident),* $(,)?] => {
        pub const CASES: &[crate::case::Case] =
            &[$(crate::case::Case { name: stringify!($name), run: |store| Box::pin($name(store)) }),*];

        mod every_store {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    crate::case::every_store(super::$name).await;
                }
            )*
        }
    };
}
pub(crate) use cases;

/// Runs a case for every store of the registry. Each case is about at least one.
pub async fn every_store<F: Future<Output = Verdict>>(case: impl Fn(Store) -> F) {
    let (specs, mut ran) = (primal_registry::all(), 0);
    assert_eq!(specs.len(), primal_registry::KNOWN.len(), "every known store is compiled into the tests");
    for spec in specs.into_iter().filter(|spec| is_chosen(spec.name)) {
        println!("{}", spec.name);
        match case(Store::new(spec).await).await {
            Ok(()) => ran += 1,
            Err(Lacks(what)) => println!("{} is left out: it has not {what}", spec.name),
        }
    }
    assert!(ran > 0, "no store has what this case is about");
}

/// Whether a store is under test: all are, or those that `PRIMALCORE_TEST_STORES` names, with commas.
fn is_chosen(store: &str) -> bool {
    std::env::var("PRIMALCORE_TEST_STORES").map_or(true, |names| names.split(',').any(|name| name == store))
}
