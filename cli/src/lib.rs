//! The command line: thin. It reads arguments, calls the hub, and prints. Data go to stdout, everything else to stderr.

#[cfg(feature = "archive")]
mod archive;
mod audit;
mod check;
mod dlq;
mod example;
mod local;
mod output;
mod publish;
#[cfg(feature = "query")]
mod query;
mod replay_command;
mod run;
mod sinks;
mod state;
mod status;
mod topics;

use std::future::Future;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use primal_audit::ScanError;
use primal_core::{Env, LogError, Moment, SettingsError};
use primal_hub::{Config, Hub, HubError};
use primal_replay::ReplayError;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Exit codes, the same for every command.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Failed.
    pub const FAILED: u8 = 1;
    /// Wrong use, or a wrong config.
    pub const USAGE: u8 = 2;
    /// Verification found a difference.
    pub const DIFFERENT: u8 = 3;
    /// Partly done; the same command goes on from there.
    pub const RESUMABLE: u8 = 4;
}

/// Why a command did not end well.
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl ToString) -> Self {
        Failure { code, message: message.to_string() }
    }

    pub(crate) fn failed(message: impl ToString) -> Self {
        Failure::new(exit::FAILED, message)
    }

    pub(crate) fn usage(message: impl ToString) -> Self {
        Failure::new(exit::USAGE, message)
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Failure::usage(error)
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        let code = match error {
            HubError::Usage(_) => exit::USAGE,
            HubError::Different(_) => exit::DIFFERENT,
            HubError::Log(error) => return error.into(),
            _ => exit::FAILED,
        };
        Failure::new(code, error)
    }
}

impl From<ScanError> for Failure {
    fn from(error: ScanError) -> Self {
        HubError::from(error).into()
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Failure::new(if error.is_altered() { exit::DIFFERENT } else { exit::FAILED }, error)
    }
}

impl From<ReplayError> for Failure {
    fn from(error: ReplayError) -> Self {
        let code = match &error {
            ReplayError::Usage(_) => exit::USAGE,
            ReplayError::Different(_) => exit::DIFFERENT,
            ReplayError::Log(error) if error.is_altered() => exit::DIFFERENT,
            ReplayError::Interrupted(_) => exit::RESUMABLE,
            _ => exit::FAILED,
        };
        Failure::new(code, error)
    }
}

pub(crate) type Outcome = Result<(), Failure>;

/// One log, many stores: publish events once, keep every database in step, rebuild any of them.
#[derive(Parser)]
#[command(name = "primalcore", version, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// See it work: publishes a week of real flights into a log on this machine and a SQLite file, and verifies it
    Quickstart(local::Quickstart),
    /// A hub on this machine without a config: embedded log, SQLite sink, HTTP gateway
    Dev(local::Dev),
    /// Run the gateway (if configured) and the workers
    Run(run::Run),
    /// Publish events from NDJSON
    Publish(publish::Publish),
    /// Check the config, the log and every store
    Check(check::Check),
    /// Where every sink stands
    Status(status::Status),
    /// The stores that this program knows
    Sinks(sinks::Sinks),
    /// Who wrote what, what led to what, where an event stands, and proof that a store holds what the log says
    Audit(audit::Audit),
    /// Move old ranges of the log to the archive, as Parquet files; log and archive are read as one
    #[cfg(feature = "archive")]
    Archive(archive::Archive),
    /// The state of one entity as the log says it: now, at any moment, all its versions, or what changed
    State(state::State),
    /// Ask the log in SQL: each collection is a table, its rows are the entities as they were at a moment
    #[cfg(feature = "query")]
    Query(query::Query),
    /// Keep the states of collections along the log, so that questions about the past are quick
    #[cfg(feature = "query")]
    Snapshot(query::Snapshot),
    /// Rebuild or repair a store from the log
    Replay(replay_command::Replay),
    /// Dead letters: what a sink refused, and trying it again
    Dlq(dlq::Dlq),
    /// The log's topics and their epochs
    Topics(topics::Topics),
}

/// The config file, as every command takes it.
#[derive(Args, Clone)]
pub(crate) struct ConfigFile {
    /// The config file
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "primalcore.yaml")]
    config: PathBuf,
}

impl ConfigFile {
    pub(crate) fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.config)?)
    }

    pub(crate) async fn open(&self) -> Result<Hub, Failure> {
        Ok(Hub::open(self.load()?, Env::system()).await?)
    }
}

/// Reads a moment of the past, for arguments.
pub(crate) fn past(text: &str) -> Result<Moment, String> {
    Moment::parse_past(text, Env::system().now())
}

/// The `primalcore` program.
pub fn primalcore() -> ExitCode {
    let cli = Cli::parse();
    let level = if matches!(cli.command, Command::Run(_) | Command::Dev(_)) { "info" } else { "warn" };
    start(level, async {
        match cli.command {
            Command::Quickstart(command) => command.run().await,
            Command::Dev(command) => command.run().await,
            Command::Run(command) => command.run().await,
            Command::Publish(command) => command.run().await,
            Command::Check(command) => command.run().await,
            Command::Status(command) => command.run().await,
            Command::Sinks(command) => command.run(),
            Command::Audit(command) => command.run().await,
            #[cfg(feature = "archive")]
            Command::Archive(command) => command.run().await,
            Command::State(command) => command.run().await,
            #[cfg(feature = "query")]
            Command::Query(command) => command.run().await,
            #[cfg(feature = "query")]
            Command::Snapshot(command) => command.run().await,
            Command::Replay(command) => command.run().await,
            Command::Dlq(command) => command.run().await,
            Command::Topics(command) => command.run().await,
        }
    })
}

#[derive(Parser)]
#[command(name = "replay", version, disable_help_subcommand = true)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct ReplayCli {
    #[command(flatten)]
    command: replay_command::Replay,
}

/// The `replay` program.
pub fn replay() -> ExitCode {
    let cli = ReplayCli::parse();
    start("warn", cli.command.run())
}

fn start(level: &str, command: impl Future<Output = Outcome>) -> ExitCode {
    let filter = EnvFilter::try_from_env("PRIMALCORE_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},sqlx=warn,librdkafka=off,rdkafka=off")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(&format!("no runtime: {error}"));
            return exit::FAILED.into();
        }
    };
    let code = match runtime.block_on(command) {
        Ok(()) => exit::DONE,
        Err(Failure { code, message }) => {
            output::complain(&message);
            code
        }
    };
    // Clients' own threads may still be closing; nothing of ours waits for them.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code.into()
}

/// Cancelled by Ctrl-C and SIGTERM.
pub(crate) fn interrupted() -> CancellationToken {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(signal) => signal,
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be caught");
                return;
            }
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        cancelled.cancel();
    });
    token
}
