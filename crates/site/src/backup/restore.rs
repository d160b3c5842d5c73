//! Bringing files back: to this host, or to an agent's.
//!
//! For an agent's host the agent is asked over its control session; it opens a session for that one restore, asks for the
//! blobs of the tree and writes the files, as this site does on its own host.
//!
//! ```text
//!  job ── Restore{job, root, request} ──> agent           (control session)
//!  job <── Hello: RestoreSession{job} ──                  (its own session)
//!      <── Get ──> givers (threads): vault ── Blob ──>    ...   <── Done ──   ── End ──>
//! ```
//!
//! Invariants: blobs are given to the session of a restore that an admin asked for, to its agent, and only while the job
//! lives; who asks for a blob knows its hash, so has the tree that names it. What an agent has asked for is bounded, and so
//! is what is read for it. The backup stays as long as it is read.

pub(crate) mod session;

use super::door::{LOOK_EVERY, Line, PATIENCE, agent_id, broken, clip};
use super::{Backups, THREADS, files_error, find, watched};
use crate::Site;
use crate::vault::jobs::JobControl;
use lifeboat_api::port::PortError;
use lifeboat_api::types::{ErrorCode, RestoreReport, RestoreRequest, VaultJob, VaultJobResult};
use lifeboat_base::AgentId;
use lifeboat_base::limits::{RESTORE_ASKED, RESTORE_GET};
use lifeboat_files::blob::MAX_BLOB;
use lifeboat_files::reader::Tree;
use lifeboat_files::report::MAX_PROBLEMS;
use lifeboat_files::restore::{RestoreOptions, restore};
use lifeboat_files::{BlobError, BlobKind, BlobSource, Hash, Monitor};
use lifeboat_replicate::message::restore::{
    Body, Restore, RestoreBlob, RestoreDone, RestoreFrame, RestoreGet,
};
use lifeboat_replicate::message::{BackupEnd, control};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::mpsc;

/// Threads that read what an agent asks for; each holds one blob.
const GIVERS: usize = 4;
/// Blobs that wait for a slow agent.
const OUTGOING: usize = 4;

pub(crate) enum Incoming {
    Opened,
    Frame(Body),
}

impl Backups {
    /// Brings files back to this host. For a job.
    fn restore(&self, request: &RestoreRequest, control: &JobControl) -> Result<RestoreReport, PortError> {
        let (source, root, _reading) = self.tree(&request.backup)?;
        let options = RestoreOptions {
            paths: request.paths.iter().map(|p| p.clone().into_bytes()).collect(),
            target: PathBuf::from(&request.target),
            overwrite: request.overwrite,
            verify: request.verify,
            writers: THREADS,
        };
        absolute(request)?;
        control.step("restoring");
        let monitor = Monitor::default();
        let restored = watched(&monitor, control, || restore(Tree::new(&*source, root), &options, &monitor));
        let restored = restored.map_err(|e| files_error(&e))?;
        let (errors, error_count) = restored.problems;
        Ok(RestoreReport {
            files: restored.files,
            bytes: restored.bytes,
            verified: restored.verified,
            errors,
            error_count,
        })
    }
}

fn absolute(request: &RestoreRequest) -> Result<(), PortError> {
    if Path::new(&request.target).is_absolute() {
        return Ok(());
    }
    let whose = if request.agent.is_some() { "the agent's" } else { "this site's" };
    Err(PortError::new(ErrorCode::Invalid, "the target is not absolute")
        .hint(format!("name a directory of {whose} host, from / on")))
}

/// Where a restore writes, as the job's subject ends.
fn place(request: &RestoreRequest) -> String {
    match &request.agent {
        None => request.target.clone(),
        Some(agent) => format!("{} on {agent}", request.target),
    }
}

impl Site {
    /// Brings files back, as a job.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while another restores to the same place; why the vault cannot be used.
    pub(crate) fn start_restore(self: &Arc<Self>, request: RestoreRequest) -> Result<VaultJob, PortError> {
        find(&self.vault.open()?, &request.backup)?;
        let site = Arc::clone(self);
        let place = place(&request);
        let subject = format!("{} to {place}", request.backup);
        let alone = move |job: &VaultJob| {
            job.kind == "restore" && job.subject.rsplit_once(" to ").is_some_and(|(_, p)| p == place)
        };
        self.vault.jobs.start(("restore", &subject), alone, move |control| {
            let restored = match &request.agent {
                None => site.backups.restore(&request, control),
                Some(agent) => site.restore_through(agent, &request, control),
            };
            restored.map(VaultJobResult::Restore)
        })
    }

    /// Has an agent bring files back to its host. Blocks.
    fn restore_through(
        &self,
        agent: &str,
        request: &RestoreRequest,
        control: &JobControl,
    ) -> Result<RestoreReport, PortError> {
        absolute(request)?;
        let agent = agent_id(agent)?;
        let (source, root, _reading) = self.backups.tree(&request.backup)?;
        let mut line = self.ask_for_restore(agent, root, request, control)?;
        control.step("the agent restores");
        let giver = Giver {
            source: &*source,
            runtime: tokio::runtime::Handle::current(),
            answers: line.answers.clone(),
            over: AtomicBool::new(false),
        };
        let (wants, asked) = sync_channel(RESTORE_ASKED);
        let asked = Mutex::new(asked);
        let done = std::thread::scope(|scope| {
            for _ in 0..GIVERS {
                scope.spawn(|| giver.give(&asked));
            }
            let done = serve(&mut line, &wants, control);
            giver.over.store(true, Ordering::Release);
            drop(wants);
            done
        });
        let error = done.as_ref().err().map(|e| e.message.clone()).unwrap_or_default();
        // Whether it hears of it or not: its result is here.
        line.tell(frame(Body::End(BackupEnd { error })));
        done.map(report)
    }

    /// Asks, and waits until the agent's session is there.
    fn ask_for_restore(
        &self,
        agent: AgentId,
        root: Hash,
        request: &RestoreRequest,
        control: &JobControl,
    ) -> Result<Line<Incoming, RestoreFrame>, PortError> {
        control.step("waiting for the agent");
        let job = self.entropy.next_u64();
        // Which agent it is it knows.
        let text = serde_json::to_string(&RestoreRequest { agent: None, ..request.clone() });
        let request = text
            .map_err(|e| PortError::new(ErrorCode::Internal, format!("the request cannot be told: {e}")))?;
        let (_place, mut line) = self.backups.restores.wait(job, agent, OUTGOING);
        let asked = Restore { job, root: root.as_bytes().to_vec(), request };
        self.ask_agent(agent, job, control::Body::Restore(asked))?;
        match line.receive(PATIENCE) {
            Some(Incoming::Opened) => Ok(line),
            _ => Err(PortError::new(ErrorCode::Unavailable, "the agent did not open its session")
                .hint("see the agent's log")),
        }
    }
}

fn frame(body: Body) -> RestoreFrame {
    RestoreFrame { body: Some(body) }
}

/// Passes on what the agent asks for, until it says how it ended.
fn serve(
    line: &mut Line<Incoming, RestoreFrame>,
    wants: &SyncSender<(BlobKind, Hash)>,
    control: &JobControl,
) -> Result<RestoreDone, PortError> {
    loop {
        if control.cancelled() {
            return Err(PortError::new(ErrorCode::Conflict, "it was cancelled; what is written stays"));
        }
        match line.receive(LOOK_EVERY) {
            Some(Incoming::Frame(Body::Get(get))) => ask(get, wants)?,
            Some(Incoming::Frame(Body::Progress(p))) => control.progress(p.files, 0, "files"),
            Some(Incoming::Frame(Body::Done(done))) => {
                control.progress(done.files, 0, "files");
                return Ok(done);
            }
            Some(Incoming::Frame(Body::End(end))) => {
                let text = format!("the agent could not restore: {}", clip(end.error));
                return Err(PortError::new(ErrorCode::Unavailable, text));
            }
            Some(Incoming::Frame(other)) => return Err(broken(format!("an unexpected {}", other.name()))),
            Some(Incoming::Opened) => return Err(broken("it opened its session twice")),
            None if line.ended() => {
                let text = "the agent's session ended before the restore did; what is written stays";
                return Err(PortError::new(ErrorCode::Unavailable, text).hint(
                    "see why the agent is away: lifeboat agents; then restore again, with --overwrite to replace what \
                     is there",
                ));
            }
            None => {}
        }
    }
}

fn ask(get: RestoreGet, wants: &SyncSender<(BlobKind, Hash)>) -> Result<(), PortError> {
    if get.blobs.is_empty() || get.blobs.len() > RESTORE_GET {
        return Err(broken("a request is empty or too long"));
    }
    for blob in get.blobs {
        let hash: [u8; 32] =
            blob.hash.as_slice().try_into().map_err(|_| broken("a hash has the wrong length"))?;
        let kind = if blob.tree { BlobKind::Tree } else { BlobKind::File };
        match wants.try_send((kind, Hash::from_bytes(hash))) {
            Err(TrySendError::Full(_)) => return Err(broken("it asks for too much at a time")),
            // Those who would give it have found the session gone.
            Err(TrySendError::Disconnected(_)) | Ok(()) => {}
        }
    }
    Ok(())
}

/// Gives an agent what it asks for.
struct Giver<'a> {
    source: &'a dyn BlobSource,
    runtime: tokio::runtime::Handle,
    answers: mpsc::Sender<RestoreFrame>,
    over: AtomicBool,
}

impl Giver<'_> {
    fn give(&self, asked: &Mutex<Receiver<(BlobKind, Hash)>>) {
        loop {
            // In a statement of its own: the lock is not held while it is read.
            let next = asked.lock().recv();
            let Ok((kind, hash)) = next else { return };
            if self.over.load(Ordering::Acquire) {
                return;
            }
            let blob = answer(hash, self.source.get(kind, &hash));
            if !self.hand_over(frame(Body::Blob(blob))) {
                return;
            }
        }
    }

    /// Waits for room as long as the job lives; whether there was some.
    fn hand_over(&self, frame: RestoreFrame) -> bool {
        loop {
            let room = async { tokio::time::timeout(LOOK_EVERY, self.answers.reserve()).await };
            match self.runtime.block_on(room) {
                Ok(Ok(room)) => {
                    room.send(frame);
                    return true;
                }
                Ok(Err(_)) => return false,
                Err(_) if self.over.load(Ordering::Acquire) => return false,
                Err(_) => {}
            }
        }
    }
}

fn answer(hash: Hash, read: Result<bytes::Bytes, BlobError>) -> RestoreBlob {
    let blob = RestoreBlob { hash: hash.as_bytes().to_vec(), ..RestoreBlob::default() };
    match read {
        Ok(content) if content.len() > MAX_BLOB => {
            RestoreBlob { error: format!("content {hash} is no part of a backup"), ..blob }
        }
        Ok(content) => RestoreBlob { content, ..blob },
        Err(BlobError::Missing(_)) => RestoreBlob { missing: true, ..blob },
        Err(e) => RestoreBlob { error: clip(e.to_string()), ..blob },
    }
}

fn report(done: RestoreDone) -> RestoreReport {
    RestoreReport {
        files: done.files,
        bytes: done.bytes,
        verified: done.verified,
        errors: done.problems.into_iter().take(MAX_PROBLEMS).map(clip).collect(),
        error_count: done.problem_count,
    }
}

#[cfg(test)]
mod tests;
