//! Passphrases: from a file, the environment, or a person who types them unseen.

use crate::failure::{Failure, Outcome};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;
use zeroize::Zeroizing;

/// Holds a kit's passphrase, where there is nobody to ask.
const VARIABLE: &str = "LIFEBOAT_KIT_PASSPHRASE";
/// Longest secret read, in bytes.
const MAX: u64 = 64 << 10;

/// A recovery kit's passphrase. `twice`: typed again, because nobody else knows it yet.
///
/// # Errors
/// When there is none, or the two differ.
pub fn kit_passphrase(file: Option<&Path>, twice: bool) -> Outcome<Zeroizing<String>> {
    if let Some(path) = file {
        let text = read_secret(path)?;
        let line = text.lines().next().unwrap_or_default().trim_end_matches('\r');
        return not_empty(Zeroizing::new(line.to_string()));
    }
    if let Some(text) =
        std::env::var_os(VARIABLE).and_then(|v| v.into_string().ok()).filter(|v| !v.is_empty())
    {
        return Ok(Zeroizing::new(text));
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("no passphrase is given, and there is no terminal to ask on")
            .hint(format!("give it with --passphrase-file FILE or {VARIABLE}")));
    }
    let first = ask("Passphrase of the recovery kit: ")?;
    if twice && *ask("Again: ")? != *first {
        return Err(Failure::usage("the two are not the same; nothing was written"));
    }
    not_empty(first)
}

/// A file that holds a secret, as text.
///
/// # Errors
/// When it cannot be read or is far too long.
pub fn read_secret(path: &Path) -> Outcome<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path);
    file.and_then(|f| f.take(MAX).read_to_string(&mut text))
        .map_err(|e| Failure::io(format_args!("read {}", path.display()), &e))?;
    Ok(text)
}

fn not_empty(text: Zeroizing<String>) -> Outcome<Zeroizing<String>> {
    if text.is_empty() { Err(Failure::usage("the passphrase is empty")) } else { Ok(text) }
}

/// What is typed is not shown; the terminal is as it was afterwards.
struct Unseen(Option<Termios>);

impl Unseen {
    fn begin() -> Self {
        let stdin = io::stdin();
        let Ok(before) = tcgetattr(&stdin) else { return Self(None) };
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        Self(tcsetattr(&stdin, SetArg::TCSAFLUSH, &quiet).is_ok().then_some(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, before);
            eprintln!();
        }
    }
}

fn ask(what: &str) -> Outcome<Zeroizing<String>> {
    eprint!("{what}");
    let _unseen = Unseen::begin();
    let mut text = Zeroizing::new(String::new());
    io::stdin().lock().read_line(&mut text).map_err(|e| Failure::io("read the passphrase", &e))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_string()))
}
