//! OpenSearch.

use std::sync::Arc;

use primal_core::{Sink, SinkSpec};

use crate::search::{CAPABILITY, OPTIONS, Product, Search};

/// OpenSearch.
pub static OPENSEARCH: SinkSpec = SinkSpec {
    name: "opensearch",
    family: "http",
    summary: "OpenSearch 1 and later",
    capability: CAPABILITY,
    options: OPTIONS,
    build: |settings| Ok(Arc::new(Search::new(settings, Product::Opensearch)?) as Arc<dyn Sink>),
};
