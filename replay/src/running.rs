//! A job at work: its sinks side by side, the collections of each one after the other; what it says of itself, and how it
//! obeys what is asked of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use primal_core::{Env, Offset, Partition};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::board::{Claim, Wish};
use crate::jobs::{Part, State};
use crate::scan::{IsAway, Scan, Scans, Seat};
use crate::shadow::Rebuilt;
use crate::{Mode, Progress, Replay, ReplayError, Request, Window};

/// How often a job looks what is asked of it.
const LOOK: Duration = Duration::from_millis(400);
/// How often it says how far it is.
const SAY: Duration = Duration::from_secs(1);
/// Over how long the rate is measured.
const LATELY: Duration = Duration::from_secs(10);

/// What came of one part.
pub type Ended = Result<Rebuilt, ReplayError>;

/// Who is told how a job goes.
pub trait Audience: Send + Sync {
    /// Who is told of the progress of a part.
    fn progress(&self, part: &Part) -> Arc<dyn Progress>;
    /// A part has ended.
    fn ended(&self, part: &Part, ended: &Ended);
    /// Something that a person may want to know.
    fn say(&self, text: &str);
}

/// One sink and what is to be done there; the numbers are those of the job's parts.
pub struct Lane {
    /// Replays into the sink.
    pub replay: Arc<Replay>,
    /// One after the other.
    pub requests: Vec<(usize, Request)>,
}

/// What all lanes share.
#[derive(Clone)]
struct Course(Arc<Mutex<Vec<Pace>>>);

/// A part, who does it, and how fast it was.
struct Pace {
    part: Part,
    replay: Option<Arc<Replay>>,
    lately: Vec<(Instant, u64)>,
}

impl Course {
    fn lock(&self) -> MutexGuard<'_, Vec<Pace>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Pace)) {
        if let Some(pace) = self.lock().get_mut(index) {
            change(pace);
        }
    }

    fn part(&self, index: usize) -> Part {
        self.lock().get(index).map(|pace| pace.part.clone()).unwrap_or_default()
    }

    fn pause(&self, paused: bool) {
        self.lock().iter().filter_map(|pace| pace.replay.as_ref()).for_each(|replay| replay.pause(paused));
    }

    /// The parts as they are now, with their rates, and with what those at work wait for.
    fn parts(&self) -> Vec<Part> {
        let now = Instant::now();
        let measure = |pace: &mut Pace| {
            pace.lately.retain(|(at, _)| now.duration_since(*at) <= LATELY);
            pace.lately.push((now, pace.part.done));
            let (part, first) = (&mut pace.part, pace.lately.first().copied().unwrap_or((now, 0)));
            let seconds = now.duration_since(first.0).as_secs_f64();
            part.rate = if seconds > 0.0 { part.done.saturating_sub(first.1) as f64 / seconds } else { 0.0 };
            let left = part.total.saturating_sub(part.done) as f64;
            if part.state == State::Running {
                part.error = pace.replay.as_ref().and_then(|replay| replay.trouble());
            }
            let known = part.state == State::Running && part.total > 0 && part.rate > 0.0;
            part.eta_s = known.then(|| (left / part.rate).ceil() as u64);
            part.clone()
        };
        self.lock().iter_mut().map(measure).collect()
    }
}

/// Notes the progress of a part, and passes it on.
struct Noted {
    course: Course,
    index: usize,
    inner: Arc<dyn Progress>,
}

impl Progress for Noted {
    fn begin(&self, phase: &str, total: u64) {
        self.course.change(self.index, |pace| {
            phase.clone_into(&mut pace.part.phase);
            (pace.part.done, pace.part.total) = (0, total);
            pace.lately = vec![(Instant::now(), 0)];
        });
        self.inner.begin(phase, total);
    }

    fn advance(&self, events: u64) {
        self.course.change(self.index, |pace| pace.part.done += events);
        self.inner.advance(events);
    }

    fn skip(&self, events: u64) {
        self.course.change(self.index, |pace| {
            pace.part.done += events;
            pace.lately = vec![(Instant::now(), pace.part.done)];
        });
        self.inner.skip(events);
    }

    fn reached(&self, partition: Partition, offset: Offset) {
        self.course.change(self.index, |pace| {
            pace.part.reached.insert(partition, offset);
        });
    }
}

/// Does what the lanes say, until it is done, fails, or is told to end. Parts that were done before are left out.
///
/// # Errors
/// The first part that failed, after all have ended.
pub async fn run(
    mut claim: Claim,
    lanes: Vec<Lane>,
    env: &Env,
    cancel: &CancellationToken,
    audience: Arc<dyn Audience>,
) -> Result<(), ReplayError> {
    let of_parts =
        |lane: &Lane| lane.requests.iter().map(|(index, _)| (*index, lane.replay.clone())).collect::<Vec<_>>();
    let replays: BTreeMap<usize, Arc<Replay>> = lanes.iter().flat_map(of_parts).collect();
    let pace = |(index, part): (usize, &Part)| {
        let replay = replays.get(&index).cloned();
        Pace { part: part.clone(), replay, lately: Vec::new() }
    };
    let course = Course(Arc::new(Mutex::new(claim.parts().iter().enumerate().map(pace).collect())));
    let window = claim.window();
    let is_closed = || window.is_some_and(|window| !window.is_open(env.now()));
    let (lanes, scans) = together(lanes, &course);
    let mut still =
        Still { course: course.clone(), window, is_paused: false, is_closed: false, audience: audience.clone() };
    still.set(false, is_closed());
    let (sender, mut ended) = mpsc::unbounded_channel();
    let mut running = JoinSet::new();
    for (number, lane) in lanes.into_iter().enumerate() {
        let seat = scans.seat(number);
        running.spawn(follow(lane, seat, course.clone(), env.clone(), audience.clone(), sender.clone()));
    }
    drop(sender);
    let (mut state, mut failed, mut said) = (State::Running, None, Instant::now());
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            one = ended.recv() => match one {
                Some((index, one)) => {
                    audience.ended(&course.part(index), &one);
                    failed = failed.or(one.err());
                }
                None => break,
            },
            _ = look.tick() => {
                let before = state;
                match claim.wish().await {
                    Ok(wish) => state = obey(wish, state, cancel, &claim, &*audience),
                    Err(error @ ReplayError::Taken(_)) => {
                        failed = failed.or(Some(error));
                        cancel.cancel();
                    }
                    Err(error) => tracing::debug!(%error, "what is asked of the job cannot be read"),
                }
                still.set(state == State::Paused, is_closed());
                if state != before || said.elapsed() >= SAY {
                    let shown = if state == State::Cancelled { State::Running } else { state };
                    if let Err(error) = claim.beat(shown, course.parts()).await {
                        tracing::debug!(%error, "the progress of the job cannot be written");
                    }
                    said = Instant::now();
                }
            }
        }
    }
    let last = match &failed {
        None => State::Done,
        Some(_) if state == State::Cancelled => State::Cancelled,
        Some(ReplayError::Interrupted(_)) => State::Interrupted,
        Some(_) => State::Failed,
    };
    claim.beat(last, course.parts()).await?;
    match failed {
        Some(ReplayError::Interrupted(_)) if last == State::Cancelled => Err(ReplayError::Interrupted(format!(
            "{} was cancelled; what it built stays until `replay gc`, and the same command goes on with it",
            claim.id()
        ))),
        Some(ReplayError::Interrupted(why)) => {
            Err(ReplayError::Interrupted(format!("{why}; so does `replay resume {}`", claim.id())))
        }
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// The lanes, with what is left to be done there in one order for all, and the scans that they share.
fn together(mut lanes: Vec<Lane>, course: &Course) -> (Vec<Lane>, Arc<Scans>) {
    let requests = lanes.iter().flat_map(|lane| &lane.requests);
    let mut ranks = BTreeMap::new();
    for (rank, (_, request)) in requests.enumerate() {
        ranks.entry(request.feed.collection.clone()).or_insert(rank);
    }
    for lane in &mut lanes {
        lane.requests.retain(|(index, _)| !course.part(*index).is_over());
        // They wait for each other, so none may be at a collection that another comes to later.
        lane.requests.sort_by_key(|(_, request)| ranks.get(&request.feed.collection).copied());
    }
    let scans = Scans::new(lanes.iter().map(|lane| {
        let replay = lane.replay.clone();
        let topics = lane.requests.iter().map(|(_, request)| request.feed.collection.topic()).collect();
        (Box::new(move || replay.trouble().is_some()) as IsAway, topics)
    }));
    (lanes, scans)
}

/// Whether the replays stand still, and why.
struct Still {
    course: Course,
    window: Option<Window>,
    /// Because that was asked.
    is_paused: bool,
    /// Because it is not their time of day.
    is_closed: bool,
    audience: Arc<dyn Audience>,
}

impl Still {
    fn set(&mut self, is_paused: bool, is_closed: bool) {
        if let Some(window) = self.window.filter(|_| is_closed != self.is_closed) {
            self.audience.say(&match is_closed {
                true => format!("it is not {window} UTC; nothing is written until {}", window.opens()),
                false => format!("it is {window} UTC; writing"),
            });
        }
        (self.is_paused, self.is_closed) = (is_paused, is_closed);
        self.course.pause(is_paused || is_closed);
    }
}

fn obey(wish: Option<Wish>, state: State, cancel: &CancellationToken, claim: &Claim, audience: &dyn Audience) -> State {
    match (wish, state) {
        (Some(Wish::Pause), State::Running) => {
            audience.say(&format!("{} stands still; `replay resume {}` lets it go on", claim.id(), claim.id()));
            State::Paused
        }
        (Some(Wish::Run), State::Paused) => {
            audience.say(&format!("{} goes on", claim.id()));
            State::Running
        }
        (Some(Wish::Cancel), State::Running | State::Paused) => {
            cancel.cancel();
            State::Cancelled
        }
        _ => state,
    }
}

async fn follow(
    lane: Lane,
    seat: Arc<Seat>,
    course: Course,
    env: Env,
    audience: Arc<dyn Audience>,
    sender: mpsc::UnboundedSender<(usize, Ended)>,
) {
    for (index, request) in lane.requests {
        let part = course.part(index);
        let progress = Arc::new(Noted { course: course.clone(), index, inner: audience.progress(&part) });
        course.change(index, |pace| pace.part.state = State::Running);
        let ended = one(&lane.replay, &seat.scan(&lane.replay.log), &request, &part, &course, index, progress).await;
        seat.leave(&request.feed.collection.topic());
        course.change(index, |pace| {
            let part = &mut pace.part;
            part.ended = Some(env.now().0);
            (part.state, part.error) = match &ended {
                Ok(_) => (State::Done, None),
                Err(ReplayError::Interrupted(_)) => (State::Interrupted, None),
                Err(error) => (State::Failed, Some(error.to_string())),
            };
        });
        let failed = ended.is_err();
        // Nobody listens any more only where the process is ending.
        let _ = sender.send((index, ended));
        if failed {
            return;
        }
    }
}

async fn one(
    replay: &Replay,
    scan: &Scan,
    request: &Request,
    part: &Part,
    course: &Course,
    index: usize,
    progress: Arc<dyn Progress>,
) -> Ended {
    // Between the plan that was shown and the claim another job may have come to its end.
    let mut plan = replay.plan(request).await?;
    if plan.mode == Mode::Repair && !part.ranges.is_empty() {
        plan.go_on(part.ranges.clone(), part.reached.clone());
    }
    course.change(index, |pace| {
        pace.part.place.clone_from(&plan.place);
        if plan.mode == Mode::Repair {
            pace.part.ranges.clone_from(&plan.ranges);
        }
    });
    replay.execute_in(scan, request, &plan, progress).await
}
