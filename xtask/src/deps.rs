//! Who imports whom, as a table. A new arrow is a decision: change the table, and say why in
//! docs/ARCHITECTURE.md.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crate and what it may import. A crate that is not listed fails the check.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("block", &["base"]),
    ("replicate", &["base", "block"]),
    ("journal", &["base", "block"]),
    ("nbd", &["base", "block"]),
    ("vault", &["base", "block"]),
    ("files", &["base"]),
    ("qmp", &["base"]),
    ("api", &["base"]),
    ("agent", &["base", "block", "replicate", "nbd", "qmp", "files", "api"]),
    ("site", &["base", "block", "replicate", "journal", "vault", "files", "nbd", "qmp", "api"]),
    ("control", &["base", "api"]),
    ("lifeboat", &["base", "block", "api", "control", "site", "nbd", "vault"]),
];

/// May import anything; nothing outside this list may import them.
const DEV: &[&str] = &["sim", "bench", "e2e", "fuzz", "xtask"];

type Imports = BTreeMap<String, BTreeSet<String>>;

pub fn run() -> Result<()> {
    let metadata = metadata()?;
    let (imports, tests) = arrows(&metadata)?;
    let mut wrong = check(&imports, &tests);
    wrong.extend(sources(&metadata)?);
    if !wrong.is_empty() {
        bail!("{}\nThe tables are in xtask/src/deps.rs", wrong.join("\n"));
    }
    for (name, used) in &imports {
        println!("{name:<10} -> {}", used.iter().cloned().collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

fn metadata() -> Result<Value> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
        .arg(crate::root()?.join("Cargo.toml"))
        .output()
        .context("cannot run cargo metadata")?;
    if !out.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    serde_json::from_slice(&out.stdout).context("cargo metadata printed no JSON")
}

/// `lifeboat-journal` is `journal`; a crate without the prefix keeps its name.
fn short(name: &str) -> String {
    name.strip_prefix("lifeboat-").unwrap_or(name).to_string()
}

fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("cargo metadata has no {key}"))
}

/// Imports among the workspace's crates: of the code, and of its tests.
fn arrows(metadata: &Value) -> Result<(Imports, Imports)> {
    let members: BTreeSet<&str> =
        array(metadata, "workspace_members")?.iter().filter_map(Value::as_str).collect();
    let own: Vec<&Value> = array(metadata, "packages")?
        .iter()
        .filter(|p| p["id"].as_str().is_some_and(|id| members.contains(id)))
        .collect();
    let names: BTreeSet<String> = own.iter().filter_map(|p| p["name"].as_str()).map(short).collect();
    let (mut code, mut tests) = (Imports::new(), Imports::new());
    for package in own {
        let name = short(package["name"].as_str().unwrap_or_default());
        code.entry(name.clone()).or_default();
        for dependency in array(package, "dependencies")? {
            let used = short(dependency["name"].as_str().unwrap_or_default());
            let into = if dependency["kind"] == "dev" { &mut tests } else { &mut code };
            if names.contains(&used) {
                into.entry(name.clone()).or_default().insert(used);
            }
        }
    }
    Ok((code, tests))
}

/// Every import that the table does not have, in words.
fn check(code: &Imports, tests: &Imports) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, used) in code {
        if DEV.contains(&name.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(n, _)| n == name) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        wrong.extend(
            used.iter()
                .filter(|u| !allowed.contains(&u.as_str()))
                .map(|u| format!("{name} must not import {u}")),
        );
    }
    // Tests may reach down further than the code, but never use the tools that are tested with them.
    for (name, used) in tests.iter().filter(|(n, _)| !DEV.contains(&n.as_str())) {
        wrong.extend(
            used.iter()
                .filter(|u| DEV.contains(&u.as_str()) && *u != "sim")
                .map(|u| format!("the tests of {name} must not import {u}")),
        );
    }
    wrong
}

/// Everything comes from the registry or from this workspace.
fn sources(metadata: &Value) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for package in array(metadata, "packages")? {
        let name = package["name"].as_str().unwrap_or("?");
        match package["source"].as_str() {
            None => {}
            Some(source) if source.starts_with("registry+") => {}
            Some(source) => wrong.push(format!("{name} comes from {source}, not from the registry")),
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests;
