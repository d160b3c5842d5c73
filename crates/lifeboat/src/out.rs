//! Where output goes: tables and progress for a terminal, plain lines for a pipe, JSON on request.
//!
//! Invariants: answers go to stdout, progress and errors to stderr; nothing that moves is written to
//! what is not a terminal; a reader that goes away ends the program quietly.

use crate::failure::{Exit, Failure, Outcome};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// How to write for the reader at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub color: bool,
}

impl Style {
    #[cfg(test)]
    pub const PLAIN: Style = Style { color: false };

    fn paint(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Out {
    pub json: bool,
    pub style: Style,
    /// stdout is a terminal.
    pub terminal: bool,
    /// stderr is a terminal, so bars and spinners may move there.
    pub live: bool,
}

impl Out {
    pub fn new(json: bool, no_color: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let asked_off = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self {
            json,
            style: Style { color: terminal && !no_color && !asked_off },
            terminal,
            live: io::stderr().is_terminal(),
        }
    }

    /// Writes `text` and a line end to stdout.
    ///
    /// # Errors
    /// When stdout cannot take it. Does not return when its reader went away.
    pub fn line(&self, text: impl AsRef<str>) -> Outcome {
        let mut text = text.as_ref().to_string();
        text.push('\n');
        self.bytes(text.as_bytes())
    }

    /// # Errors
    /// As [`line`](Self::line).
    pub fn bytes(&self, bytes: &[u8]) -> Outcome {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(e) => Err(Failure::io("write to standard output", &e)),
        }
    }

    /// Prints `value` as JSON when asked for, else what `human` makes of it.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub fn answer<T: Serialize>(&self, value: &T, human: impl FnOnce(&T, Style) -> String) -> Outcome {
        if self.json {
            let text = serde_json::to_string_pretty(value)
                .map_err(|e| Failure::failed(format!("cannot write the answer as JSON: {e}")))?;
            self.line(text)
        } else {
            self.line(human(value, self.style).trim_end())
        }
    }

    /// A remark for people, on stderr; silent with `--json`.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.json {
            eprintln!("{}", text.as_ref());
        }
    }

    /// Reports a failure on stderr and returns its exit code.
    pub fn report(&self, failure: &Failure) -> Exit {
        if self.json {
            eprintln!("{}", serde_json::json!({ "error": failure.message, "hint": failure.hint }));
        } else {
            eprintln!("{failure}");
        }
        failure.exit
    }
}

/// Asks a person to type `word`; `consequence` says what will happen.
///
/// # Errors
/// Where nobody can be asked, or something else is typed.
pub fn confirm(consequence: &str, word: &str) -> Outcome {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(format!(
            "{consequence} That needs a confirmation, and there is no terminal to ask on"
        ))
        .hint("add --yes"));
    }
    eprint!("{consequence}\nType '{word}' to go on: ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|e| Failure::io("read the answer", &e))?;
    if answer.trim() == word {
        Ok(())
    } else {
        Err(Failure::new(Exit::Refused, "not confirmed; nothing was changed"))
    }
}
