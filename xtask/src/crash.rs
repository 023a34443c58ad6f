//! `cargo xtask crash`: builds the programs and runs the crash rounds of `tests/crash`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{cargo, root};

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
        let (profile, name): (&[&str], _) = if self.release { (&["--release"], "release") } else { (&[], "debug") };
        // All at once: built one by one they would be built with other features of what they share, again and again.
        let mut build = cargo(&["build", "--workspace", "--bins"]);
        ensure!(build.args(profile).status()?.success(), "the programs do not build");
        let this = std::env::current_exe()?;
        let target = this.parent().and_then(Path::parent).context("this program lies in no target folder")?;
        let status = Command::new(target.join(name).join("crash")).args(&self.options).current_dir(root()).status()?;
        ensure!(status.success(), "the crash rounds failed");
        Ok(())
    }
}

/// Twenty rounds, as one of the tests.
pub(crate) fn short() -> Result<()> {
    Crash { release: false, options: vec!["--verbose".to_owned()] }.run()
}
