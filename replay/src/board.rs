//! The table of jobs, kept in the log (the compacted topic `primal.replays`): who has taken which target, how far it is,
//! and what others ask of it. The log decides who comes first: of two claims of one target the lower offset counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use primal_core::keyed;
use primal_core::log::{EventLog, TopicSpec};
use primal_core::nearest::hint;
use primal_core::record::NewRecord;
use primal_core::{Env, LogError, Offset, RecordRef, Timestamp, Topic};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::jobs::{Beat, Head, Here, Job, Part, Spec, State};
use crate::{Mode, ReplayError, Window};

/// A job that has not said anything for this long is taken as dead.
pub(crate) const SILENT: Duration = Duration::from_secs(10);

/// What is asked of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Go on.
    Run,
    /// Stand still.
    Pause,
    /// End.
    Cancel,
}

/// What the log says of one job.
#[derive(Clone, Default)]
struct Row {
    /// Where it was taken, oldest first.
    heads: Vec<(Offset, Head)>,
    beats: BTreeMap<String, Beat>,
    wish: Option<Wish>,
}

impl Row {
    fn latest(&self) -> Option<(&Head, &Beat)> {
        // Whoever lost a race for a job has taken it last, but says nothing.
        let newest = |(_, head): &&(Offset, Head)| self.beats.get(&head.holder).map_or(0, |beat| beat.at);
        let head = &self.heads.iter().max_by_key(newest)?.1;
        Some((head, self.beats.get(&head.holder)?))
    }
}

/// All jobs, as far as the log was read.
pub struct Board {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) env: Env,
    here: Here,
    next: Offset,
    rows: BTreeMap<String, Row>,
}

/// A job that this process has taken.
pub struct Claim {
    board: Board,
    id: String,
    holder: String,
    parts: Vec<Part>,
    window: Option<Window>,
    heard: i64,
    /// Whether an earlier run had begun it.
    pub resumes: bool,
}

impl Board {
    /// Reads the jobs.
    ///
    /// # Errors
    /// The log's.
    pub async fn open(log: Arc<dyn EventLog>, env: Env, here: Here) -> Result<Self, LogError> {
        let mut board = Board { log, env, here, next: 0, rows: BTreeMap::new() };
        board.refresh().await?;
        Ok(board)
    }

    /// Reads what came since.
    ///
    /// # Errors
    /// The log's.
    pub async fn refresh(&mut self) -> Result<(), LogError> {
        let rows = &mut self.rows;
        let take = |record: RecordRef<'_>| {
            let key = String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned();
            if let Some((id, what)) = key.split_once('/') {
                take(rows, record.offset, id, what, record.value);
            }
        };
        let end = keyed::follow(&*self.log, &Topic::replays(), self.next, take).await?;
        self.next = end.unwrap_or(self.next);
        Ok(())
    }

    /// All jobs, those begun last first.
    pub fn jobs(&self) -> Vec<Job> {
        let mut jobs: Vec<Job> = self.rows.iter().filter_map(|(id, row)| self.job(id, row)).collect();
        jobs.sort_by(|a, b| b.started.cmp(&a.started).then(a.id.cmp(&b.id)));
        jobs
    }

    /// A job by its id, or by the beginning of it.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn find(&self, id: &str) -> Result<Job, ReplayError> {
        let jobs = self.jobs();
        let mut found = jobs.iter().filter(|job| job.id.starts_with(id) && !id.is_empty());
        match (found.next(), found.next()) {
            (Some(job), None) => Ok(job.clone()),
            (Some(one), Some(other)) => Err(ReplayError::Usage(format!(
                "{id:?} is the beginning of {} and of {}; give more of it",
                one.id, other.id
            ))),
            (None, _) => {
                let ids: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
                let close = hint(id, ids.iter().copied().take(10));
                Err(ReplayError::Usage(format!("there is no replay {id:?}{close}; `replay list` shows all")))
            }
        }
    }

    fn job(&self, id: &str, row: &Row) -> Option<Job> {
        let (head, beat) = row.latest()?;
        let dead = beat.state.is_live() && !self.is_alive(head, beat);
        Some(Job {
            id: id.to_owned(),
            state: if dead { State::Dead } else { beat.state },
            said: beat.state,
            host: head.here.host.clone(),
            pid: head.here.pid,
            started: Timestamp(head.started),
            heard: Timestamp(beat.at),
            spec: head.spec.clone(),
            parts: beat.parts.clone(),
        })
    }

    fn is_alive(&self, head: &Head, beat: &Beat) -> bool {
        beat.state.is_live() && self.env.now().since(Timestamp(beat.at)) < SILENT && !self.here.knows_gone(&head.here)
    }

    /// The first living claim of another process to one of these targets, among those taken before `before`.
    fn rival(&self, parts: &[Part], holder: &str, before: Offset) -> Option<(Job, String)> {
        for (id, row) in &self.rows {
            for (offset, head) in &row.heads {
                let Some(beat) = row.beats.get(&head.holder) else { continue };
                if head.holder == holder || *offset >= before || !self.is_alive(head, beat) {
                    continue;
                }
                let open = beat.parts.iter().filter(|part| !part.is_over());
                let mut shared = open.filter(|open| parts.iter().any(|part| part.target() == open.target()));
                if let Some(part) = shared.next() {
                    return Some((self.job(id, row)?, format!("{} into {}", part.target().1, part.sink)));
                }
            }
        }
        None
    }

    fn refused((job, target): (Job, String)) -> ReplayError {
        ReplayError::Taken(format!(
            "{target} is being replayed by {} ({}, begun {}, pid {} on {}); `replay status {}` shows it, `replay cancel {}` \
             ends it",
            job.id,
            job.state.as_str(),
            job.started,
            job.pid,
            job.host,
            job.id,
            job.id
        ))
    }

    /// Takes the targets of a job: a new one, or one that was begun by the same command and has no process any more.
    ///
    /// # Errors
    /// Another process is at one of them.
    pub async fn claim(mut self, spec: &Spec, parts: Vec<Part>, anew: bool) -> Result<Claim, ReplayError> {
        self.refresh().await?;
        let digest = spec.digest();
        let same = |job: &Job| {
            let row = self.rows.get(&job.id).and_then(Row::latest);
            job.is_resumable() && row.is_some_and(|(head, _)| head.digest == digest)
        };
        let earlier = if anew { None } else { self.jobs().into_iter().find(same) };
        self.hold(spec, parts, earlier).await
    }

    /// Takes a job that has no process any more.
    ///
    /// # Errors
    /// Another process is at it.
    pub async fn claim_again(self, job: Job, parts: Vec<Part>) -> Result<Claim, ReplayError> {
        let spec = job.spec.clone();
        self.hold(&spec, parts, Some(job)).await
    }

    async fn hold(mut self, spec: &Spec, mut parts: Vec<Part>, earlier: Option<Job>) -> Result<Claim, ReplayError> {
        if let Some(rival) = self.rival(&parts, "", Offset::MAX) {
            return Err(Board::refused(rival));
        }
        let random = |env: &Env| env.random.next_u64() as u32;
        let (id, holder) = (format!("{:08x}", random(&self.env)), format!("{:08x}", random(&self.env)));
        let mut head = Head {
            holder: holder.clone(),
            here: self.here.clone(),
            started: self.env.now().0,
            spec: spec.recorded(),
            digest: spec.digest(),
        };
        let id = match &earlier {
            None => id,
            Some(job) => {
                head.started = job.started.0;
                for part in &mut parts {
                    let same = |old: &&Part| old.target() == part.target();
                    if let Some(old) = job.parts.iter().find(same) {
                        let state = if old.is_over() { State::Done } else { State::Waiting };
                        *part = Part { state, error: None, eta_s: None, rate: 0.0, ..old.clone() };
                    }
                }
                job.id.clone()
            }
        };
        let beat = Beat { holder: holder.clone(), at: self.env.now().0, state: State::Running, parts: parts.clone() };
        let log = self.log.clone();
        log.create(&Topic::replays(), TopicSpec { partitions: 1, compacted: true }).await?;
        let rows =
            vec![row(&id, "job", Some(&head))?, row(&id, "beat", Some(&beat))?, row(&id, "wish", None::<&Wish>)?];
        let taken = log.append(rows).await.map_err(|failed| failed.error)?;
        self.refresh().await?;
        let mine = taken.first().map_or(Offset::MAX, |appended| appended.offset);
        if let Some(rival) = self.rival(&parts, &holder, mine) {
            if earlier.is_none() {
                let gone = ["job", "beat"].map(|what| row(&id, what, None::<&Beat>));
                let gone = gone.into_iter().collect::<Result<Vec<_>, _>>()?;
                log.append(gone).await.map_err(|failed| failed.error)?;
            }
            return Err(Board::refused(rival));
        }
        let heard = self.env.now().0;
        Ok(Claim { board: self, id, holder, parts, window: spec.window, heard, resumes: earlier.is_some() })
    }

    /// Asks something of a job.
    ///
    /// # Errors
    /// The log's.
    pub async fn ask(&self, id: &str, wish: Wish) -> Result<(), ReplayError> {
        let rows = vec![row(id, "wish", Some(&wish))?];
        self.log.append(rows).await.map_err(|failed| failed.error)?;
        Ok(())
    }

    /// Marks a job without a process as cancelled.
    ///
    /// # Errors
    /// The log's.
    pub async fn bury(&self, id: &str) -> Result<(), ReplayError> {
        let Some((_, beat)) = self.rows.get(id).and_then(Row::latest) else { return Ok(()) };
        let beat = Beat { state: State::Cancelled, ..beat.clone() };
        let rows = vec![row(id, "beat", Some(&beat))?];
        self.log.append(rows).await.map_err(|failed| failed.error)?;
        Ok(())
    }

    /// Whether a process is at a target.
    pub fn is_taken(&self, sink: &str, collection: &str) -> bool {
        let part = Part { sink: sink.to_owned(), collection: collection.to_owned(), ..Part::default() };
        self.rival(&[part], "", Offset::MAX).is_some()
    }

    /// When the live generation of a collection was last exchanged, and when a rebuild of it that has not come to its end
    /// was last heard of; as far as there are records.
    pub(crate) fn last(&self, sink: &str, collection: &str) -> (Option<Timestamp>, Option<Timestamp>) {
        let (mut swapped, mut unfinished) = (None, None);
        for job in self.jobs() {
            for part in &job.parts {
                if part.target() != (sink, collection) || matches!(part.mode, Some(Mode::Repair | Mode::Copy)) {
                    continue;
                }
                // A rollback that failed has built nothing.
                if part.mode.is_none() && !part.is_over() {
                    continue;
                }
                match part.ended.filter(|_| part.is_over()) {
                    Some(at) => swapped = swapped.max(Some(Timestamp(at))),
                    None => unfinished = unfinished.max(Some(job.heard)),
                }
            }
        }
        (swapped, unfinished)
    }
}

impl Claim {
    /// The job's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The time of day in which it writes, where one was given.
    pub(crate) fn window(&self) -> Option<Window> {
        self.window
    }

    /// The parts, as far as they were before.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Says how far it is.
    pub(crate) async fn beat(&mut self, state: State, parts: Vec<Part>) -> Result<(), ReplayError> {
        let at = self.board.env.now().0;
        let beat = Beat { holder: self.holder.clone(), at, state, parts };
        let rows = vec![row(&self.id, "beat", Some(&beat))?];
        let appended = self.board.log.append(rows).await.map_err(|failed| failed.error)?;
        // Nothing of others came before it, so there is nothing to read.
        if appended.first().is_some_and(|appended| appended.offset == self.board.next) {
            self.board.next += 1;
        }
        if let Some(row) = self.board.rows.get_mut(&self.id) {
            row.beats.insert(self.holder.clone(), beat);
        }
        self.heard = at;
        Ok(())
    }

    /// Does one act of a store under the claim, and writes down how it ended.
    ///
    /// # Errors
    /// The act's, or the log's.
    pub async fn during<T>(mut self, act: impl Future<Output = Result<T, ReplayError>>) -> Result<T, ReplayError> {
        let mut parts = self.parts.clone();
        parts.iter_mut().for_each(|part| part.state = State::Running);
        self.beat(State::Running, parts.clone()).await?;
        let mut act = std::pin::pin!(act);
        let ended = loop {
            tokio::select! {
                ended = &mut act => break ended,
                () = tokio::time::sleep(SILENT / 10) => {
                    if let Err(error) = self.beat(State::Running, parts.clone()).await {
                        tracing::debug!(%error, "the progress of the job cannot be written");
                    }
                }
            }
        };
        let state = if ended.is_ok() { State::Done } else { State::Failed };
        for part in &mut parts {
            part.state = state;
            part.ended = Some(self.board.env.now().0);
            part.error = ended.as_ref().err().map(ToString::to_string);
        }
        self.beat(state, parts).await?;
        ended
    }

    /// What is asked of it, if anything is.
    ///
    /// # Errors
    /// [`ReplayError::Taken`]: it was silent for so long that another process took its place.
    pub(crate) async fn wish(&mut self) -> Result<Option<Wish>, ReplayError> {
        let silent = self.board.env.now().since(Timestamp(self.heard)) >= SILENT;
        self.board.refresh().await?;
        let row = self.board.rows.get(&self.id);
        if silent && let Some(rival) = self.board.rival(&self.parts, &self.holder, Offset::MAX) {
            return Err(Board::refused(rival));
        }
        Ok(row.and_then(|row| row.wish))
    }
}

/// Takes in a record of the board.
fn take(rows: &mut BTreeMap<String, Row>, offset: Offset, id: &str, what: &str, value: Option<&[u8]>) {
    fn read<T: DeserializeOwned>(value: Option<&[u8]>) -> Option<T> {
        serde_json::from_slice(value?).ok()
    }
    let row = rows.entry(id.to_owned()).or_default();
    match what {
        "job" => match read(value) {
            Some(head) => row.heads.push((offset, head)),
            None => {
                rows.remove(id);
            }
        },
        "beat" => {
            if let Some(beat) = read::<Beat>(value) {
                row.beats.insert(beat.holder.clone(), beat);
            }
        }
        "wish" => row.wish = read(value),
        _ => {}
    }
}

pub(crate) fn row<T: Serialize>(id: &str, what: &str, value: Option<&T>) -> Result<NewRecord, ReplayError> {
    let value = value.map(serde_json::to_vec).transpose().map_err(|e| ReplayError::Failed(e.to_string()))?;
    let key = Some(format!("{id}/{what}").into_bytes());
    Ok(NewRecord { topic: Topic::replays(), partition: Some(0), key, value, headers: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use primal_core::Clock;
    use primal_log_embedded::{Config, EmbeddedLog};

    use super::*;

    struct Hand(AtomicI64);

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp(self.0.load(Ordering::Relaxed))
        }
    }

    struct World {
        log: Arc<dyn EventLog>,
        clock: Arc<Hand>,
        _folder: tempfile::TempDir,
    }

    impl World {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let config = Config { path: folder.path().join("log.db") };
            let log = Arc::new(EmbeddedLog::open(config, Env::system()).await.unwrap());
            World { log, clock: Arc::new(Hand(AtomicI64::new(1_000_000_000))), _folder: folder }
        }

        /// A board as a process on another machine sees it.
        async fn board(&self, seed: u64) -> Board {
            let here = Here { host: format!("host-{seed}"), space: format!("space {seed}"), pid: 1 };
            Board::open(self.log.clone(), Env::seeded(self.clock.clone(), seed), here).await.unwrap()
        }

        fn pass(&self, time: Duration) {
            self.clock.0.fetch_add(i64::try_from(time.as_micros()).unwrap(), Ordering::Relaxed);
        }
    }

    fn spec(from: &str) -> Spec {
        Spec { sinks: vec!["pg".to_owned()], from: from.to_owned(), ..Spec::default() }
    }

    fn part(collection: &str) -> Part {
        Part { sink: "pg".to_owned(), collection: collection.to_owned(), mode: Some(Mode::Shadow), ..Part::default() }
    }

    fn refused<T>(result: Result<T, ReplayError>) -> String {
        match result {
            Err(ReplayError::Taken(message)) => message,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it was not refused"),
        }
    }

    #[tokio::test]
    async fn the_second_claim_of_a_target_is_refused_and_names_the_first() {
        let world = World::new().await;
        let first = world.board(1).await.claim(&spec("earliest"), vec![part("a"), part("b")], false).await.unwrap();
        let told = refused(world.board(2).await.claim(&spec("now"), vec![part("b")], false).await);
        assert!(told.starts_with(&format!("b into pg is being replayed by {} (running", first.id())), "{told}");
        assert!(told.contains("pid 1 on host-1"), "{told}");
        world.board(3).await.claim(&spec("now"), vec![part("c")], false).await.unwrap();
        let copy = Part { into: Some("copy".to_owned()), ..part("a") };
        world.board(4).await.claim(&spec("now"), vec![copy], false).await.unwrap();
    }

    #[tokio::test]
    async fn of_two_at_once_the_one_that_the_log_has_first_stays() {
        let world = World::new().await;
        let (early, late) = (world.board(1).await, world.board(2).await);
        let late_view = late.hold(&spec("now"), vec![part("a")], None).await.unwrap();
        // It has not read anything since, so it learns of the other only behind its own claim.
        let told = refused(early.hold(&spec("earliest"), vec![part("a")], None).await);
        assert!(told.contains(late_view.id()), "{told}");
        assert_eq!(world.board(3).await.jobs().len(), 1, "the loser leaves nothing");
    }

    #[tokio::test]
    async fn a_silent_job_is_dead_and_the_same_command_takes_it_up() {
        let world = World::new().await;
        let mut first = world.board(1).await.claim(&spec("earliest"), vec![part("a"), part("b")], false).await.unwrap();
        let done = Part { state: State::Done, ..part("a") };
        first.beat(State::Paused, vec![done, Part { state: State::Running, ..part("b") }]).await.unwrap();
        world.pass(SILENT - Duration::from_secs(1));
        assert_eq!(world.board(2).await.jobs()[0].state, State::Paused);
        world.pass(Duration::from_secs(1));
        let job = world.board(2).await.jobs().remove(0);
        assert_eq!((job.state, job.said), (State::Dead, State::Paused));
        let other = world.board(2).await.claim(&spec("now"), vec![part("c")], false).await.unwrap();
        assert!(!other.resumes && other.id() != first.id());
        let again = world.board(3).await.claim(&spec("earliest"), vec![part("a"), part("b")], false).await.unwrap();
        assert_eq!((again.id(), again.resumes), (first.id(), true));
        assert_eq!(again.parts().iter().map(|part| part.state).collect::<Vec<_>>(), [State::Done, State::Waiting]);
        // The one that was taken as dead wakes up, and is told.
        let told = refused(first.wish().await);
        assert!(told.contains(&format!("replayed by {}", again.id())), "{told}");
        let jobs = world.board(4).await.jobs();
        assert_eq!(jobs.iter().filter(|job| job.state == State::Running).count(), 2);
    }

    #[tokio::test]
    async fn wishes_reach_the_job_and_do_not_outlive_it() {
        let world = World::new().await;
        let mut claim = world.board(1).await.claim(&spec("earliest"), vec![part("a")], false).await.unwrap();
        assert_eq!(claim.wish().await.unwrap(), None);
        world.board(2).await.ask(claim.id(), Wish::Pause).await.unwrap();
        assert_eq!(claim.wish().await.unwrap(), Some(Wish::Pause));
        claim.beat(State::Interrupted, vec![part("a")]).await.unwrap();
        let mut again = world.board(3).await.claim(&spec("earliest"), vec![part("a")], false).await.unwrap();
        assert!(again.resumes);
        assert_eq!(again.wish().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_rollback_holds_its_target_and_is_not_taken_up_by_a_rebuild() {
        let world = World::new().await;
        let spec_of = Spec { rollback: true, ..spec("earliest") };
        let back = Part { mode: None, ..part("a") };
        let claim = world.board(1).await.claim(&spec_of, vec![back.clone()], true).await.unwrap();
        let meanwhile = async {
            let told = refused(world.board(2).await.claim(&spec("earliest"), vec![part("a")], false).await);
            assert!(told.starts_with("a into pg is being replayed by"), "{told}");
            Err::<(), _>(ReplayError::Usage("no generation before it".to_owned()))
        };
        assert!(claim.during(meanwhile).await.is_err());
        let job = world.board(3).await.jobs().remove(0);
        assert_eq!((job.state, job.is_resumable()), (State::Failed, false));
        assert_eq!(world.board(3).await.last("pg", "a"), (None, None));
        let rebuild = world.board(4).await.claim(&spec("earliest"), vec![part("a")], false).await.unwrap();
        assert!(!rebuild.resumes);
        refused(world.board(5).await.claim(&spec_of, vec![back], true).await);
    }

    #[tokio::test]
    async fn records_of_old_ended_jobs_are_removed_and_others_stay() {
        let world = World::new().await;
        let mut ids = Vec::new();
        for (collection, state) in
            [("a", State::Done), ("b", State::Cancelled), ("c", State::Failed), ("d", State::Done)]
        {
            let parts = vec![Part { state, ..part(collection) }];
            let mut claim =
                world.board(1 + ids.len() as u64).await.claim(&spec(collection), parts.clone(), true).await.unwrap();
            claim.beat(state, parts).await.unwrap();
            ids.push(claim.id().to_owned());
        }
        let day = Duration::from_secs(86_400);
        let mut board = world.board(9).await;
        assert!(board.ended(day, |_| true).is_empty());
        world.pass(day);
        let old = board.ended(day, |part| part.collection != "d");
        assert_eq!(old.len(), 2);
        board.forget(&old).await.unwrap();
        for board in [board, world.board(10).await] {
            let mut left: Vec<String> = board.jobs().into_iter().map(|job| job.id).collect();
            left.sort();
            let mut kept = ids[2..].to_vec();
            kept.sort();
            assert_eq!(left, kept);
        }
    }

    #[test]
    fn many_keys_are_not_recorded_but_still_tell_commands_apart() {
        let keys = |count: usize| (0..count).map(|i| format!("key-{i:05}")).collect::<Vec<_>>();
        let many = Spec { keys: keys(30_000), ..spec("earliest") };
        assert_eq!((many.recorded().unrecorded_keys, many.recorded().keys.len()), (Some(30_000), 0));
        let more = Spec { keys: keys(30_001), ..spec("earliest") };
        assert_ne!(many.digest(), more.digest());
        assert_eq!(many.digest(), Spec { rate: Some(5.0), ..many.clone() }.digest());
        assert_eq!(spec("earliest").recorded(), spec("earliest"));
    }
}
