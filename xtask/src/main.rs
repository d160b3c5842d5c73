//! Checks and chores of the project: `cargo xtask --help`.

mod deps;
mod lines;
mod openapi;
mod reliability;

use anyhow::{Context, Result};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Checks and chores of the project")]
enum Task {
    /// Check who imports whom against the table, and that everything else comes from the registry
    Deps,
    /// Write docs/openapi.json from the code
    Openapi {
        /// Only compare; fail when the file is out of date
        #[arg(long)]
        check: bool,
    },
    /// Check that every test docs/reliability.md names exists, and list the failures that are open
    Reliability,
    /// List source files and functions that want a second look, by length
    Lines,
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Deps => deps::run(),
        Task::Openapi { check } => openapi::run(check),
        Task::Reliability => reliability::run(),
        Task::Lines => lines::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's directory.
fn root() -> Result<PathBuf> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map(PathBuf::from).context("xtask lies in no workspace")
}
