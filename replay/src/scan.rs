//! A shared scan: the sinks of one job read a collection side by side, and the log is read once for all of them.
//!
//! Whoever is ahead fetches, and what was fetched stays in memory until the last of them has written it. No more is kept
//! than twice what one of them may take at a time, so the quick wait for the slow. One whose store is away holds the others
//! up for a while; then it is left behind and reads for itself, from where it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use primal_core::error::LogError;
use primal_core::log::{EventLog, Limits, PartitionReader, TopicPartition};
use primal_core::{Offset, Partition, Records, Topic};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long the others wait for one whose store is away.
const GRACE: Duration = Duration::from_secs(10);
/// How often those who wait look whether a store is away.
const LOOK: Duration = Duration::from_millis(100);

/// Where a replay reads the log: by itself, or together with others.
#[derive(Clone)]
pub(crate) struct Scan {
    log: Arc<dyn EventLog>,
    shared: Option<Arc<Seat>>,
}

impl Scan {
    /// By itself.
    pub(crate) fn alone(log: &Arc<dyn EventLog>) -> Self {
        Scan { log: log.clone(), shared: None }
    }

    /// Reads a range of a partition; `None` where there is nothing in it.
    ///
    /// What a reader has given counts as written when the next is fetched; one that is dropped before its end is waited for,
    /// as its store may only be away.
    pub(crate) async fn read(
        &self,
        topic: &Topic,
        partition: Partition,
        range: Range<Offset>,
    ) -> Result<Option<Box<dyn PartitionReader>>, LogError> {
        let stream =
            self.shared.as_ref().and_then(|seat| Some((seat, seat.scans.stream(seat.lane, topic, partition)?)));
        match stream {
            Some((seat, stream)) if range.is_empty() => {
                stream.leave(seat.lane);
                Ok(None)
            }
            None if range.is_empty() => Ok(None),
            Some((seat, stream)) if stream.join(seat.lane, &range) => {
                let (log, seat) = (self.log.clone(), seat.clone());
                let Range { start: next, end: to } = range;
                Ok(Some(Box::new(Shared { log, seat, stream, next, to, alone: None })))
            }
            _ => self.log.read(topic, partition, range).await.map(Some),
        }
    }
}

/// Says whether a lane stands still because its store or the log is away.
pub(crate) type IsAway = Box<dyn Fn() -> bool + Send + Sync>;

/// The shared scans of a job.
pub(crate) struct Scans {
    /// By the numbers of the lanes.
    away: Vec<IsAway>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Which lanes read a topic, or will.
    lanes: BTreeMap<Topic, BTreeSet<usize>>,
    streams: BTreeMap<TopicPartition, Arc<Stream>>,
}

impl Scans {
    /// Of lanes that will read these topics, all of them in one order.
    pub(crate) fn new(lanes: impl IntoIterator<Item = (IsAway, Vec<Topic>)>) -> Arc<Self> {
        let (mut state, mut away) = (State::default(), Vec::new());
        for (lane, (is_away, topics)) in lanes.into_iter().enumerate() {
            away.push(is_away);
            for topic in topics {
                state.lanes.entry(topic).or_default().insert(lane);
            }
        }
        Arc::new(Scans { away, state: Mutex::new(state) })
    }

    /// The place of a lane, until it is dropped.
    pub(crate) fn seat(self: &Arc<Self>, lane: usize) -> Arc<Seat> {
        Arc::new(Seat { scans: self.clone(), lane })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream of a partition; `None` where no other lane reads the topic any more.
    fn stream(&self, lane: usize, topic: &Topic, partition: Partition) -> Option<Arc<Stream>> {
        let mut state = self.lock();
        let place = TopicPartition { topic: topic.clone(), partition };
        if let Some(stream) = state.streams.get(&place) {
            return Some(stream.clone());
        }
        let lanes = state.lanes.get(topic).filter(|lanes| lanes.len() > 1 && lanes.contains(&lane))?;
        let stream = Arc::new(Stream::new(place.clone(), lanes));
        state.streams.insert(place, stream.clone());
        Some(stream)
    }

    /// A lane reads a topic no more.
    fn leave(&self, lane: usize, topic: &Topic) {
        let mut state = self.lock();
        if let Some(lanes) = state.lanes.get_mut(topic) {
            lanes.remove(&lane);
        }
        let streams = state.streams.iter().filter(|(place, _)| place.topic == *topic);
        streams.for_each(|(_, stream)| stream.leave(lane));
    }

    fn leave_all(&self, lane: usize) {
        let topics: Vec<Topic> = self.lock().lanes.keys().cloned().collect();
        topics.iter().for_each(|topic| self.leave(lane, topic));
    }

    fn is_away(&self, lane: usize) -> bool {
        self.away.get(lane).is_some_and(|is_away| is_away())
    }
}

/// The place of a lane in the scans of its job. Nobody waits for it once it is dropped.
pub(crate) struct Seat {
    scans: Arc<Scans>,
    lane: usize,
}

impl Seat {
    /// Where the lane reads.
    pub(crate) fn scan(self: &Arc<Self>, log: &Arc<dyn EventLog>) -> Scan {
        Scan { log: log.clone(), shared: Some(self.clone()) }
    }

    /// The lane reads a topic no more.
    pub(crate) fn leave(&self, topic: &Topic) {
        self.scans.leave(self.lane, topic);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.scans.leave_all(self.lane);
    }
}

/// One partition, read once for all.
struct Stream {
    place: TopicPartition,
    /// Whoever holds it fetches.
    source: tokio::sync::Mutex<Option<Box<dyn PartitionReader>>>,
    flow: Mutex<Flow>,
    /// Somebody came, went on, or left.
    moved: Notify,
}

struct Flow {
    parties: BTreeMap<usize, Party>,
    chunks: VecDeque<Arc<Chunk>>,
    bytes: usize,
    /// Where the log is read on; `None` before all have come.
    front: Option<Offset>,
}

/// What one fetch brought.
struct Chunk {
    to: Offset,
    records: Records,
}

/// Somebody who reads along.
struct Party {
    /// What is before has been written; `None`: is yet to come.
    held: Option<Offset>,
    to: Offset,
    /// Since when its store has been seen to be away.
    away: Option<Instant>,
}

/// What a reader has to do.
enum Step {
    Take(Vec<Arc<Chunk>>),
    Fetch,
    Wait,
    /// It was left behind.
    Alone,
}

impl Flow {
    /// Drops what all have written.
    fn trim(&mut self) {
        let last = self.parties.values().map(|party| party.held).min().unwrap_or(Some(Offset::MAX));
        let Some(last) = last else { return };
        while let Some(chunk) = self.chunks.pop_front_if(|chunk| chunk.to <= last) {
            self.bytes -= chunk.records.bytes();
        }
    }
}

impl Stream {
    fn new(place: TopicPartition, lanes: &BTreeSet<usize>) -> Self {
        let party = |lane: &usize| (*lane, Party { held: None, to: 0, away: None });
        let parties = lanes.iter().map(party).collect();
        let flow = Flow { parties, chunks: VecDeque::new(), bytes: 0, front: None };
        Stream { place, source: tokio::sync::Mutex::default(), flow: Mutex::new(flow), moved: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a lane that wants this range can read along.
    fn join(&self, lane: usize, range: &Range<Offset>) -> bool {
        let mut flow = self.lock();
        let Some(party) = flow.parties.get_mut(&lane) else { return false };
        // Whoever comes again finds what it has not written.
        let is_here = party.held.is_none_or(|held| held <= range.start);
        if is_here {
            (party.held, party.to) = (Some(range.start), range.end);
        } else {
            flow.parties.remove(&lane);
        }
        flow.trim();
        self.moved.notify_waiters();
        is_here
    }

    /// Nobody waits for a lane any more.
    fn leave(&self, lane: usize) {
        let mut flow = self.lock();
        flow.parties.remove(&lane);
        flow.trim();
        self.moved.notify_waiters();
    }

    /// What a lane does that has written everything before an offset.
    fn step(&self, seat: &Seat, next: Offset, room: usize) -> Step {
        let lane = seat.lane;
        let mut flow = self.lock();
        let Some(party) = flow.parties.get_mut(&lane) else { return Step::Alone };
        if party.held != Some(next) {
            (party.held, party.away) = (Some(next), None);
            flow.trim();
            self.moved.notify_waiters();
        }
        let chunks: Vec<_> = flow.chunks.iter().filter(|chunk| chunk.to > next).cloned().collect();
        if !chunks.is_empty() {
            return Step::Take(chunks);
        }
        let (front, is_full) = (flow.front, flow.bytes >= room);
        // Those that are yet to come, and, where there is no more room, those behind.
        let is_late = |party: &Party| match party.held {
            None => true,
            Some(held) => is_full && front.is_some_and(|front| held < front),
        };
        let mut is_awaited = false;
        flow.parties.retain(|other, party| {
            if *other == lane || !is_late(party) {
                return true;
            }
            party.away = seat.scans.is_away(*other).then(|| party.away.unwrap_or_else(Instant::now));
            let is_left = party.away.is_some_and(|since| since.elapsed() >= GRACE);
            is_awaited |= !is_left;
            !is_left
        });
        flow.trim();
        if is_awaited { Step::Wait } else { Step::Fetch }
    }

    /// Fetches what comes next, unless somebody else has done so meanwhile.
    async fn fetch(&self, log: &dyn EventLog, next: Offset, limits: Limits) -> Result<(), LogError> {
        let mut source = self.source.lock().await;
        let (front, end) = {
            let flow = self.lock();
            let end = flow.parties.values().map(|party| party.to).max().unwrap_or(next);
            let first = flow.parties.values().filter_map(|party| party.held).min();
            (flow.front.or(first).unwrap_or(next), end)
        };
        if front > next {
            return Ok(());
        }
        let opened = match &mut *source {
            Some(opened) => opened,
            None => source.insert(log.read(&self.place.topic, self.place.partition, front..end).await?),
        };
        let mut records = Records::new();
        let fetched = opened.fetch(&mut records, limits).await;
        if !matches!(fetched, Ok(true)) {
            *source = None;
        }
        let to = if fetched? { records.next_offset().unwrap_or(front) } else { end };
        let mut flow = self.lock();
        flow.front = Some(to);
        flow.bytes += records.bytes();
        flow.chunks.push_back(Arc::new(Chunk { to, records }));
        self.moved.notify_waiters();
        Ok(())
    }
}

/// A lane's reader of a stream.
struct Shared {
    log: Arc<dyn EventLog>,
    seat: Arc<Seat>,
    stream: Arc<Stream>,
    next: Offset,
    to: Offset,
    alone: Option<Box<dyn PartitionReader>>,
}

#[async_trait]
impl PartitionReader for Shared {
    async fn fetch(&mut self, into: &mut Records, limits: Limits) -> Result<bool, LogError> {
        let Shared { log, seat, stream, .. } = self;
        while self.alone.is_none() {
            if self.next >= self.to {
                stream.leave(seat.lane);
                return Ok(false);
            }
            let moved = stream.moved.notified();
            match stream.step(seat, self.next, 2 * limits.bytes) {
                Step::Take(chunks) => {
                    self.next = take(&chunks, self.next..self.to, into, limits);
                    if !into.is_empty() {
                        return Ok(true);
                    }
                }
                Step::Fetch => stream.fetch(&**log, self.next, limits).await?,
                // Whether it moved or it is time to look again makes no difference.
                Step::Wait => drop(tokio::time::timeout(LOOK, moved).await),
                Step::Alone => {
                    let TopicPartition { topic, partition } = &stream.place;
                    tracing::info!(%topic, partition, offset = self.next, "left behind by the other sinks; reads the log alone");
                    self.alone = Some(log.read(topic, *partition, self.next..self.to).await?);
                }
            }
        }
        match &mut self.alone {
            Some(alone) => alone.fetch(into, limits).await,
            None => Ok(false),
        }
    }
}

/// Copies records of a range up to the limits; the offset after them.
fn take(chunks: &[Arc<Chunk>], range: Range<Offset>, into: &mut Records, limits: Limits) -> Offset {
    let mut next = range.start;
    for chunk in chunks {
        for record in chunk.records.iter().skip_while(|record| record.offset < range.start) {
            if record.offset >= range.end || limits.reached(into) {
                return next;
            }
            let block = record.headers.block();
            into.push(record.offset, record.recorded, record.key, record.value, |b| b.extend_from_slice(block));
            next = record.offset + 1;
        }
        next = next.max(chunk.to).min(range.end);
        into.advance_to(next);
    }
    next
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use primal_core::error::AppendError;
    use primal_core::log::{Appended, Extent, Member, Subscription, TopicSpec};
    use primal_core::record::NewRecord;
    use primal_core::{Collection, Timestamp};

    use super::*;

    /// A partition with a record at every offset, and how many of them were read.
    #[derive(Default)]
    struct Endless(Arc<AtomicU64>);

    struct Counting {
        next: Offset,
        to: Offset,
        read: Arc<AtomicU64>,
    }

    #[async_trait]
    impl PartitionReader for Counting {
        async fn fetch(&mut self, into: &mut Records, limits: Limits) -> Result<bool, LogError> {
            tokio::task::yield_now().await;
            while self.next < self.to && !limits.reached(into) {
                into.push(self.next, Timestamp(self.next), Some(b"key"), Some(&[0; 100]), |_| {});
                self.read.fetch_add(1, Ordering::Relaxed);
                self.next += 1;
            }
            Ok(!into.is_empty())
        }
    }

    fn none<T>() -> Result<T, LogError> {
        Err(LogError::Internal("only for reading".to_owned()))
    }

    #[async_trait]
    impl EventLog for Endless {
        async fn create(&self, _: &Topic, _: TopicSpec) -> Result<(), LogError> {
            none()
        }
        async fn extents(&self, _: &Topic) -> Result<Option<Vec<Extent>>, LogError> {
            none()
        }
        async fn append(&self, _: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError> {
            Ok(Vec::new())
        }
        async fn offsets_at(&self, _: &Topic, _: Timestamp) -> Result<Vec<Offset>, LogError> {
            none()
        }
        async fn subscribe(&self, _: &Member, _: &[Topic]) -> Result<Box<dyn Subscription>, LogError> {
            none()
        }
        async fn read(
            &self,
            _: &Topic,
            _: Partition,
            range: Range<Offset>,
        ) -> Result<Box<dyn PartitionReader>, LogError> {
            Ok(Box::new(Counting { next: range.start, to: range.end, read: self.0.clone() }))
        }
    }

    const LIMITS: Limits = Limits { records: 100, bytes: 10_000 };

    struct World {
        log: Arc<dyn EventLog>,
        count: Arc<AtomicU64>,
        scans: Arc<Scans>,
        /// Whether the store of lane 0 is away.
        is_away: Arc<AtomicBool>,
        topic: Topic,
    }

    impl World {
        fn new(lanes: usize) -> Self {
            let log = Endless::default();
            let (count, is_away) = (log.0.clone(), Arc::new(AtomicBool::new(false)));
            let topic = Collection::new("things").unwrap().topic();
            let lane = |number| {
                let is_away = is_away.clone();
                let is_away: IsAway = Box::new(move || number == 0 && is_away.load(Ordering::Relaxed));
                (is_away, vec![topic.clone()])
            };
            let scans = Scans::new((0..lanes).map(lane));
            World { log: Arc::new(log), count, scans, is_away, topic: topic.clone() }
        }

        async fn reader(&self, seat: &Arc<Seat>, range: Range<Offset>) -> Box<dyn PartitionReader> {
            seat.scan(&self.log).read(&self.topic, 0, range).await.unwrap().unwrap()
        }

        fn read(&self) -> u64 {
            self.count.load(Ordering::Relaxed)
        }
    }

    /// The offsets that a reader gives, until its end or for a while.
    async fn all(reader: &mut Box<dyn PartitionReader>, limits: Limits) -> Vec<Offset> {
        let (mut records, mut offsets) = (Records::new(), Vec::new());
        let reading = async {
            while reader.fetch(&mut records, limits).await.unwrap() {
                assert!(records.len() <= limits.records);
                offsets.extend(records.iter().map(|record| record.offset));
                records.clear();
            }
        };
        let _ = tokio::time::timeout(GRACE / 2, reading).await;
        offsets
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_is_read_once_for_all() {
        let world = World::new(3);
        let seats: Vec<_> = (0..3).map(|lane| world.scans.seat(lane)).collect();
        // One begins later, one ends earlier, and each takes another number at a time.
        let (mut one, mut two, mut three) = (
            world.reader(&seats[0], 0..10_000).await,
            world.reader(&seats[1], 2_500..10_000).await,
            world.reader(&seats[2], 0..7_777).await,
        );
        let small = Limits { records: 7, ..LIMITS };
        let read = tokio::join!(all(&mut one, LIMITS), all(&mut two, small), all(&mut three, LIMITS));
        let whole = |range: Range<Offset>| range.collect::<Vec<_>>();
        assert_eq!(read, (whole(0..10_000), whole(2_500..10_000), whole(0..7_777)));
        assert_eq!(world.read(), 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_quick_wait_for_the_slow_and_for_those_to_come() {
        let world = World::new(2);
        let (quick, slow) = (world.scans.seat(0), world.scans.seat(1));
        let mut ahead = world.reader(&quick, 0..5_000).await;
        assert_eq!((all(&mut ahead, LIMITS).await.len(), world.read()), (0, 0));
        let mut behind = world.reader(&slow, 0..5_000).await;
        let mut records = Records::new();
        assert!(behind.fetch(&mut records, LIMITS).await.unwrap());
        let room = 3 * LIMITS.records;
        let got = all(&mut ahead, LIMITS).await.len();
        assert!((LIMITS.records..=room).contains(&got), "{got}");
        // Nobody waits for one that has ended.
        drop((behind, slow));
        assert_eq!(got + all(&mut ahead, LIMITS).await.len(), 5_000);
        assert_eq!(world.read(), 5_000);
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_store_is_away_is_left_behind_and_goes_on_alone() {
        let world = World::new(2);
        let (away, well) = (world.scans.seat(0), world.scans.seat(1));
        let (mut behind, mut ahead) = (world.reader(&away, 0..5_000).await, world.reader(&well, 0..5_000).await);
        let mut records = Records::new();
        assert!(behind.fetch(&mut records, LIMITS).await.unwrap());
        world.is_away.store(true, Ordering::Relaxed);
        let mut got = all(&mut ahead, LIMITS).await.len();
        assert!(got < 1_000, "{got} without waiting");
        while got < 5_000 {
            tokio::time::sleep(GRACE / 2).await;
            got += all(&mut ahead, LIMITS).await.len();
        }
        assert_eq!(world.read(), 5_000);
        let first = records.len() as u64;
        assert_eq!(all(&mut behind, LIMITS).await, (first as Offset..5_000).collect::<Vec<_>>());
        assert_eq!(world.read(), 5_000 + 5_000 - first);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_again_soon_finds_what_it_has_not_written() {
        let world = World::new(2);
        let (again, other) = (world.scans.seat(0), world.scans.seat(1));
        let (mut first, mut ahead) = (world.reader(&again, 0..5_000).await, world.reader(&other, 0..5_000).await);
        let mut records = Records::new();
        assert!(first.fetch(&mut records, LIMITS).await.unwrap());
        drop(first);
        all(&mut ahead, LIMITS).await;
        let mut second = world.reader(&again, 0..5_000).await;
        let (read, _) = tokio::join!(all(&mut second, LIMITS), all(&mut ahead, LIMITS));
        assert_eq!((read, world.read()), ((0..5_000).collect(), 5_000));
    }
}
