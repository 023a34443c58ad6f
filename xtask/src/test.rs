//! `cargo xtask test`: the servers, the programs, all tests, and one closing line.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{cargo, crash, docs, root, say, sim, size, stores};

/// What all tests start, by script in `tests/servers`.
const SERVERS: &[&str] = &["kafka", "postgres", "redis"];

#[derive(Args)]
pub struct Arguments {
    /// Every store; without it those with servers of their own only where their family changed since all were tested
    #[arg(long)]
    all: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let chosen = stores::choose(arguments.all)?;
    if !chosen.left_out.is_empty() {
        let names = chosen.left_out.join(", ");
        say(&format!("left out, unchanged since all stores were tested: {names}; --all tests them too"));
    }
    if !arguments.all {
        say(&format!("left out: tests on {}; --all runs them too", stores::LONG.join(", ")));
    }
    for server in SERVERS.iter().chain(&chosen.servers) {
        say(&format!("server {server}: fetching what is missing"));
        let status = Command::new(root().join("tests/servers").join(server)).arg("fetch").status()?;
        ensure!(status.success(), "{server} cannot be had: {status}");
    }
    docs::run(true)?;
    size::run()?;
    let status = cargo(&["build", "--workspace", "--bins"]).status()?;
    ensure!(status.success(), "the programs do not build");
    let (mut passed, mut failed) = (0, 0);
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast", "--"]);
    tests.env("PRIMALCORE_TEST_STORES", chosen.stores.join(","));
    let long = stores::LONG.iter().filter(|_| !arguments.all);
    for store in chosen.left_out.iter().chain(long) {
        // The tests of one store are in a module of its name.
        tests.args(["--skip", &format!("{store}::")]);
    }
    let mut child = tests.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("no output of cargo test")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if let Some((p, f)) = counts(&line) {
            passed += p;
            failed += f;
        }
        say(&line);
    }
    let status = child.wait()?;
    for run in [sim::short, crash::short] {
        match run() {
            Ok(()) => passed += 1,
            Err(error) => {
                say(&format!("{error:#}"));
                failed += 1;
            }
        }
    }
    say(&format!("{passed} passed, {failed} failed"));
    if !status.success() || failed > 0 {
        bail!("the tests failed");
    }
    if arguments.all { stores::record() } else { Ok(()) }
}

/// Reads `test result: ok. 3 passed; 0 failed; …`.
fn counts(line: &str) -> Option<(u32, u32)> {
    let rest = line.strip_prefix("test result: ")?;
    let number =
        |word: &str| rest.split([';', '.']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok());
    Some((number("passed")?, number("failed")?))
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn results_are_added_up_from_cargos_lines() {
        assert_eq!(counts("test result: FAILED. 23 passed; 1 failed; 0 ignored; finished in 0.1s"), Some((23, 1)));
        assert_eq!(counts("test a ... ok"), None);
    }
}
