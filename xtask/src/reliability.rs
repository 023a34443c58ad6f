//! `cargo xtask reliability`: runs the long forms of the tests that break things, and keeps what they printed in
//! `docs/reliability`, one file each, from where `cargo xtask docs` makes the table of docs/RELIABILITY.md.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use primal_core::Env;

use crate::{cargo, root, say};

/// What the tests put before a line that is a figure.
const FIGURE: &str = "figure: ";

#[derive(Args)]
pub struct Arguments {
    /// Which; all when none is named
    #[arg(value_enum)]
    what: Vec<What>,
    /// Seeds of the simulation
    #[arg(long, default_value_t = 1_000_000)]
    seeds: u64,
    /// Crash rounds
    #[arg(long, default_value_t = 1_000)]
    rounds: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// The simulation
    Sim,
    /// Kills of the hub, stores and broker
    Crash,
    /// Frozen workers, restarts, bad networks, full disks, logs that change
    Faults,
    /// Hostile clients
    Hostile,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Sim => "sim",
            What::Crash => "crash",
            What::Faults => "faults",
            What::Hostile => "hostile",
        }
    }

    fn command(self, arguments: &Arguments) -> String {
        match self {
            What::Sim => format!("xtask sim --seeds {}", arguments.seeds),
            What::Crash => format!("xtask crash --release --rounds {}", arguments.rounds),
            What::Faults | What::Hostile => {
                format!("test --package primal-tests --test {} -- --nocapture --test-threads 1", self.name())
            }
        }
    }
}

impl Arguments {
    pub fn run(&self) -> Result<()> {
        let all = [What::Sim, What::Crash, What::Faults, What::Hostile];
        let chosen = if self.what.is_empty() { &all[..] } else { &self.what };
        ensure!(
            cargo(&["build", "--package", "primalcore", "--bins"]).status()?.success(),
            "the programs do not build"
        );
        for what in chosen {
            self.keep(*what).with_context(|| format!("{what:?}"))?;
        }
        crate::docs::run(false)
    }

    fn keep(&self, what: What) -> Result<()> {
        let command = what.command(self);
        let words: Vec<&str> = command.split(' ').collect();
        let mut child = cargo(&words).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no output")?;
        let mut figures = Vec::new();
        for line in BufReader::new(output).lines() {
            let line = line?;
            // libtest puts the name of a test before the first line that it prints.
            figures.extend(line.split_once(FIGURE).map(|(_, figure)| figure.to_owned()));
            say(&line);
        }
        ensure!(child.wait()?.success(), "it failed; nothing was kept");
        ensure!(!figures.is_empty(), "it printed no figure");
        let date: String = Env::system().now().to_string().chars().take(10).collect();
        let folder = root().join("docs/reliability");
        std::fs::create_dir_all(&folder)?;
        let head = format!("cargo {command}\n{date}, commit {}, {}", commit()?, machine());
        std::fs::write(folder.join(format!("{}.txt", what.name())), format!("{head}\n{}\n", figures.join("\n")))?;
        Ok(())
    }
}

/// The table: what was run, when and where, and what it printed.
pub fn table() -> Result<String> {
    let mut rows = "\n| command | when, and on what | what it printed |\n|---|---|---|\n".to_owned();
    for what in [What::Sim, What::Crash, What::Faults, What::Hostile] {
        let file = format!("docs/reliability/{}.txt", what.name());
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else { continue };
        let mut lines = text.lines();
        let command = lines.next().with_context(|| format!("{file} is empty"))?;
        let when = lines.next().unwrap_or_default();
        rows += &format!("| `{command}` | {when} | {} |\n", lines.collect::<Vec<_>>().join("<br>"));
    }
    Ok(rows + "\n")
}

fn commit() -> Result<String> {
    let asked = std::process::Command::new("git").args(["describe", "--always"]).current_dir(root()).output()?;
    Ok(String::from_utf8_lossy(&asked.stdout).trim().to_owned())
}

fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{} {}, {cpus} CPUs", std::env::consts::OS, std::env::consts::ARCH)
}
