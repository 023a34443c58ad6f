//! Elasticsearch.

use std::sync::Arc;

use primal_core::{Sink, SinkSpec};

use crate::search::{CAPABILITY, OPTIONS, Product, Search};

/// Elasticsearch.
pub static ELASTICSEARCH: SinkSpec = SinkSpec {
    name: "elasticsearch",
    family: "http",
    summary: "Elasticsearch 7.10 and later",
    capability: CAPABILITY,
    options: OPTIONS,
    build: |settings| Ok(Arc::new(Search::new(settings, Product::Elasticsearch)?) as Arc<dyn Sink>),
};
