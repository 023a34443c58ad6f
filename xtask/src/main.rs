//! The project's own chores: `cargo xtask test | sim | crash | reliability | docs | lint-size | new-sink`.

mod crash;
mod docs;
mod new_sink;
mod reliability;
mod sim;
mod size;
mod stores;
mod test;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

/// Chores of this project.
#[derive(Parser)]
enum Chore {
    /// Fetch the servers that the tests need, build, and run all tests
    Test(test::Arguments),
    /// Kill the hub, stores and broker under load, again and again, and look for what was lost or doubled
    Crash(crash::Crash),
    /// Run the real code in a simulated world, seed after seed
    Sim(sim::Arguments),
    /// Run the long forms of the tests that break things, and keep what they print in docs/RELIABILITY.md
    Reliability(reliability::Arguments),
    /// Write the generated parts of the documentation; with --check only say whether they are up to date
    Docs {
        /// Change nothing; fail when something would change
        #[arg(long)]
        check: bool,
    },
    /// Check file lengths and that each file says what it is for
    LintSize,
    /// Write the skeleton of a store, so that it compiles
    NewSink {
        /// The store's name, as the config's `type`
        name: String,
        /// The wire-protocol family (a crate in `sinks/`): an existing one, or a new one
        #[arg(long)]
        family: String,
    },
}

fn main() -> ExitCode {
    let done = match Chore::parse() {
        Chore::Test(arguments) => test::run(&arguments),
        Chore::Crash(crash) => crash.run(),
        Chore::Sim(arguments) => sim::run(arguments),
        Chore::Reliability(arguments) => arguments.run(),
        Chore::Docs { check } => docs::run(check),
        Chore::LintSize => size::run(),
        Chore::NewSink { name, family } => new_sink::run(&name, &family),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Prints a line.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Cargo with these arguments, in the checkout. What the cargo that runs this program says of it is left out: build scripts
/// look at it (that of `ring`), and would build all that depends on them anew whenever cargo is called by hand in between.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    let of_this = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_this)) {
        command.env_remove(name);
    }
    command
}
