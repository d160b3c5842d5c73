//! `docs/reliability.md` says which test covers which failure; here every test it names must exist, and every row
//! must name one or say why it is open.
//!
//! A row of the table: `| number | what is injected | where | tests, or "open: " and the reason |`. A test is named
//! `CRATE::path::function` in backquotes.

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const PAGE: &str = "docs/reliability.md";
/// Rows of the contract.
const ROWS: u32 = 39;

pub fn run() -> Result<()> {
    let root = crate::root()?;
    let text = fs::read_to_string(root.join(PAGE)).with_context(|| format!("cannot read {PAGE}"))?;
    let have = functions(&root)?;
    let (rows, mut wrong) = rows(&text);
    let mut named = 0;
    for row in &rows {
        let missing = row.tests.iter().filter(|t| !exists(t, &have));
        wrong.extend(missing.map(|t| format!("row {}: there is no test {t}", row.number)));
        named += row.tests.len();
        if let Some(reason) = &row.open {
            println!("open  {:>2}  {reason}", row.number);
        }
    }
    let elsewhere = text.lines().filter(|l| !l.starts_with("| ") || l.split(" | ").count() != 4);
    for test in elsewhere.flat_map(|l| l.split('`').skip(1).step_by(2)).filter(|t| t.contains("::")) {
        if !exists(test, &have) {
            wrong.push(format!("there is no test {test}"));
        }
        named += 1;
    }
    if !wrong.is_empty() {
        bail!("{}\nThe table is in {PAGE}", wrong.join("\n"));
    }
    let open = rows.iter().filter(|r| r.open.is_some()).count();
    println!(
        "{} rows of failures, {} with tests, {open} open or open in part, {named} tests named",
        rows.len(),
        { rows.iter().filter(|r| !r.tests.is_empty()).count() }
    );
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    number: u32,
    tests: Vec<String>,
    open: Option<String>,
}

/// The table's rows, and what is wrong with it as a whole.
fn rows(text: &str) -> (Vec<Row>, Vec<String>) {
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [number, _, _, covered] = cells[..] else { continue };
        let Ok(number) = number.parse() else { continue };
        let tests: Vec<String> =
            covered.split('`').skip(1).step_by(2).filter(|t| t.contains("::")).map(String::from).collect();
        let open = covered.split_once("open: ").map(|(_, why)| why.trim_end_matches([' ', '|']).to_owned());
        if tests.is_empty() && open.is_none() {
            wrong.push(format!("row {number} names no test and does not say why it is open"));
        }
        rows.push(Row { number, tests, open });
    }
    let numbers: Vec<u32> = rows.iter().map(|r| r.number).collect();
    if numbers != (1..=ROWS).collect::<Vec<_>>() {
        wrong.push(format!("the rows are {numbers:?}, not 1 to {ROWS} in order"));
    }
    (rows, wrong)
}

/// `path/of/file::function` of every function in the sources.
fn functions(root: &Path) -> Result<BTreeSet<String>> {
    let mut files = Vec::new();
    for dir in ["crates", "tests", "fuzz"] {
        crate::lines::rust_files(&root.join(dir), &mut files)?;
    }
    let mut found = BTreeSet::new();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = path.strip_prefix(root).unwrap_or(&path).with_extension("").display().to_string();
        let names = text.lines().filter_map(|l| crate::lines::function_name(l).or_else(|| generated(l)));
        found.extend(names.map(|name| format!("{file}::{name}")));
        // A list of names that a macro makes tests of, as the fuzz targets are.
        if let Some(list) = text.split_once("hold! {\n").and_then(|(_, rest)| rest.split_once("\n}")) {
            found.extend(list.0.split_whitespace().map(|name| format!("{file}::{name}")));
        }
    }
    Ok(found)
}

/// A function inside `proptest!`, whose arguments may begin on the same line.
fn generated(line: &str) -> Option<String> {
    let (name, _) = line.trim_start().strip_prefix("fn ")?.split_once('(')?;
    Some(name.to_owned())
}

/// Whether a test is there: its crate's directory, its modules in order, its name.
fn exists(test: &str, have: &BTreeSet<String>) -> bool {
    let parts: Vec<&str> = test.split("::").collect();
    let [krate, modules @ .., function] = &parts[..] else { return false };
    have.iter().any(|f| {
        let Some((file, name)) = f.split_once("::") else { return false };
        let mut steps = file.split('/');
        name == *function && steps.any(|s| s == *krate) && modules.iter().all(|m| steps.any(|s| s == *m))
    })
}

#[cfg(test)]
mod tests;
