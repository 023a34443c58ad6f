//! `cargo xtask new-sink`: the skeleton of a store. It compiles, is registered, and fails the behaviour suite until it is
//! written.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::{root, say};

pub fn run(name: &str, family: &str) -> Result<()> {
    for word in [name, family] {
        let plain = word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ensure!(plain, "{word:?}: lower-case letters and digits, beginning with a letter");
    }
    let crate_folder = root().join("sinks").join(family);
    let upper = name.to_uppercase();
    let file = crate_folder.join(format!("src/{name}.rs"));
    ensure!(!file.exists(), "{} exists", file.display());
    if !crate_folder.exists() {
        fs::create_dir_all(crate_folder.join("src"))?;
        fs::write(crate_folder.join("Cargo.toml"), manifest(family))?;
        fs::write(
            crate_folder.join("src/lib.rs"),
            format!("//! Stores of the {family} family. One file per store.\n"),
        )?;
        edit("Cargo.toml", "    \"sinks/registry\",", &format!("    \"sinks/{family}\",\n    \"sinks/registry\","))?;
        let dependency = format!("primal-sink-{family} = {{ path = \"sinks/{family}\" }}\n");
        edit("Cargo.toml", "primal-audit = ", &format!("{dependency}primal-audit = "))?;
        let registry = "sinks/registry/Cargo.toml";
        edit(
            registry,
            "\n[dependencies]\n",
            &format!("{family} = [\"dep:primal-sink-{family}\"]\n\n[dependencies]\n"),
        )?;
        let optional = format!("primal-sink-{family} = {{ workspace = true, optional = true }}\n");
        edit(registry, "primal-core.workspace = true\n", &format!("primal-core.workspace = true\n{optional}"))?;
        edit(registry, "default = [", &format!("default = [\"{family}\", "))?;
        edit("cli/Cargo.toml", "default = [", &format!("default = [\"{family}\", "))?;
        edit("cli/Cargo.toml", "kafka = [", &format!("{family} = [\"primal-registry/{family}\"]\nkafka = ["))?;
    }
    fs::write(&file, store(name, family, &upper))?;
    let library = crate_folder.join("src/lib.rs");
    let text = fs::read_to_string(&library)?;
    fs::write(&library, format!("{text}\nmod {name};\npub use {name}::{upper};\n"))?;
    let registry = "sinks/registry/src/lib.rs";
    edit(registry, "    &[(\"memory\"", &format!("    &[(\"{name}\", \"{family}\"), (\"memory\""))?;
    edit(
        registry,
        "    vec![\n",
        &format!("    vec![\n        #[cfg(feature = \"{family}\")]\n        &primal_sink_{family}::{upper},\n"),
    )?;
    say(&format!(
        "written: {}\nnext: cargo fmt; write the store; name its test server in tests/behavior/stores.rs and what it is \
         verified against in xtask/src/docs.rs; cargo test -p primal-tests --test behavior",
        file.display()
    ));
    Ok(())
}

fn edit(file: &str, find: &str, replace: &str) -> Result<()> {
    let path = root().join(file);
    let text = fs::read_to_string(&path).with_context(|| file.to_owned())?;
    ensure!(text.contains(find), "{file} has no {find:?} any more; register the store by hand");
    fs::write(&path, text.replacen(find, replace, 1))?;
    Ok(())
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
