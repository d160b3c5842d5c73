//! Restores of backups to this host, for the site.
//!
//! The site asks over the control session; each restore has a session of its own, in which this side asks for the blobs of one
//! tree and writes the files, as a restore on the site's host does.
//!
//! ```text
//!  restore (threads) <-- Source: ahead, window <-- reader <--TLS-- site
//!                             `--- asks ---------> writer --TLS-->
//! ```
//!
//! Invariants: the host's owner may refuse all of it; what is fetched and not written is bounded (`base::limits`); no content
//! is written that does not have the hash the tree names; a session that ends ends the restore, and what is written by
//! then stays.

mod source;

use crate::backup::told;
use crate::session::{Link, SessionError, next_message};
use anyhow::{Result, bail};
use lifeboat_api::types::RestoreRequest;
use lifeboat_base::limits::{HEARTBEAT_EVERY, MAX_BACKUP_FRAME, MAX_RESTORES, SESSION_SILENCE};
use lifeboat_files::reader::Tree;
use lifeboat_files::restore::{RestoreOptions, Restored, restore};
use lifeboat_files::{FilesError, Hash, Monitor};
use lifeboat_replicate::message::restore::{Body, Restore, RestoreDone, RestoreFrame, RestoreSession};
use lifeboat_replicate::message::{BackupEnd, BackupProgress, hello};
use lifeboat_replicate::shell::write_message;
use lifeboat_replicate::wire::FrameType;
use source::Source;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Threads that write files.
const WRITERS: usize = 4;

static ROOM: Semaphore = Semaphore::const_new(MAX_RESTORES);

/// Begins what the site asks for; gives why not, or nothing.
pub fn start(link: &Link, request: Restore, allowed: bool) -> String {
    if !allowed {
        return "nothing is restored to this host: its agent runs with --no-restore".into();
    }
    let (root, options) = match understood(&request) {
        Ok(understood) => understood,
        Err(why) => return why,
    };
    let Ok(permit) = ROOM.try_acquire() else {
        return format!("{MAX_RESTORES} restores are under way on this host already");
    };
    let link = link.clone();
    tokio::spawn(async move {
        let _permit = permit;
        let target = options.target.display().to_string();
        tracing::info!(target, "the site has files restored here");
        let session = hello::Session::Restore(RestoreSession { job: request.job });
        let ended = match link.open(link.instance, session).await {
            Ok((tls, _)) => bring(tls, root, options).await,
            Err(e) => Err(e.into()),
        };
        match ended {
            Ok(files) => tracing::info!(target, files, "the restore is over"),
            Err(e) => tracing::warn!(target, "the restore ended before it was done: {e:#}"),
        }
    });
    String::new()
}

fn understood(request: &Restore) -> Result<(Hash, RestoreOptions), String> {
    let root: [u8; 32] =
        request.root.as_slice().try_into().map_err(|_| "the root's hash has the wrong length".to_string())?;
    let asked: RestoreRequest = serde_json::from_str(&request.request)
        .map_err(|e| format!("this agent does not understand the request: {e}"))?;
    let options = RestoreOptions {
        paths: asked.paths.into_iter().map(String::into_bytes).collect(),
        target: PathBuf::from(asked.target),
        overwrite: asked.overwrite,
        verify: asked.verify,
        writers: WRITERS,
    };
    if !options.target.is_absolute() {
        return Err("the target is not absolute".into());
    }
    Ok((Hash::from_bytes(root), options))
}

/// Restores in a session that is open; how many files.
async fn bring(
    session: impl AsyncRead + AsyncWrite + Unpin,
    root: Hash,
    options: RestoreOptions,
) -> Result<u64> {
    let (mut reader, mut writer) = tokio::io::split(session);
    let (source, monitor) = (Arc::new(Source::default()), Arc::new(Monitor::default()));
    let mut restoring = {
        let (source, monitor) = (Arc::clone(&source), Arc::clone(&monitor));
        tokio::task::spawn_blocking(move || restore(Tree::new(&*source, root), &options, &monitor))
    };
    let mut outcome = None;
    let ended = tokio::select! {
        r = listen(&mut reader, &source) => r,
        w = send(&mut writer, &source, &monitor, &mut restoring, &mut outcome) => w,
    };
    // Whatever ended it, nothing goes on writing to this host.
    monitor.cancel();
    source.close();
    let _ = tokio::time::timeout(SESSION_SILENCE, writer.shutdown()).await;
    match outcome {
        Some(Err(e)) => return Err(e),
        Some(Ok(())) => {}
        // Its place is free when its threads are.
        None => drop(restoring.await),
    }
    ended?;
    Ok(monitor.files.load(Ordering::Relaxed))
}

fn frame(body: Body) -> RestoreFrame {
    RestoreFrame { body: Some(body) }
}

/// Hears what comes, until the site has the last word.
async fn listen(reader: &mut (impl AsyncRead + Unpin), source: &Source) -> Result<()> {
    loop {
        match next(reader).await? {
            Body::Blob(blob) => source.came(blob)?,
            Body::Ping(_) => {}
            Body::End(BackupEnd { error }) if error.is_empty() => return Ok(()),
            Body::End(BackupEnd { error }) => bail!("{error}"),
            other => bail!("the site sent an unexpected {}", other.name()),
        }
    }
}

/// Asks for what is needed, tells how far it is, and at the end what came of it.
async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    source: &Source,
    monitor: &Monitor,
    restoring: &mut JoinHandle<Result<Restored, FilesError>>,
    outcome: &mut Option<Result<()>>,
) -> Result<()> {
    let mut tick = tokio::time::interval(HEARTBEAT_EVERY);
    loop {
        while let Some(get) = source.asks() {
            write_message(writer, FrameType::Restore, &frame(Body::Get(get))).await?;
        }
        let body = tokio::select! {
            biased;
            _ = tick.tick() => progress(monitor),
            ended = &mut *restoring, if outcome.is_none() => {
                let (told, result) = last(ended);
                *outcome = Some(result);
                told
            }
            () = source.asked.notified() => continue,
        };
        write_message(writer, FrameType::Restore, &frame(body)).await?;
    }
}

fn progress(monitor: &Monitor) -> Body {
    Body::Progress(BackupProgress {
        files: monitor.files.load(Ordering::Relaxed),
        bytes: monitor.bytes.load(Ordering::Relaxed),
    })
}

/// What is told of the end, and what it was.
fn last(ended: Result<Result<Restored, FilesError>, tokio::task::JoinError>) -> (Body, Result<()>) {
    let why = match ended {
        Ok(Ok(restored)) => return (Body::Done(done(restored)), Ok(())),
        Ok(Err(e)) => anyhow::Error::from(e),
        Err(e) => anyhow::Error::from(e).context("the restore died; see the agent's log"),
    };
    (Body::End(BackupEnd { error: format!("{why:#}") }), Err(why))
}

fn done(restored: Restored) -> RestoreDone {
    let Restored { files, bytes, verified, problems: (problems, problem_count) } = restored;
    RestoreDone { files, bytes, verified, problems: told(problems), problem_count }
}

/// The next frame of the site.
async fn next(reader: &mut (impl AsyncRead + Unpin)) -> Result<Body, SessionError> {
    loop {
        let frame: RestoreFrame = next_message(reader, (FrameType::Restore, MAX_BACKUP_FRAME)).await?;
        if let Some(body) = frame.body {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests;
