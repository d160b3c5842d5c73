//! `lifeboat`: makes and runs a site, and speaks to one through its API.

mod args;
mod commands;
mod compose;
mod failure;
mod image;
mod out;
mod profile;
mod render;
mod serve;

use args::{Cli, Command};
use clap::Parser;
use failure::{Exit, Failure, Outcome};
use out::Out;
use std::process::ExitCode;

fn main() -> ExitCode {
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
        _ => runtime()?.block_on(commands::run(cli, out)),
    }
}
