//! The end of a rebuild: the new generation overtakes the live one, and is swapped in while it is level with it.
//!
//! The live generation does not wait. So the log is followed as its worker follows it, a task per partition, and the swap is
//! asked for whenever the two are seen level, which the store then judges for itself.

use std::sync::Arc;
use std::time::Duration;

use primal_core::Offset;
use primal_core::log::Extent;
use primal_core::sink::{Build, Class, Target};
use primal_runtime::Pace;
use tokio::time::Instant;

use crate::plan::Range;
use crate::shadow::NEARLY;
use crate::{Progress, Replay, ReplayError, Request};

/// How long the last catching up may take, with live writes racing it.
const CATCH_UP: Duration = Duration::from_secs(60);
/// How long the log is followed before its end is looked at again: what lies there may be no record, which nobody reads.
const FOLLOW: Duration = Duration::from_secs(2);
/// How often the positions of both generations are compared meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// Why a generation that can be written to is not swapped in.
const AHEAD: &str = "live writes stayed ahead";

/// What came of reading to the end and asking for the swap.
enum CaughtUp {
    Swapped,
    /// Live writes were ahead, and there was something to read meanwhile.
    Behind,
    /// Live writes were ahead of a log that had nothing new.
    Refused,
}

impl Replay {
    /// Reads to the end and asks for the swap, until the store finds the new generation at or past the live one.
    pub(crate) async fn catch_up_and_swap(
        &self,
        request: &Request,
        target: &Target,
        generation: u64,
        ranges: &mut [Range],
        progress: &Arc<dyn Progress>,
    ) -> Result<(), ReplayError> {
        // What it stood still meanwhile does not count.
        let stood = self.job.stood();
        let started = Instant::now();
        let mut attempt = 0;
        let mut reason = String::new();
        while started.elapsed().saturating_sub(self.job.stood() - stood) < CATCH_UP {
            self.job.admit(0).await?;
            let caught_up = self.catch_up(request, target, ranges, progress).await;
            if caught_up.is_ok() {
                self.job.well();
            }
            match caught_up {
                Ok(CaughtUp::Swapped) => return Ok(()),
                Ok(CaughtUp::Behind) => AHEAD.clone_into(&mut reason),
                // Nothing came, so nothing will be different at once.
                Ok(CaughtUp::Refused) => {
                    AHEAD.clone_into(&mut reason);
                    let pause = self.env.backoff(Duration::from_millis(10), Duration::from_secs(1), attempt);
                    tokio::time::sleep(pause).await;
                }
                Err(error) if error.is_passing() => {
                    reason = error.to_string();
                    // While the store or the log is away, it only stands still.
                    if error.is_outage() {
                        self.wait(&error, attempt).await?;
                    } else {
                        let pause = self.env.backoff(Duration::from_millis(200), Duration::from_secs(5), attempt);
                        tokio::time::sleep(pause).await;
                    }
                    // It may have been done although the answer was lost.
                    if self.sink.builds(&self.name, &target.collection).await.is_ok_and(|b| b.live == generation) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
            attempt += 1;
        }
        Err(ReplayError::Interrupted(format!(
            "generation {generation} could not be swapped in within {} s: {reason}; it is verified and kept, and the same \
             command goes on from here{}",
            CATCH_UP.as_secs(),
            if self.job.pace() == Pace::default() { "" } else { "; without --rate and --budget it reads faster" }
        )))
    }

    /// Reads to the end once, and asks for the swap.
    async fn catch_up(
        &self,
        request: &Request,
        target: &Target,
        ranges: &mut [Range],
        progress: &Arc<dyn Progress>,
    ) -> Result<CaughtUp, ReplayError> {
        let added = extend(&self.extents(request).await?, ranges);
        // A few events against live writes: whoever rests meanwhile never overtakes them.
        self.job.lift(added <= NEARLY);
        let filled = self.fill(request, target, ranges, &self.alone(), None, progress).await;
        self.job.lift(false);
        filled?;
        self.take_in_passed(request, target, ranges).await?;
        if self.swapping()?.swap(target, true).await? {
            return Ok(CaughtUp::Swapped);
        }
        if added == 0 {
            return Ok(CaughtUp::Refused);
        }
        // Where nothing is compared, a write that lands after the swap would undo a worker's.
        if added > NEARLY || self.spec.capability.class == Class::Overwrite {
            return Ok(CaughtUp::Behind);
        }
        let swapped = self.follow(request, target, ranges, progress).await?;
        Ok(if swapped { CaughtUp::Swapped } else { CaughtUp::Behind })
    }

    /// Follows the log for a while, and asks for the swap whenever the build is level with the live generation.
    async fn follow(
        &self,
        request: &Request,
        target: &Target,
        ranges: &[Range],
        progress: &Arc<dyn Progress>,
    ) -> Result<bool, ReplayError> {
        let open: Vec<Range> = ranges.iter().map(|range| Range { to: Offset::MAX, ..*range }).collect();
        let live = target.with_build(Build::Live(self.sink.builds(&self.name, &target.collection).await?.live));
        let positions = self.sink.positions(target).await?;
        let fill = self.filling(request, target, &self.alone(), None, progress).await?;
        let swapping = async {
            let until = Instant::now() + FOLLOW;
            while Instant::now() < until {
                tokio::time::sleep(LOOK).await;
                self.job.admit(0).await?;
                if self.is_level(target, &live).await? {
                    self.take_in_passed(request, target, &open).await?;
                    if self.swapping()?.swap(target, true).await? {
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        };
        self.job.lift(true);
        let mut filling = std::pin::pin!(fill.run(&open, &positions));
        let swapped = tokio::select! {
            biased;
            ended = &mut filling => ended.map(|()| false),
            swapped = swapping => {
                fill.stop.cancel();
                // It was stopped, or fenced by the swap; anything else is met again by whoever goes on.
                let _ = filling.await;
                swapped
            }
        };
        self.job.lift(false);
        swapped
    }

    /// Whether a build is at or past the live generation, in every partition that one has.
    async fn is_level(&self, target: &Target, live: &Target) -> Result<bool, ReplayError> {
        let (ours, theirs) = (self.sink.positions(target).await?, self.sink.positions(live).await?);
        Ok(theirs.iter().all(|(partition, theirs)| ours.get(partition).is_some_and(|ours| ours >= theirs)))
    }
}

/// Moves the ends of ranges to the present end of the log; how many events that adds.
pub(crate) fn extend(extents: &[Extent], ranges: &mut [Range]) -> u64 {
    let mut added = 0;
    for range in ranges {
        if let Some(extent) = extents.get(range.partition as usize) {
            added += (extent.end - range.to).max(0) as u64;
            range.to = extent.end.max(range.to);
        }
    }
    added
}
