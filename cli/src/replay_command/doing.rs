//! A replay at work in this process, and what is printed of it.

use std::sync::Arc;

use primal_hub::Hub;
use primal_replay::{Audience, Claim, Ended, Part, Plan, Progress, ReplayError, run};
use tokio_util::sync::CancellationToken;

use super::{Lane, remind, shown};
use crate::output::{self, Bars};
use crate::{Outcome, audit};

/// The parts of a job, in the order of its plans.
pub(super) fn parts(lanes: &[Lane<'_>], plans: &[Plan]) -> Vec<Part> {
    let requests = lanes.iter().flat_map(|lane| lane.requests.iter().map(move |request| (lane.sink, request)));
    let part = |((sink, request), plan): ((&primal_hub::SinkConfig, &primal_replay::Request), &Plan)| Part {
        sink: sink.name.clone(),
        collection: request.feed.collection.to_string(),
        mode: Some(plan.mode),
        into: request.into.clone(),
        place: plan.place.clone(),
        ..Part::default()
    };
    requests.zip(plans).map(part).collect()
}

/// The record of a rollback.
pub(super) fn rolled_back(sink: &str, collection: &str) -> Part {
    let phase = "rollback".to_owned();
    Part { sink: sink.to_owned(), collection: collection.to_owned(), phase, ..Part::default() }
}

/// Does what was claimed.
pub(super) async fn execute(
    hub: &Hub,
    claim: Claim,
    lanes: Vec<Lane<'_>>,
    cancel: &CancellationToken,
    json: bool,
) -> Outcome {
    let done = claim.parts().iter().filter(|part| part.state == primal_replay::State::Done).count();
    let more = match (claim.resumes, done) {
        (false, _) => String::new(),
        (true, 0) => "; it goes on from where it was".to_owned(),
        (true, done) => {
            format!("; it goes on from where it was, {done} of {} collections were done", claim.parts().len())
        }
    };
    output::remark(&format!("replay {}{more}", claim.id()));
    let sinks: Vec<String> = lanes.iter().map(|lane| lane.sink.name.clone()).collect();
    let mut index = 0;
    let lanes = lanes.into_iter().map(|lane| {
        let number = |request| {
            index += 1;
            (index - 1, request)
        };
        primal_replay::Lane { requests: lane.requests.into_iter().map(number).collect(), replay: lane.replay }
    });
    let lanes = lanes.collect();
    let told = Arc::new(Told { bars: Bars::new(), json });
    let result = run(claim, lanes, &hub.env, cancel, told.clone()).await;
    told.bars.clear();
    let mut reminded = Ok(());
    for sink in &sinks {
        reminded = reminded.and(remind(hub, sink).await);
    }
    result?;
    reminded
}

/// Bars on a terminal, results on stdout.
struct Told {
    bars: Bars,
    json: bool,
}

impl Audience for Told {
    fn progress(&self, part: &Part) -> Arc<dyn Progress> {
        Arc::new(self.bars.bar(&format!("{} {}", part.sink, part.collection)))
    }

    fn ended(&self, part: &Part, ended: &Ended) {
        self.bars.suspend(|| match ended {
            Ok(done) if self.json => {
                let _ = output::json(done);
            }
            Ok(done) => shown::told(done),
            Err(ReplayError::Different(report)) => audit::show(std::slice::from_ref(report)),
            Err(ReplayError::Interrupted(_)) => {}
            Err(error) => output::remark(&format!("{} into {}: {error}", part.collection, part.sink)),
        });
    }

    fn say(&self, text: &str) {
        self.bars.suspend(|| output::remark(text));
    }
}
