//! `primalcore run`.

use std::sync::Arc;

use clap::Args;
use primal_hub::{Hub, Running};
use tokio_util::sync::CancellationToken;

use crate::output::remark;
use crate::{ConfigFile, Failure, Outcome, interrupted};

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    config: ConfigFile,
    /// Only these sinks' workers
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    sinks: Vec<String>,
}

impl Run {
    pub(crate) async fn run(self) -> Outcome {
        let hub = Arc::new(self.config.open().await?);
        let shutdown = interrupted();
        let running = Running::start(hub.clone(), &self.sinks, shutdown.clone()).await?;
        announce(&hub, &running);
        finish(running, shutdown).await
    }
}

pub(crate) fn announce(hub: &Hub, running: &Running) {
    if let Some(listen) = running.listen {
        remark(&format!("gateway on http://{listen}"));
    }
    let sinks: Vec<_> = hub.config.sinks.iter().map(|sink| format!("{} ({})", sink.name, sink.spec.name)).collect();
    remark(&format!(
        "sinks: {}; Ctrl-C ends in good order",
        if sinks.is_empty() { "none".into() } else { sinks.join(", ") }
    ));
}

/// Waits for the end; a sink that stopped by itself is a failure.
pub(crate) async fn finish(running: Running, shutdown: CancellationToken) -> Outcome {
    let stopped = running.finish().await;
    shutdown.cancel();
    match stopped.as_slice() {
        [] => Ok(()),
        errors => Err(Failure::failed(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))),
    }
}
