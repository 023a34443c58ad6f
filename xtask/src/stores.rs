//! Which stores the tests are about: those whose servers the other tests start anyway, and of the others those whose family
//! has changed since all were tested. What was tested then stands in `tests/verified`, a digest for each family.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use primal_core::Digest;

use crate::root;

/// Stores with a server that only they need.
const OWN_SERVERS: &[(&str, &str)] = &[
    ("clickhouse", "clickhouse_engine"),
    ("elasticsearch", "elasticsearch"),
    ("influxdb", "influxdb"),
    ("mongodb", "ferretdb"),
    ("neo4j", "neo4j"),
    ("opensearch", "opensearch"),
    ("prometheus", "prometheus"),
    ("qdrant", "qdrant"),
];

/// Servers of tests that are no stores', by the module of the tests: the archive on S3. Only `--all` runs them.
pub const LONG: &[&str] = &["seaweedfs"];

const VERIFIED: &str = "tests/verified";

/// What is tested.
pub struct Chosen {
    /// The stores.
    pub stores: Vec<&'static str>,
    /// Stores that are left out.
    pub left_out: Vec<&'static str>,
    /// Servers that only stores of them need.
    pub servers: Vec<&'static str>,
}

/// All stores, or those that there is a reason to test.
pub fn choose(all: bool) -> Result<Chosen> {
    let (now, then) = (digests()?, recorded());
    let mut chosen = Chosen { stores: Vec::new(), left_out: Vec::new(), servers: Vec::new() };
    if all {
        chosen.servers.extend(LONG);
    }
    for (store, family) in primal_registry::KNOWN {
        let server = OWN_SERVERS.iter().find(|(name, _)| name == store).map(|(_, server)| *server);
        if server.is_some() && !all && now.get(*family) == then.get(*family) {
            chosen.left_out.push(*store);
            continue;
        }
        chosen.stores.push(*store);
        chosen.servers.extend(server);
    }
    Ok(chosen)
}

/// Keeps that all stores were tested as they are now.
pub fn record() -> Result<()> {
    let lines: String = digests()?.iter().map(|(family, digest)| format!("{family} {digest}\n")).collect();
    let head = "# Written by `cargo xtask test --all` when all stores passed: a digest of what each family was then.\n";
    std::fs::write(root().join(VERIFIED), format!("{head}{lines}")).context(VERIFIED)
}

fn recorded() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root().join(VERIFIED)).unwrap_or_default();
    let line = |line: &str| line.split_once(' ').map(|(family, digest)| (family.to_owned(), digest.to_owned()));
    text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
}

/// A digest for each family that has servers of its own: its sources, its servers' scripts, the contract and the tests.
fn digests() -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (store, server) in OWN_SERVERS {
        let Some((_, family)) = primal_registry::KNOWN.iter().find(|(name, _)| name == store) else { continue };
        let files: &mut Vec<PathBuf> = found.entry((*family).to_owned()).or_default();
        files.extend([format!("tests/servers/{server}"), "tests/servers/lib.sh".to_owned()].map(PathBuf::from));
    }
    let mut digests = BTreeMap::new();
    for (family, mut files) in found {
        for folder in [&*format!("sinks/{family}"), "core/src", "tests/behavior"] {
            collect(Path::new(folder), &mut files)?;
        }
        files.sort();
        files.dedup();
        let mut parts = Vec::new();
        for file in files {
            let bytes = std::fs::read(root().join(&file)).with_context(|| file.display().to_string())?;
            parts.push(Digest::of_bytes(b'n', file.to_string_lossy().as_bytes()));
            parts.push(Digest::of_bytes(b'f', &bytes));
        }
        digests.insert(family, Digest::of_parts(parts).to_string());
    }
    Ok(digests)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(root().join(folder)).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
