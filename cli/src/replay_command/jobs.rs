//! `replay list | status | pause | resume | cancel`: jobs, from any shell.

use std::time::Duration;

use clap::Args;
use primal_core::Env;
use primal_hub::Hub;
use primal_replay::{Board, Listed, Part, State, Wish};

use super::{doing, lanes};
use crate::output::{self, grouped};
use crate::{ConfigFile, Failure, Outcome, interrupted};

/// How long a job may take to obey before that is said.
const OBEYS: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    config: ConfigFile,
    /// The job's id, or the beginning of it
    id: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Which {
    #[command(flatten)]
    config: ConfigFile,
    /// The job's id, or the beginning of it
    id: String,
}

impl List {
    pub(super) async fn run(self) -> Outcome {
        let jobs = self.config.open().await?.replays().await?.jobs();
        if self.json {
            return output::json(&jobs);
        }
        output::table(
            &["id", "state", "sinks", "collections", "now", "events", "rate", "ETA", "begun", "process"],
            jobs.iter().map(row).collect(),
        );
        Ok(())
    }
}

fn row(job: &Listed) -> Vec<String> {
    let mut collections: Vec<&str> = Vec::new();
    for part in &job.parts {
        if !collections.contains(&part.collection.as_str()) {
            collections.push(&part.collection);
        }
    }
    let mut sinks: Vec<&str> = job.parts.iter().map(|part| part.sink.as_str()).collect();
    sinks.dedup();
    let shown: Vec<&Part> = job.at_work().collect();
    let sum = |of: fn(&Part) -> u64| shown.iter().map(|part| of(part)).sum::<u64>();
    let rate: f64 = shown.iter().map(|part| part.rate).sum();
    let at_work = matches!(job.state, State::Running | State::Paused | State::Dead | State::Interrupted);
    let done = job.parts.iter().filter(|part| part.state == State::Done).count();
    let now = match shown.as_slice() {
        _ if !at_work => format!("{done} of {} done", job.parts.len()),
        [one] => format!("{} {}", one.phase, one.collection),
        _ => format!("{} at work, {done} of {} done", shown.len(), job.parts.len()),
    };
    vec![
        job.id.clone(),
        state(job),
        sinks.join(","),
        output::short(&collections.join(","), 30),
        now,
        if at_work { progress(sum(|part| part.done), sum(|part| part.total)) } else { String::new() },
        if job.state == State::Running { format!("{}/s", grouped(rate.round() as i64)) } else { String::new() },
        eta(job, shown.iter().filter_map(|part| part.eta_s).max()),
        job.started.to_string(),
        format!("{}@{}", job.pid, job.host),
    ]
}

/// A dead job's last word is kept beside it, one that stands still by itself says until when, and one whose store or log
/// fails is trying again.
fn state(job: &Listed) -> String {
    let closed = job.spec.window.filter(|window| !window.is_open(Env::system().now()));
    if let (State::Running, Some(window)) = (job.state, closed) {
        return format!("waits for {}", window.opens());
    }
    let fails = job.at_work().any(|part| part.error.is_some());
    match job.state {
        State::Running if fails => "retrying".to_owned(),
        State::Dead if job.said != State::Running => format!("dead, was {}", job.said.as_str()),
        state => state.as_str().to_owned(),
    }
}

fn progress(done: u64, total: u64) -> String {
    if total > 0 { format!("{}/{}", grouped(done), grouped(total)) } else { grouped(done) }
}

fn eta(job: &Listed, seconds: Option<u64>) -> String {
    match (job.state, seconds) {
        (State::Running, Some(seconds)) => output::span(seconds),
        _ => String::new(),
    }
}

impl Status {
    pub(super) async fn run(self) -> Outcome {
        let board = self.config.open().await?.replays().await?;
        let jobs = match &self.id {
            Some(id) => vec![board.find(id)?],
            None => board.jobs().into_iter().filter(|job| job.state.is_live()).collect(),
        };
        if self.json {
            return output::json(&jobs);
        }
        if jobs.is_empty() {
            output::remark("no replay runs; `replay list` shows those that ran");
        }
        jobs.iter().for_each(show);
        Ok(())
    }
}

fn show(job: &Listed) {
    let spec = &job.spec;
    let list = |values: &[String]| values.join(", ");
    let keys = spec.unrecorded_keys.map_or_else(|| output::short(&list(&spec.keys), 60), |count| format!("{count}"));
    let mut pairs = vec![
        ("id", job.id.clone()),
        ("state", state(job)),
        ("from", spec.from.clone()),
        ("to", spec.to.clone().unwrap_or_default()),
        ("keys", keys),
        ("types", list(&spec.types)),
        ("correlations", list(&spec.correlations)),
        ("rate", spec.rate.map_or(String::new(), |rate| format!("at most {rate} events/s"))),
        ("budget", spec.budget.map_or(String::new(), |share| format!("{:.0}% of the store's time", share * 100.0))),
        ("window", spec.window.map_or(String::new(), |window| format!("{window} UTC"))),
        ("begun", job.started.to_string()),
        ("heard of", job.heard.to_string()),
        ("process", format!("{} on {}", job.pid, job.host)),
    ];
    pairs.retain(|(_, value)| !value.is_empty());
    output::pairs(&pairs);
    let cells = job.parts.iter().map(|part| {
        let alive = part.state == State::Running && job.state == State::Running;
        vec![
            part.sink.clone(),
            part.collection.clone(),
            part.mode.map_or("rollback".to_owned(), |mode| format!("{mode:?}").to_lowercase()),
            part.place.clone(),
            part.state.as_str().to_owned(),
            part.phase.clone(),
            progress(part.done, part.total),
            if alive { format!("{}/s", grouped(part.rate.round() as i64)) } else { String::new() },
            eta(job, part.eta_s),
            output::printable(part.error.as_deref().unwrap_or_default()),
        ]
    });
    let header = ["sink", "collection", "mode", "at", "state", "phase", "events", "rate", "ETA", "error"];
    output::table(&header, cells.collect());
    if job.is_resumable() {
        output::remark(&format!("`replay resume {}` goes on with it", job.id));
    }
}

impl Which {
    pub(super) async fn pause(self) -> Outcome {
        let hub = self.config.open().await?;
        let board = hub.replays().await?;
        let job = board.find(&self.id)?;
        match job.state {
            State::Paused => output::line(&format!("{} stands still already", job.id)),
            State::Running => {
                self.until(&hub, &board, &job, Wish::Pause, State::Paused).await?;
                output::line(&format!("{} stands still", job.id));
            }
            other => return Err(over(&job, other)),
        }
        Ok(())
    }

    pub(super) async fn cancel(self) -> Outcome {
        let hub = self.config.open().await?;
        let board = hub.replays().await?;
        let job = board.find(&self.id)?;
        match job.state {
            State::Running | State::Paused => {
                self.until(&hub, &board, &job, Wish::Cancel, State::Cancelled).await?;
            }
            state if state.is_resumable() => board.bury(&job.id).await?,
            other => return Err(over(&job, other)),
        }
        output::line(&format!("{} is cancelled; what it built stays until `replay gc`", job.id));
        Ok(())
    }

    pub(super) async fn resume(self) -> Outcome {
        let hub = self.config.open().await?;
        let board = hub.replays().await?;
        let job = board.find(&self.id)?;
        match job.state {
            State::Running => {
                output::line(&format!("{} runs already", job.id));
                return Ok(());
            }
            State::Paused => {
                self.until(&hub, &board, &job, Wish::Run, State::Running).await?;
                output::line(&format!("{} goes on", job.id));
                return Ok(());
            }
            _ if job.is_resumable() => {}
            state if state.is_resumable() => {
                return Err(Failure::usage(format!(
                    "{} is a rollback; give the command with --rollback again",
                    job.id
                )));
            }
            other => return Err(over(&job, other)),
        }
        let cancel = interrupted();
        let lanes = lanes(&hub, &job.spec, false, &cancel).await?;
        let mut plans = Vec::new();
        for lane in &lanes {
            for request in &lane.requests {
                plans.push(lane.replay.plan(request).await?);
            }
        }
        let claim = board.claim_again(job, doing::parts(&lanes, &plans)).await?;
        doing::execute(&hub, claim, lanes, &cancel, false).await
    }

    /// Asks, and waits until it is so.
    async fn until(&self, hub: &Hub, board: &Board, job: &Listed, wish: Wish, state: State) -> Outcome {
        board.ask(&job.id, wish).await?;
        let until = tokio::time::Instant::now() + OBEYS;
        loop {
            let now = hub.replays().await?.find(&job.id)?.state;
            if now == state {
                return Ok(());
            }
            if !now.is_live() {
                return Err(over(job, now));
            }
            if tokio::time::Instant::now() > until {
                return Err(Failure::failed(format!(
                    "{} has not obeyed within {} s; it does as soon as a write that it waits for has ended",
                    job.id,
                    OBEYS.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn over(job: &Listed, state: State) -> Failure {
    let id = &job.id;
    match state {
        State::Dead => Failure::failed(format!(
            "{id} has no process any more (pid {} on {}, last heard of {}); `replay resume {id}` goes on with it",
            job.pid, job.host, job.heard
        )),
        State::Cancelled => {
            Failure::usage(format!("{id} was cancelled; the command that began it goes on with what it built"))
        }
        State::Done => Failure::usage(format!("{id} is done")),
        other => Failure::failed(format!("{id} is {} now; `replay status {id}` says why", other.as_str())),
    }
}
