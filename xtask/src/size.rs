//! `cargo xtask lint-size`: files stay short enough to be read, and each opens by saying what it is for.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::{root, say};

/// Lines; above this a file has to be split.
const LIMIT: usize = 600;

pub fn run() -> Result<()> {
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    collect(&root(), &mut files)?;
    for file in &files {
        let text = std::fs::read_to_string(file)?;
        let lines = text.lines().count();
        let name = file.strip_prefix(root()).unwrap_or(file).display().to_string();
        if lines > LIMIT {
            wrong.push(format!("{name} has {lines} lines, the limit is {LIMIT}"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{name} does not open with a `//!` paragraph"));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    say(&format!("{} files are within limits", files.len()));
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
