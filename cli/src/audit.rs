//! `primalcore audit`: what the log says of events, proof that a store holds it, and proof that nobody has changed it.

mod check;
mod consistency;
mod event;
mod keygen;
mod log;
mod prove;
mod receipts;
mod seal;
mod trace;
mod verify;

use clap::{Args, Subcommand};
use primal_seal::Verifier;

use crate::{Failure, Outcome};

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
    /// What each sink did with which offsets, and when
    Receipts(receipts::Receipts),
    /// Make the key that seals are signed with; prints the public half
    Keygen(keygen::Keygen),
    /// Sign a checkpoint over what every partition holds by now
    Seal(seal::Seal),
    /// Prove that an event is in the log as it was sealed: a file that anybody can check
    Prove(prove::Prove),
    /// Check a proof, without a hub; exit code 3 when it does not hold
    Check(check::Check),
    /// Compare a collection with all its seals; exit code 3 when a record was changed
    Consistency(consistency::Consistency),
}

impl Audit {
    pub(crate) async fn run(self) -> Outcome {
        match self.command {
            Command::Verify(command) => command.run().await,
            Command::Log(command) => command.run().await,
            Command::Trace(command) => command.run().await,
            Command::Event(command) => command.run().await,
            Command::Receipts(command) => command.run().await,
            Command::Keygen(command) => command.run(),
            Command::Seal(command) => command.run().await,
            Command::Prove(command) => command.run().await,
            Command::Check(command) => command.run(),
            Command::Consistency(command) => command.run().await,
        }
    }
}

/// Reads public keys: each the key itself, or a file with one.
pub(crate) fn keys(given: &[String]) -> Result<Vec<Verifier>, Failure> {
    let read = |given: &String| {
        if let Ok(key) = given.parse() {
            return Ok(key);
        }
        let text = std::fs::read_to_string(given).map_err(|error| {
            Failure::usage(format!(
                "--key {given:?} is no verifier key `<name>+<id>+<base64>`, and no file with one: {error}"
            ))
        })?;
        text.parse().map_err(|error| Failure::usage(format!("{given}: {error}")))
    };
    given.iter().map(read).collect()
}
