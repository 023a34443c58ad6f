//! Who dies in a round, and when. Every twenty rounds hold each sort at least once, whatever the seed.

use std::fmt;
use std::time::Duration;

/// What can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    Hub,
    Postgres,
    Redis,
    Broker,
}

/// Which log a world is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Kafka,
    Embedded,
}

impl Log {
    /// One world in four is over the embedded log.
    pub fn of(world: u64) -> Self {
        if world % 4 == 1 { Log::Embedded } else { Log::Kafka }
    }
}

/// One round.
#[derive(Clone, Debug)]
pub struct Plan {
    pub log: Log,
    /// In the order in which they die.
    pub victims: Vec<Victim>,
    /// Wait for the moment right after a batch was applied: a random kill seldom meets the gap between the store's
    /// commit and whatever comes after it.
    pub aimed: bool,
    /// From the start of the load, or from the commit that was aimed at.
    pub delay: Duration,
}

impl Plan {
    pub fn draw(number: u64, log: Log, random: &mut fastrand::Rng) -> Self {
        use Victim::{Broker, Hub, Postgres, Redis};
        let (mut victims, aimed) = match (log, number % 20) {
            (Log::Embedded, n) => (vec![Hub], n % 2 == 0),
            (_, 2) => (vec![Hub, Redis], false),
            (_, 4) => (vec![Postgres], false),
            (_, 10) => (vec![Broker], false),
            (_, 12) => (vec![Redis], true),
            (_, 15) => (vec![Hub, Postgres], true),
            (_, 18) => (vec![Hub, Postgres, Redis, Broker], false),
            (_, n) => (vec![Hub], n % 2 == 1),
        };
        random.shuffle(&mut victims);
        let longest = if aimed { 5_000 } else { 400_000 };
        Plan { log, victims, aimed, delay: Duration::from_micros(random.u64(0..longest)) }
    }

    /// Whether nobody but the hub dies.
    pub fn only_the_hub(&self) -> bool {
        self.victims == [Victim::Hub]
    }

    /// Whether somebody is among the dead.
    pub fn kills(&self, victim: Victim) -> bool {
        self.victims.contains(&victim)
    }

    /// In a word, for counting.
    pub fn sort(&self) -> String {
        let mut victims = self.victims.clone();
        victims.sort_unstable();
        let names: Vec<_> = victims.iter().map(|victim| format!("{victim:?}").to_lowercase()).collect();
        match self.log {
            Log::Kafka => names.join("+"),
            Log::Embedded => format!("{} (embedded log)", names.join("+")),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = if self.aimed { "after a commit +" } else { "at" };
        f.pad(&format!("{} {when} {:.1} ms", self.sort(), self.delay.as_secs_f64() * 1e3))
    }
}
