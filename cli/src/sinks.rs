//! `primalcore sinks`.

use clap::Args;
use primal_core::sink::SwapKind;
use serde::Serialize;

use crate::Outcome;
use crate::output;

#[derive(Args)]
pub(crate) struct Sinks {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Known {
    name: &'static str,
    family: &'static str,
    compiled: bool,
    class: Option<&'static str>,
    projections: Vec<&'static str>,
    swap: Option<&'static str>,
    summary: Option<&'static str>,
}

impl Sinks {
    pub(crate) fn run(self) -> Outcome {
        let known: Vec<Known> = primal_registry::KNOWN.iter().map(|(name, family)| known(name, family)).collect();
        if self.json {
            return output::json(&known);
        }
        let rows = known.iter().map(|store| {
            vec![
                store.name.to_owned(),
                store.family.to_owned(),
                store.class.unwrap_or("").to_owned(),
                store.projections.join(", "),
                store.swap.unwrap_or("").to_owned(),
                if store.compiled { "yes".to_owned() } else { format!("no: --features {}", store.family) },
                store.summary.unwrap_or("").to_owned(),
            ]
        });
        output::table(&["type", "family", "class", "projections", "swap", "in this build", "what"], rows.collect());
        Ok(())
    }
}

fn known(name: &'static str, family: &'static str) -> Known {
    let spec = primal_registry::all().into_iter().find(|spec| spec.name == name);
    Known {
        name,
        family,
        compiled: spec.is_some(),
        class: spec.map(|spec| spec.capability.class.as_str()),
        projections: spec.map_or(Vec::new(), |s| s.capability.projections.iter().map(|p| p.as_str()).collect()),
        swap: spec.map(|spec| if spec.capability.swap == SwapKind::Atomic { "atomic" } else { "none" }),
        summary: spec.map(|spec| spec.summary),
    }
}
