//! `cargo xtask crash`: builds the programs and runs the crash rounds of `tests/crash`.

use anyhow::{Result, ensure};
use clap::Args;

use crate::cargo;

#[derive(Args)]
pub(crate) struct Crash {
    /// Programs as they are shipped rather than as they are debugged
    #[arg(long)]
    release: bool,
    /// --rounds N, --seed S, --json FILE, --verbose
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

impl Crash {
    pub(crate) fn run(&self) -> Result<()> {
        let profile: &[&str] = if self.release { &["--release"] } else { &[] };
        let mut build = cargo(&["build", "--package", "primalcore", "--bins"]);
        ensure!(build.args(profile).status()?.success(), "the programs do not build");
        let mut run = cargo(&["run", "--quiet", "--package", "primal-tests", "--bin", "crash"]);
        let status = run.args(profile).arg("--").args(&self.options).status()?;
        ensure!(status.success(), "the crash rounds failed");
        Ok(())
    }
}

/// Twenty rounds, as one of the tests.
pub(crate) fn short() -> Result<()> {
    Crash { release: false, options: vec!["--verbose".to_owned()] }.run()
}
