//! `cargo xtask new-sink`: the skeleton of a store. It compiles, is registered, and fails the behaviour suite until it is
//! written.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::{root, say};

pub fn run(name: &str, family: &str) -> Result<()> {
    for word in [name, family] {
        let plain = word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ensure!(plain, "{word:?}: lower-case letters and digits, beginning with a letter");
    }
    let folder = root().join("sinks").join(family);
    let file = folder.join(format!("src/{name}.rs"));
    ensure!(!file.exists(), "{} exists", file.display());
    let mut edits = registered(name, family);
    if !folder.exists() {
        edits.extend(new_family(family));
    }
    // All of them or none: half a registration does not build.
    let changed = edited(&edits)?;
    let library = folder.join("src/lib.rs");
    if !folder.exists() {
        fs::create_dir_all(folder.join("src"))?;
        fs::write(folder.join("Cargo.toml"), manifest(family))?;
        fs::write(&library, format!("//! Stores of the {family} family. One file per store.\n"))?;
    }
    let upper = name.to_uppercase();
    fs::write(&file, store(name, family, &upper))?;
    let text = fs::read_to_string(&library)?;
    fs::write(&library, format!("{text}\nmod {name};\npub use {name}::{upper};\n"))?;
    for (file, text) in changed {
        fs::write(root().join(file), text)?;
    }
    say(&format!(
        "written: {}\nnext: cargo fmt; write the store; name its test server in tests/behavior/stores.rs and what it is \
         verified against in xtask/src/docs.rs; cargo test -p primal-tests --test behavior",
        file.display()
    ));
    Ok(())
}

/// A text of a file, and what stands there instead.
struct Edit {
    file: &'static str,
    find: &'static str,
    replace: String,
}

const REGISTRY: &str = "sinks/registry/Cargo.toml";
const LIST: &str = "sinks/registry/src/lib.rs";

/// A store in the list of all stores.
fn registered(name: &str, family: &str) -> Vec<Edit> {
    let (memory, vec) = ("(\"memory\", \"memory\")", "    vec![\n");
    let upper = name.to_uppercase();
    let known = format!("(\"{name}\", \"{family}\"), {memory}");
    let built = format!("{vec}        #[cfg(feature = \"{family}\")]\n        &primal_sink_{family}::{upper},\n");
    vec![Edit { file: LIST, find: memory, replace: known }, Edit { file: LIST, find: vec, replace: built }]
}

/// The crate of a new family: a member of the workspace, and a feature of its name.
fn new_family(family: &str) -> Vec<Edit> {
    let edit = |file, find, replace| Edit { file, find, replace };
    let (members, audit) = ("    \"sinks/registry\",", "primal-audit = ");
    let (dependencies, core) = ("\n[dependencies]\n", "primal-core.workspace = true\n");
    let (default, kafka) = ("default = [", "kafka = [");
    let with = format!("default = [\"{family}\", ");
    vec![
        edit("Cargo.toml", members, format!("    \"sinks/{family}\",\n{members}")),
        edit("Cargo.toml", audit, format!("primal-sink-{family} = {{ path = \"sinks/{family}\" }}\n{audit}")),
        edit(REGISTRY, dependencies, format!("{family} = [\"dep:primal-sink-{family}\"]\n{dependencies}")),
        edit(REGISTRY, core, format!("{core}primal-sink-{family} = {{ workspace = true, optional = true }}\n")),
        edit(REGISTRY, default, with.clone()),
        edit("cli/Cargo.toml", default, with),
        edit("cli/Cargo.toml", kafka, format!("{family} = [\"primal-registry/{family}\"]\n{kafka}")),
    ]
}

/// The files as they are after the edits.
fn edited(edits: &[Edit]) -> Result<BTreeMap<&'static str, String>> {
    let mut files: BTreeMap<&'static str, String> = BTreeMap::new();
    for Edit { file, find, replace } in edits {
        let text = match files.remove(file) {
            Some(text) => text,
            None => fs::read_to_string(root().join(file)).with_context(|| (*file).to_owned())?,
        };
        ensure!(text.contains(find), "{file} has no {find:?} any more; register the store by hand");
        files.insert(file, text.replacen(find, replace, 1));
    }
    Ok(files)
}

fn manifest(family: &str) -> String {
    format!(
        "[package]\nname = \"primal-sink-{family}\"\ndescription = \"Stores of the {family} family\"\n\
         version.workspace = true\nedition.workspace = true\nrust-version.workspace = true\nlicense.workspace = true\n\
         publish.workspace = true\n\n[dependencies]\nasync-trait.workspace = true\nprimal-core.workspace = true\n\
         serde.workspace = true\n\n[lints]\nworkspace = true\n"
    )
}

fn store(name: &str, family: &str, upper: &str) -> String {
    include_str!("sink.rs.template").replace("@name@", name).replace("@family@", family).replace("@UPPER@", upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_a_new_family_finds_its_places() {
        let mut edits = registered("mango", "fruit");
        edits.extend(new_family("fruit"));
        let files = edited(&edits).unwrap();
        let holds = |file: &str, text: &str| assert!(files[file].contains(text), "{}", files[file]);
        holds("Cargo.toml", "    \"sinks/fruit\",\n");
        holds(LIST, "#[cfg(feature = \"fruit\")]\n        &primal_sink_fruit::MANGO,\n");
        holds(REGISTRY, "default = [\"fruit\", ");
        holds("cli/Cargo.toml", "fruit = [\"primal-registry/fruit\"]\n");
    }
}
