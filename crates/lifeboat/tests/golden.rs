//! What a person sees who types something wrong, kept word for word.
//!
//! A script in `golden/` is a list of commands, each followed by what it must print:
//!
//! ```text
//! $ lifeboat points              a command; runs in an empty directory of its own script
//! > stdout, one line each
//! ! stderr, one line each
//! ? 2                            exit code, when it is not 0
//! < site.toml                    writes the following '|' lines to a file first
//! | name = 'a'
//! ```
//!
//! `[DIR]` stands for the directory. `UPDATE_GOLDEN=1` rewrites the scripts from what is printed now.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn scripts() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    found.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    found.sort();
    assert!(!found.is_empty());
    found
}

/// The command's words; quotes group, as far as the scripts need it.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

fn run(line: &str, dir: &Path) -> String {
    let words = words(&line.replace("[DIR]", dir.to_str().unwrap()));
    assert_eq!(words[0], "lifeboat");
    let out = Command::new(env!("CARGO_BIN_EXE_lifeboat"))
        .args(&words[1..])
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir)
        .env("COLUMNS", "100")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut seen = format!("$ {line}\n");
    for (mark, bytes) in [('>', out.stdout), ('!', out.stderr)] {
        let text = String::from_utf8(bytes).unwrap().replace(dir.to_str().unwrap(), "[DIR]");
        for line in text.lines() {
            writeln!(seen, "{}", format!("{mark} {line}").trim_end()).unwrap();
        }
    }
    match out.status.code() {
        Some(0) => {}
        code => writeln!(seen, "? {}", code.map_or("killed".into(), |c| c.to_string())).unwrap(),
    }
    seen
}

/// Runs a script; the answer is the script as it would be written now.
fn replay(script: &str) -> String {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().canonicalize().unwrap();
    let mut seen = String::new();
    let mut lines = script.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(command) = line.strip_prefix("$ ") {
            seen.push_str(&run(command, &dir));
        } else if let Some(file) = line.strip_prefix("< ") {
            let mut content = String::new();
            writeln!(seen, "{line}").unwrap();
            while let Some(text) = lines.next_if(|l| l.starts_with('|')) {
                writeln!(seen, "{text}").unwrap();
                writeln!(content, "{}", text[1..].strip_prefix(' ').unwrap_or("")).unwrap();
            }
            fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
            fs::write(dir.join(file), content).unwrap();
        } else if !line.starts_with(['>', '!', '?']) {
            writeln!(seen, "{line}").unwrap();
        }
    }
    seen
}

#[test]
fn commands_print_what_they_printed() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = String::new();
    for path in scripts() {
        let kept = fs::read_to_string(&path).unwrap();
        let seen = replay(&kept);
        if update {
            fs::write(&path, seen).unwrap();
        } else if seen != kept {
            let name = path.file_name().unwrap().display();
            for (a, b) in kept.lines().zip(seen.lines()).filter(|(a, b)| a != b).take(3) {
                write!(wrong, "\n{name}\n  kept {a}\n  seen {b}").unwrap();
            }
            if kept.lines().count() != seen.lines().count() {
                write!(wrong, "\n{name}: {} lines kept, {} seen", kept.lines().count(), seen.lines().count())
                    .unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}\nwhere the change is wanted: UPDATE_GOLDEN=1");
}
