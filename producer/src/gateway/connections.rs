//! Which connections are open, and whom they wait for. A connection either works (the hub has its request whole) or waits
//! for its client: for a request, for more of a body, for an answer to be read. When all places are taken, a new
//! connection gets the place of the one that has waited longest, so that clients who say nothing cannot shut others out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// All connections.
pub(crate) struct Connections {
    most: usize,
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Default)]
struct Table {
    open: usize,
    /// Of those, how many were told to end.
    ending: usize,
    /// Counts up; each wait has its turn.
    turn: u64,
    /// The longest waiting first.
    waiting: BTreeMap<u64, Wait>,
}

struct Wait {
    until: Instant,
    cut: CancellationToken,
}

impl Connections {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Connections { most: most.max(1), table: Mutex::default(), changed: Notify::new() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, which waits for its first request for so long.
    pub(crate) async fn enter(self: &Arc<Self>, patience: Duration) -> Connection {
        loop {
            {
                let mut table = self.table();
                if table.open < self.most {
                    table.open += 1;
                    gauge!("primalcore_gateway_connections").set(table.open as f64);
                    break;
                }
                if table.ending == 0
                    && let Some((_, longest)) = table.waiting.pop_first()
                {
                    counter!("primalcore_gateway_displaced_total").increment(1);
                    table.end(&longest);
                }
            }
            self.changed.notified().await;
        }
        let connection = Connection { all: self.clone(), turn: AtomicU64::new(0), cut: CancellationToken::new() };
        connection.waits(patience);
        connection
    }

    /// Ends the connections whose clients have taken too long.
    pub(crate) fn sweep(&self) {
        let (now, mut table) = (Instant::now(), self.table());
        let late = table.waiting.extract_if(.., |_, wait| wait.until < now).collect::<Vec<_>>();
        late.iter().for_each(|(_, wait)| table.end(wait));
    }
}

impl Table {
    fn end(&mut self, wait: &Wait) {
        self.ending += 1;
        wait.cut.cancel();
    }
}

/// One connection's place; given back when it is dropped.
pub(crate) struct Connection {
    all: Arc<Connections>,
    /// Its key among the waiting; none has 0.
    turn: AtomicU64,
    cut: CancellationToken,
}

impl Connection {
    /// From now on it waits for its client, at most so long.
    pub(crate) fn waits(&self, patience: Duration) {
        let mut table = self.all.table();
        table.waiting.remove(&self.turn.load(Ordering::Relaxed));
        table.turn += 1;
        self.turn.store(table.turn, Ordering::Relaxed);
        let wait = Wait { until: Instant::now() + patience, cut: self.cut.clone() };
        let turn = table.turn;
        if !self.cut.is_cancelled() {
            table.waiting.insert(turn, wait);
            self.all.changed.notify_one();
        }
    }

    /// From now on the hub works for it.
    pub(crate) fn works(&self) {
        self.all.table().waiting.remove(&self.turn.load(Ordering::Relaxed));
    }

    /// Waits for the client in the midst of a request.
    pub(crate) async fn wait<T>(&self, patience: Duration, what: impl Future<Output = T>) -> T {
        // Whoever waits for this reports its end; the sweep is for what nobody waits for.
        self.waits(patience * 2);
        let done = what.await;
        self.works();
        // A client that sends fast does not keep a thread from the others.
        tokio::task::yield_now().await;
        done
    }

    /// Ends when the connection has to.
    pub(crate) async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut table = self.all.table();
        table.waiting.remove(&self.turn.load(Ordering::Relaxed));
        table.open = table.open.saturating_sub(1);
        gauge!("primalcore_gateway_connections").set(table.open as f64);
        if self.cut.is_cancelled() {
            table.ending = table.ending.saturating_sub(1);
        }
        self.all.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_takes_the_place_of_the_longest_waiting_and_never_of_one_at_work() {
        let (all, patience) = (Connections::new(3), Duration::from_secs(10));
        let (first, second, third) = (all.enter(patience).await, all.enter(patience).await, all.enter(patience).await);
        first.works();
        second.waits(patience);
        let newcomer = tokio::spawn(async move { all.enter(patience).await });
        third.cut().await;
        drop(third);
        let newcomer = newcomer.await.unwrap();
        assert!(!first.cut.is_cancelled() && !second.cut.is_cancelled() && !newcomer.cut.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_too_long_is_ended_and_whoever_works_is_not() {
        let all = Connections::new(3);
        let (idle, busy) = (all.enter(Duration::from_secs(10)).await, all.enter(Duration::from_secs(10)).await);
        busy.works();
        tokio::time::advance(Duration::from_secs(9)).await;
        all.sweep();
        assert!(!idle.cut.is_cancelled());
        tokio::time::advance(Duration::from_secs(2)).await;
        all.sweep();
        assert!(idle.cut.is_cancelled() && !busy.cut.is_cancelled());
        drop(idle);
        let table = all.table();
        assert_eq!((table.open, table.ending, table.waiting.len()), (1, 0, 0));
        drop(table);
    }

    #[tokio::test]
    async fn when_all_are_at_work_a_newcomer_waits_for_one_to_leave() {
        let (all, patience) = (Connections::new(1), Duration::from_secs(10));
        let only = all.enter(patience).await;
        only.works();
        let newcomer = all.enter(patience);
        tokio::pin!(newcomer);
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut newcomer).await.is_err());
        drop(only);
        newcomer.await;
    }
}
