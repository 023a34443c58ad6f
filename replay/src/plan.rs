//! The plan: what a replay would read and write, without doing it.

use std::collections::BTreeMap;

use primal_audit::{Source, Within};
use primal_core::log::{Extent, Limits};
use primal_core::name::check_name;
use primal_core::sink::{Build, Builds, Class, SwapKind};
use primal_core::{Offset, Partition, Records, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{At, Mode, Replay, ReplayError, Request};

/// Records looked at per partition to estimate sizes.
const SAMPLE: usize = 500;
/// Events per second assumed for the estimate of time; the progress bar replaces it by what is measured.
const ASSUMED_RATE: f64 = 40_000.0;

/// Offsets of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The partition.
    pub partition: Partition,
    /// The first offset.
    pub from: Offset,
    /// The offset after the last; a shadow follows the log beyond it.
    pub to: Offset,
    /// How many of the offsets before `from` retention has dropped from the log.
    pub dropped: Offset,
}

/// What a replay would do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The sink.
    pub sink: String,
    /// The collection.
    pub collection: String,
    /// How it writes.
    pub mode: Mode,
    /// The table, hash or index that it writes to.
    pub place: String,
    /// What is read.
    pub ranges: Vec<Range>,
    /// Events in all ranges.
    pub events: u64,
    /// Bytes in all ranges, estimated from a sample.
    pub bytes: u64,
    /// Seconds that it takes at that rate.
    pub seconds: u64,
    /// Events per second that are reckoned with: 40,000, or what it is held to.
    pub rate: f64,
    /// Whether an earlier run was interrupted and this one would go on from there.
    pub resumes: bool,
    /// What somebody should know before saying yes.
    pub notes: Vec<String>,
    /// Where it is written.
    #[serde(skip)]
    pub(crate) build: Build,
    /// The selection as text; a rebuild of another selection is not continued.
    #[serde(skip)]
    pub(crate) selection: String,
    /// Of a repair that was begun before: up to where each partition has been written.
    #[serde(skip)]
    pub(crate) reached: BTreeMap<Partition, Offset>,
}

impl Plan {
    /// The same repair as one that was begun before, from where that was.
    pub fn go_on(&mut self, ranges: Vec<Range>, reached: BTreeMap<Partition, Offset>) {
        self.events = count(&ranges);
        self.ranges = ranges;
        self.resumes = true;
        self.reached = reached;
    }

    /// The events that are meant.
    pub(crate) fn within(&self, request: &Request) -> Within {
        let ranges = self.ranges.iter().map(|range| (range.partition, range.from..range.to)).collect();
        Within { ranges, selection: request.selection.clone() }
    }
}

fn count(ranges: &[Range]) -> u64 {
    ranges.iter().map(|r| (r.to - r.from).max(0) as u64).sum()
}

impl Replay {
    /// Works out a plan. Nothing is written.
    ///
    /// # Errors
    /// The request makes no sense, or the log or the store cannot be asked.
    pub async fn plan(&self, request: &Request) -> Result<Plan, ReplayError> {
        let mode = mode(request)?;
        self.moments(request)?;
        if mode == Mode::Shadow && self.spec.capability.swap == SwapKind::None {
            return Err(usage(format!("{} cannot swap generations; use --mode repair or --into NAME", self.spec.name)));
        }
        if mode == Mode::Repair {
            self.writes_in_place("build a new generation (--mode shadow) or a copy (--into NAME)")?;
        }
        let collection = &request.feed.collection;
        let down = |error| ReplayError::Store(self.name.clone(), error);
        let builds = self.sink.builds(&self.name, collection).await.map_err(down)?;
        let selection = selection(request);
        let mut notes = Vec::new();
        let (build, resumes) = build(request, mode, &builds, &selection, &mut notes)?;
        let ranges = self.ranges(request).await?;
        self.first_moment(request, &mut notes).await?;
        let dropped: Offset = ranges.iter().map(|r| r.dropped).sum();
        if dropped > 0 {
            notes
                .push(format!("{dropped} offsets before the log's start are gone (retention); what they said is lost"));
        }
        if mode == Mode::Shadow && request.from != At::Earliest {
            notes.push(format!("entities without an event since {} will not be in the new generation", request.from));
        }
        if mode == Mode::Copy && request.to.is_none() {
            notes.push(
                "the copy ends at the present end of the log; the same command later brings it up to date".into(),
            );
        }
        if mode == Mode::Repair {
            notes.push("keys in the range get their newest state, whenever that was written".into());
            notes.push("a record of which the log has no event stays; a rebuild (--mode shadow) leaves it out".into());
        }
        let events = count(&ranges);
        let rate = self.job.pace().rate.map_or(ASSUMED_RATE, |rate| rate.min(ASSUMED_RATE));
        let target = request.feed.target(&self.name, build.clone());
        Ok(Plan {
            sink: self.name.clone(),
            collection: collection.to_string(),
            mode,
            place: target.place(),
            bytes: self.bytes(request, &ranges).await?,
            ranges,
            events,
            seconds: (events as f64 / rate).ceil() as u64,
            rate,
            resumes,
            notes,
            build,
            selection,
            reached: BTreeMap::new(),
        })
    }

    /// Whether the bounds make sense as moments.
    fn moments(&self, request: &Request) -> Result<(), ReplayError> {
        let now = self.env.now();
        for (name, at) in [("--from", Some(&request.from)), ("--to", request.to.as_ref())] {
            if let Some(At::Time(moment)) = at
                && *moment > now
            {
                return Err(usage(format!("{name} {moment} is in the future; it is {now} now (UTC)")));
            }
        }
        match (&request.from, &request.to) {
            (At::Time(from), Some(At::Time(to))) if from > to => {
                Err(usage(format!("--from {from} is after --to {to}; nothing lies between them")))
            }
            (At::Now, Some(At::Earliest | At::Time(_))) | (At::Time(_), Some(At::Earliest)) => {
                let to = request.to.as_ref().unwrap_or(&At::Now);
                Err(usage(format!("--from {} is after --to {to}; nothing lies between them", request.from)))
            }
            _ => Ok(()),
        }
    }

    /// What is to be said of bounds before the first event that the log took.
    async fn first_moment(&self, request: &Request, notes: &mut Vec<String>) -> Result<(), ReplayError> {
        let is_time = |at: &At| matches!(at, At::Time(_));
        if !is_time(&request.from) && !request.to.as_ref().is_some_and(is_time) {
            return Ok(());
        }
        let collection = &request.feed.collection;
        let Some(first) = self.first_recorded(request).await? else { return Ok(()) };
        if let Some(At::Time(to)) = &request.to
            && *to <= first
        {
            return Err(usage(format!(
                "--to {to} is before the log's start: the first event of {collection} was recorded at {first}; times mean \
                 when the log took an event, not when it happened"
            )));
        }
        if let At::Time(from) = &request.from
            && *from < first
        {
            notes.push(format!(
                "--from {from} is before the log's start: the first event of {collection} was recorded at {first}, and all \
                 are read; times mean when the log took an event, not when it happened"
            ));
        }
        Ok(())
    }

    async fn first_recorded(&self, request: &Request) -> Result<Option<Timestamp>, ReplayError> {
        let topic = request.feed.collection.topic();
        let extents = self.log.extents(&topic).await?.unwrap_or_default();
        let mut first: Option<Timestamp> = None;
        for (partition, extent) in (0..).zip(extents).filter(|(_, extent)| extent.start < extent.end) {
            let mut reader = self.log.read(&topic, partition, extent.start..extent.end).await?;
            let mut records = Records::new();
            reader.fetch(&mut records, Limits { records: 1, bytes: 1 }).await?;
            first = first.into_iter().chain(records.get(0).map(|record| record.recorded)).min();
        }
        Ok(first)
    }

    /// Whether records can be written beside a worker that writes newer ones; `instead` is what helps where not.
    pub(crate) fn writes_in_place(&self, instead: &str) -> Result<(), ReplayError> {
        match self.spec.capability.class {
            Class::Transactional | Class::Versioned | Class::Append => Ok(()),
            Class::Overwrite => Err(usage(format!(
                "{} compares no versions, so writing in place could put older records over newer ones; {instead}",
                self.spec.name
            ))),
        }
    }

    async fn ranges(&self, request: &Request) -> Result<Vec<Range>, ReplayError> {
        let topic = request.feed.collection.topic();
        let extents = self.log.extents(&topic).await?.ok_or(primal_core::LogError::NoTopic(topic))?;
        let from = self.offsets(request, &request.from, &extents).await?;
        let to = match &request.to {
            Some(to) => self.offsets(request, to, &extents).await?,
            None => extents.iter().map(|extent| Some(extent.end)).collect(),
        };
        let source = Source { collection: request.feed.collection.clone(), epochs: request.feed.epochs.clone() };
        // A copy says of every partition how far it is, a repair reads only those that may hold its keys.
        let only = if request.into.is_none() { request.selection.partitions(&source) } else { None };
        let mut ranges = Vec::new();
        for (partition, extent) in (0..).zip(&extents) {
            if only.as_ref().is_some_and(|only| !only.contains(&partition)) {
                continue;
            }
            let index = partition as usize;
            let (from, to) = (from.get(index).copied().flatten(), to.get(index).copied().flatten());
            let (Some(from), Some(to)) = (from, to) else { continue };
            if from > to {
                return Err(usage(format!(
                    "--from {} is after --to {}: partition {partition} would be read from {from} to {to}",
                    request.from,
                    request.to.as_ref().unwrap_or(&At::Now)
                )));
            }
            let dropped = if request.from == At::Earliest { extent.start } else { (extent.start - from).max(0) };
            let from = from.max(extent.start);
            ranges.push(Range { partition, from, to: to.clamp(from, extent.end), dropped });
        }
        Ok(ranges)
    }

    /// A bound as one offset per partition; `None` for partitions that it leaves out.
    async fn offsets(
        &self,
        request: &Request,
        at: &At,
        extents: &[Extent],
    ) -> Result<Vec<Option<Offset>>, ReplayError> {
        let topic = request.feed.collection.topic();
        Ok(match at {
            At::Earliest => extents.iter().map(|extent| Some(extent.start)).collect(),
            At::Now => extents.iter().map(|extent| Some(extent.end)).collect(),
            At::Time(moment) => self.log.offsets_at(&topic, *moment).await?.into_iter().map(Some).collect(),
            At::Offset(partition, offset) => {
                let Some(extent) = extents.get(*partition as usize) else {
                    let count = extents.len();
                    return Err(usage(format!("{topic} has no partition {partition}; it has 0 to {}", count - 1)));
                };
                if !(extent.start..=extent.end).contains(offset) {
                    let Extent { start, end } = extent;
                    return Err(usage(format!(
                        "offset {offset} is not in {topic}/{partition}, which holds [{start}, {end})"
                    )));
                }
                (0..extents.len()).map(|p| (p == *partition as usize).then_some(*offset)).collect()
            }
        })
    }

    async fn bytes(&self, request: &Request, ranges: &[Range]) -> Result<u64, ReplayError> {
        let mut bytes = 0;
        for range in ranges.iter().filter(|range| range.from < range.to) {
            let topic = request.feed.collection.topic();
            let mut reader = self.log.read(&topic, range.partition, range.from..range.to).await?;
            let mut records = Records::new();
            reader.fetch(&mut records, Limits { records: SAMPLE, bytes: 1 << 20 }).await?;
            let each = records.bytes() as f64 / records.len().max(1) as f64;
            bytes += (each * (range.to - range.from) as f64) as u64;
        }
        Ok(bytes)
    }
}

fn mode(request: &Request) -> Result<Mode, ReplayError> {
    let part = &request.selection;
    let whole = request.from == At::Earliest && request.to.is_none() && part.is_all();
    let by_event = !part.has_only_keys();
    match (&request.into, request.mode) {
        (Some(_), Some(Mode::Repair)) => Err(usage("--into builds a copy, --mode repair writes in place: choose one")),
        (Some(_), _) if by_event => Err(usage(
            "--type and --correlation say which entities are written again in place, and a copy holds entities whole: \
             name them with --key, or leave --into out",
        )),
        (Some(name), _) => {
            check_name("--into", name).map_err(ReplayError::Usage)?;
            Ok(Mode::Copy)
        }
        (None, Some(Mode::Shadow)) if !part.is_all() || request.to.is_some() => Err(usage(
            "a shadow generation takes the place of the whole collection up to now, so without the events that are left out \
             their entities would be gone: --key, --type, --correlation and --to go with --mode repair (in place), --key \
             and --to also with --into NAME (a copy)",
        )),
        (None, Some(mode)) => Ok(mode),
        (None, None) => Ok(if whole { Mode::Shadow } else { Mode::Repair }),
    }
}

/// Which build is written to, and whether an earlier run has begun it.
fn build(
    request: &Request,
    mode: Mode,
    builds: &Builds,
    selection: &str,
    notes: &mut Vec<String>,
) -> Result<(Build, bool), ReplayError> {
    match (mode, &request.into, &builds.rebuild) {
        (Mode::Repair, _, _) => Ok((Build::Live(builds.live), false)),
        (Mode::Copy, Some(name), _) => Ok((Build::Named(name.clone()), false)),
        (_, _, Some(rebuild)) if rebuild.plan == selection => Ok((Build::Beside(rebuild.generation), true)),
        (_, _, Some(rebuild)) if !request.restart => Err(usage(format!(
            "generation {} of {} is being rebuilt from another selection ({}); give the same one to go on with it, or \
             --restart to throw it away",
            rebuild.generation, request.feed.collection, rebuild.plan
        ))),
        (_, _, rebuild) => {
            if let Some(rebuild) = rebuild {
                notes.push(format!("the unfinished generation {} is thrown away", rebuild.generation));
            }
            let known = [Some(builds.live), builds.previous, rebuild.as_ref().map(|r| r.generation)];
            Ok((Build::Beside(known.into_iter().flatten().max().unwrap_or(0) + 1), false))
        }
    }
}

fn selection(request: &Request) -> String {
    let projection = request.feed.projection.as_str();
    format!("{projection} from {}", request.from)
}

pub(crate) fn usage(message: impl Into<String>) -> ReplayError {
    ReplayError::Usage(message.into())
}
