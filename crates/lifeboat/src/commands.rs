//! What each command does: one or a few API calls, then text. Nothing here reaches the store or the data side.

mod access;
mod backup;
mod clone;
mod content;
mod export;
mod follow;
mod groups;
mod jobs;
mod points;
mod recover;
pub mod secrets;
mod servers;
mod vault;
mod watch;

pub use watch::Rpo;

use crate::args::{Cli, Command, DrillCommand};
use crate::failure::{Exit, Failure, Outcome};
use crate::out::Out;
use crate::{profile, render};
use clap::CommandFactory;
use lifeboat_api::client::{Client, ClientError, Trust};
use lifeboat_api::types::{Operation, Run};
use lifeboat_base::{Clock, SystemClock, WallTime};

/// A command's way to the site and to the person.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    pub out: Out,
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        match e {
            ClientError::Settings(why) => Self::usage(why),
            ClientError::Unreachable { url, why } => {
                Self::new(Exit::Unavailable, format!("cannot reach the site at {url}: {why}"))
                    .hint("check that `lifeboat serve` runs there and that address and port are right")
            }
            ClientError::Tls { url, why } => Self::new(
                Exit::Refused,
                format!("the site at {url} did not prove that it is the one you trust: {why}"),
            )
            .hint("compare the fingerprint with the one `lifeboat init` printed; nothing was sent to it"),
            ClientError::Api(error, _) => error.into(),
            ClientError::Protocol { url, why } => {
                Self::new(Exit::Unavailable, format!("what answers at {url} does not speak this API: {why}"))
                    .hint("check the port, and that both sides have the same version")
            }
        }
    }
}

/// This machine's time of day, for ages where the site's own is not part of the answer.
pub fn now() -> WallTime {
    SystemClock.wall()
}

/// Runs a command that is a client of the API, or needs no site at all.
///
/// # Errors
/// What went wrong, with its exit code.
pub async fn run(cli: Cli, out: Out) -> Outcome {
    match &cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "lifeboat", &mut script);
            return out.bytes(&script);
        }
        Command::Openapi => return out.line(crate::compose::openapi().trim_end()),
        Command::Login => return access::login(&cli.global, out).await,
        _ => {}
    }
    let kept = profile::path().and_then(|p| profile::load(&p));
    // A complete set of flags needs no remembered site.
    let kept = if cli.global.url.is_some() { kept.unwrap_or_default() } else { kept? };
    let session = Session::open(&profile::endpoint(&cli.global, kept)?, out)?;
    session.run(cli.command).await
}

impl Session {
    /// # Errors
    /// When the endpoint's parts cannot be used.
    pub fn open(endpoint: &profile::Endpoint, out: Out) -> Outcome<Self> {
        let trust = Trust::Fingerprint(endpoint.fingerprint);
        Ok(Self { client: Client::connect(&endpoint.url, &trust, Some(&endpoint.token))?, out })
    }

    async fn run(&self, command: Command) -> Outcome {
        match command {
            Command::Status(args) => self.status(&args).await,
            Command::Protect(args) => self.protect(*args).await,
            Command::Servers => self.servers().await,
            Command::Server(args) => self.server(&args.name).await,
            Command::Stop(args) => self.stop(&args.name).await,
            Command::Resume(args) => self.resume(&args.name).await,
            Command::Delete(args) => self.delete(&args).await,
            Command::Set(args) => self.set(&args).await,
            Command::Accept(args) => self.accept(&args).await,
            Command::Rpo(args) => self.rpo(&args).await,
            Command::Verify(args) => self.verify(&args).await,
            Command::Check(args) => self.check(&args).await,
            Command::Branches(args) => self.branches(args).await,
            Command::Group(command) => self.group(command).await,
            Command::Points(args) => self.points(args).await,
            Command::Mount(args) => self.mount(args).await,
            Command::Mounts => {
                self.out.answer(&self.client.mounts().await?, |m, _| render::points::mounts(m))
            }
            Command::Unmount(args) => self.unmount(&args.id).await,
            Command::Export(args) => self.export(args).await,
            Command::Clone(args) => self.clone_point(args).await,
            Command::Hold(args) => self.hold(args).await,
            Command::Files(args) => self.files(args).await,
            Command::Vault(command) => self.vault(command).await,
            Command::Backup(command) => self.backup(command).await,
            Command::Drill(args) => match args.command {
                Some(DrillCommand::Cleanup(run)) => self.cleanup(&run.run, false, false).await,
                None => self.drill(args).await,
            },
            Command::Cleanup(args) => self.cleanup(&args.run, args.delete_disks, args.yes).await,
            Command::Runs => self.runs().await,
            Command::Run(args) => self.show_run(&args.run).await,
            Command::Screen(args) => self.screen(args).await,
            Command::Serial(args) => self.serial(&args.run).await,
            Command::Failover(args) => self.failover(args).await,
            Command::Commit(args) => self.commit(args).await,
            Command::Operations => self.operations().await,
            Command::Op(args) => self.op(&args.id, args.follow).await,
            Command::Token(command) => self.token(command).await,
            Command::Agents(args) => self.agents(args.command).await,
            Command::Audit(args) => self.audit(args).await,
            Command::Init(_)
            | Command::Serve(_)
            | Command::Login
            | Command::Completion { .. }
            | Command::Openapi => {
                Err(Failure::failed("this command was sent the wrong way; that is a defect of lifeboat"))
            }
        }
    }

    /// The run that `text` names: its id, or the start of only one.
    async fn find_run(&self, text: &str) -> Outcome<Run> {
        match text.parse() {
            Ok(id) => Ok(self.client.run(id).await?),
            Err(_) => only_one("run", text, self.client.runs().await?, |r| r.id.to_string()),
        }
    }

    /// The operation that `text` names: its id, or the start of only one.
    async fn find_operation(&self, text: &str) -> Outcome<Operation> {
        match text.parse() {
            Ok(id) => Ok(self.client.operation(id).await?),
            Err(_) => {
                let all = self.client.operations(&Default::default()).await?;
                only_one("operation", text, all, |o| o.id.to_string())
            }
        }
    }
}

/// The one element whose id starts with `text`.
fn only_one<T>(what: &str, text: &str, all: Vec<T>, id: impl Fn(&T) -> String) -> Outcome<T> {
    let wanted = text.to_ascii_lowercase();
    let mut found = all.into_iter().filter(|t| !wanted.is_empty() && id(t).starts_with(&wanted));
    let first = found.next().ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("no {what} has an id that starts with '{text}'"))
            .hint(format!("list them: lifeboat {what}s"))
    })?;
    match found.next() {
        None => Ok(first),
        Some(_) => Err(Failure::usage(format!("more than one {what} has an id that starts with '{text}'"))
            .hint("write more of it")),
    }
}

#[cfg(test)]
mod tests;
