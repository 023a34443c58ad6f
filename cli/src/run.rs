//! `primalcore run`.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use primal_core::Env;
use primal_hub::{Hub, HubError, Running};
use tokio_util::sync::CancellationToken;

use crate::output::remark;
use crate::{ConfigFile, Failure, Outcome, interrupted};

/// Between two tries to reach the log when the hub starts.
const AGAIN: Duration = Duration::from_secs(1);

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
        let shutdown = interrupted();
        loop {
            match self.start(&shutdown).await {
                Ok((hub, running)) => {
                    announce(&hub, &running);
                    #[cfg(feature = "query")]
                    crate::query::keep(&hub, &running.background, shutdown.clone());
                    return finish(running, shutdown).await;
                }
                // Machines come up in any order.
                Err(error) if error.is_passing() => {
                    tracing::warn!(%error, "the log cannot be reached yet; trying again");
                    if shutdown.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn start(&self, shutdown: &CancellationToken) -> Result<(Arc<Hub>, Running), HubError> {
        let config = self.config.load().map_err(|failure| HubError::Usage(failure.message))?;
        let hub = Arc::new(Hub::open(config, Env::system()).await?);
        let running = Running::start(hub.clone(), &self.sinks, shutdown.clone()).await?;
        Ok((hub, running))
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
