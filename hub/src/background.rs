//! Work that may wait: sealing, snapshots and the like run on threads of their own, which the system gives what the others
//! leave. Where both fall together, publishing and delivery go first.

use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// Of the system's niceness, 0 to 19: about a tenth of what an ordinary thread gets where all want the processor.
const NICENESS: i32 = 10;
/// Threads that give way. Clones share them; with the last they end, and what is still at work there ends too.
#[derive(Clone)]
pub struct Background {
    handle: Handle,
    _threads: Arc<Threads>,
}

struct Threads(Option<Runtime>);

impl Background {
    /// Starts them.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn start() -> std::io::Result<Self> {
        // Threads that others start from these, such as a Kafka client's, are as nice.
        let give_way = || {
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                tracing::debug!(%error, "background work runs like any other");
            }
        };
        let threads = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("background")
            .on_thread_start(give_way)
            .enable_all()
            .build()?;
        Ok(Background { handle: threads.handle().clone(), _threads: Arc::new(Threads(Some(threads))) })
    }

    /// For what has a set of tasks of its own.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs something there.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn(work)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(threads) = self.0.take() {
            // To wait here would hold up whoever drops it, which may be a task.
            threads.shutdown_background();
        }
    }
}
