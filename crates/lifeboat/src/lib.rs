//! `lifeboat`: makes and runs a site, and speaks to one through its API. A library only so that its readers of files can be
//! fuzzed; the program is all there is to use.

pub mod args;
pub mod commands;
pub mod compose;
pub mod failure;
pub mod image;
pub mod out;
pub mod profile;
pub mod render;
pub mod serve;

use args::vault::{KeyCommand, VaultCommand};
use args::{Cli, Command};
use clap::Parser;
use failure::{Exit, Failure, Outcome};
use out::Out;
use std::process::ExitCode;

/// What the program does.
pub fn main() -> ExitCode {
    lifeboat_base::memory::keep();
    // Only the first call in a process can set it, and this is the first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = Cli::parse();
    let out = Out::new(cli.global.json, cli.global.no_color);
    match run(cli, out) {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => out.report(&failure).into(),
    }
}

fn run(cli: Cli, out: Out) -> Outcome {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::io("start the runtime", &e))
    };
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Init(args) => runtime()?.block_on(serve::init(args, out)),
        Command::Vault(VaultCommand::Attach(args)) => runtime()?.block_on(serve::attach::attach(*args, out)),
        Command::Vault(VaultCommand::Probe(args)) => runtime()?.block_on(serve::attach::look(args, out)),
        Command::Vault(VaultCommand::Key(KeyCommand::Replace(args))) => {
            runtime()?.block_on(serve::rekey::replace(args, out))
        }
        _ => runtime()?.block_on(commands::run(cli, out)),
    }
}
