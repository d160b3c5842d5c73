//! Source files and functions that grew long. The hard limit fails; the rest is a list to look at.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this wants a second look.
const FILE_LOOK: usize = 500;
/// A file longer than this fails.
const FILE_MOST: usize = 800;
/// A function longer than this wants a second look.
const FUNCTION_LOOK: usize = 70;

pub fn run() -> Result<()> {
    let root = crate::root()?;
    let mut files = Vec::new();
    for dir in ["crates", "xtask", "tests", "fuzz"] {
        rust_files(&root.join(dir), &mut files)?;
    }
    files.sort();
    let mut too_long = Vec::new();
    for path in &files {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(&root).unwrap_or(path).display().to_string();
        let lines = text.lines().count();
        if lines > FILE_MOST {
            too_long.push(format!("{name} has {lines} lines"));
        } else if lines > FILE_LOOK {
            println!("{lines:>5}  {name}");
        }
        for (line, function, length) in functions(&text) {
            if length > FUNCTION_LOOK {
                println!("{length:>5}  {name}:{line} {function}");
            }
        }
    }
    if !too_long.is_empty() {
        bail!("{}\nSplit it: at most {FILE_MOST} lines a file", too_long.join("\n"));
    }
    println!("{} files looked at", files.len());
    Ok(())
}

/// Every Rust file below `dir`.
pub fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// Line, name and length of each function. Leans on rustfmt: a function ends at the brace in its own column.
fn functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line).filter(|_| !line.ends_with([';', '}'])) else { continue };
        let column = indent(line);
        let end = lines[i..].iter().position(|l| indent(l) == column && l.trim_start().starts_with('}'));
        if let Some(length) = end {
            found.push((i + 1, name, length + 1));
        }
    }
    found
}

/// The name of the function that begins on this line.
pub fn function_name(line: &str) -> Option<String> {
    let (before, after) = line.split_once("fn ")?;
    let words = ["pub", "pub(crate)", "pub(super)", "async", "const", "unsafe", "extern", "\"C\""];
    if !before.split_whitespace().all(|w| words.contains(&w)) {
        return None;
    }
    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    Some(after[..end].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_measured_from_its_name_to_its_brace() {
        let text =
            "impl A {\n    pub async fn f(\n        x: u8,\n    ) {\n        g();\n    }\n}\n\nfn one() {}\n";
        assert_eq!(functions(text)[0], (2, "f".into(), 5));
    }

    #[test]
    fn a_word_that_is_no_function_is_not_one() {
        assert_eq!(function_name("// a fn is here"), None);
        assert_eq!(function_name("    pub(crate) const fn a_1(x: u8) {"), Some("a_1".into()));
    }
}
