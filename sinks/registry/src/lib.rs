//! The list of all stores. Families are named here and nowhere else, each behind a feature of its own name; what was not
//! compiled in is still known by name, so that asking for it says which feature to enable.

use primal_core::SinkSpec;
use primal_core::nearest::hint;

/// Every store and the feature that compiles it in, by name.
pub const KNOWN: &[(&str, &str)] = &[
    ("clickhouse", "http"),
    ("elasticsearch", "http"),
    ("influxdb", "http"),
    ("memory", "memory"),
    ("mongodb", "mongo"),
    ("neo4j", "cypher"),
    ("opensearch", "http"),
    ("postgres", "sql"),
    ("prometheus", "http"),
    ("qdrant", "http"),
    ("redis", "resp"),
    ("sqlite", "sql"),
    ("timescaledb", "sql"),
];

/// The stores of this build.
pub fn all() -> Vec<&'static SinkSpec> {
    vec![
        #[cfg(feature = "http")]
        &primal_sink_http::CLICKHOUSE,
        #[cfg(feature = "http")]
        &primal_sink_http::ELASTICSEARCH,
        #[cfg(feature = "http")]
        &primal_sink_http::INFLUXDB,
        #[cfg(feature = "memory")]
        &primal_sink_memory::MEMORY,
        #[cfg(feature = "mongo")]
        &primal_sink_mongo::MONGODB,
        #[cfg(feature = "cypher")]
        &primal_sink_cypher::NEO4J,
        #[cfg(feature = "http")]
        &primal_sink_http::OPENSEARCH,
        #[cfg(feature = "sql")]
        &primal_sink_sql::POSTGRES,
        #[cfg(feature = "http")]
        &primal_sink_http::PROMETHEUS,
        #[cfg(feature = "http")]
        &primal_sink_http::QDRANT,
        #[cfg(feature = "resp")]
        &primal_sink_resp::REDIS,
        #[cfg(feature = "sql")]
        &primal_sink_sql::SQLITE,
        #[cfg(feature = "sql")]
        &primal_sink_sql::TIMESCALEDB,
    ]
}

/// The store of a given `type`.
///
/// # Errors
/// It is unknown, or was not compiled in.
pub fn find(name: &str) -> Result<&'static SinkSpec, String> {
    if let Some(spec) = all().into_iter().find(|spec| spec.name == name) {
        return Ok(spec);
    }
    match KNOWN.iter().find(|(known, _)| *known == name) {
        Some((_, feature)) => {
            Err(format!("`{name}` is not in this build; build with `--features {feature}` to have it"))
        }
        None => Err(format!("unknown type `{name}`{}", hint(name, KNOWN.iter().map(|(known, _)| *known)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(
        feature = "cypher",
        feature = "http",
        feature = "memory",
        feature = "mongo",
        feature = "resp",
        feature = "sql"
    ))]
    #[test]
    fn every_known_store_is_registered_under_its_family() {
        let registered: Vec<_> = all().iter().map(|spec| (spec.name, spec.family)).collect();
        assert_eq!(registered, KNOWN);
    }

    #[test]
    fn a_slip_is_answered_with_the_nearest_name() {
        assert_eq!(find("postgers").err().unwrap(), "unknown type `postgers`, did you mean `postgres`?");
    }
}
