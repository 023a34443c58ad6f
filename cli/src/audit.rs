//! `primalcore audit`: what the log says of events, and proof that a store holds it.

mod event;
mod log;
mod trace;
mod verify;

use clap::{Args, Subcommand};

use crate::Outcome;

pub(crate) use verify::{judge, reports, show};

#[derive(Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare a store with the log by key, version and digest; exit code 3 when something differs
    Verify(verify::Verify),
    /// Who wrote what when: the events of the log in order of time
    Log(log::Log),
    /// What led to what: the events of one correlation as a tree
    Trace(trace::Trace),
    /// One event: all of it, its place in the log, and where it stands in every sink
    Event(event::Event),
}

impl Audit {
    pub(crate) async fn run(self) -> Outcome {
        match self.command {
            Command::Verify(command) => command.run().await,
            Command::Log(command) => command.run().await,
            Command::Trace(command) => command.run().await,
            Command::Event(command) => command.run().await,
        }
    }
}
