//! Backups of files on this host, for the site.
//!
//! The site asks over the control session; each backup has a session of its own, in which this side offers hashes and
//! sends what the site lacks. Nothing comes back but which blobs are needed: a backup reads nothing of a vault.
//!
//! ```text
//!  walk (threads) --> Sink: offers, window --> writer --TLS--> site
//!                       ^--------- needed ------- reader <--
//! ```
//! The tree of the last backup is remembered in a file here (see [`memory`]), so that unchanged files are not read again.
//! The site proves it: it is built on only when its root is that of the newest backup there.
//!
//! Invariants: what waits for the site is bounded (`base::limits`); a session that ends ends the walk; the memory is
//! written only after the site has said that the backup is in the vault.

pub mod memory;
mod sink;

use crate::session::{Link, SessionError, next_message};
use anyhow::{Context, Result, bail};
use lifeboat_api::types::BackupSet;
use lifeboat_base::SystemClock;
use lifeboat_base::limits::{HEARTBEAT_EVERY, MAX_BACKUP_FRAME, SESSION_SILENCE};
use lifeboat_files::exclude::Exclude;
use lifeboat_files::reader::Tree;
use lifeboat_files::walk::{WalkOptions, Walked, walk};
use lifeboat_files::{Hash, Monitor};
use lifeboat_replicate::message::{
    Backup, BackupDone, BackupEnd, BackupFrame, BackupProgress, BackupSession, backup, hello,
};
use lifeboat_replicate::shell::write_message;
use lifeboat_replicate::wire::FrameType;
use memory::Memory;
use parking_lot::Mutex;
use sink::Sink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};

/// Backups at a time.
const MOST: usize = 4;
/// Frames that wait to be written; blobs among them are no longer in the window.
const OUTGOING: usize = 4;
/// Bytes of problems, as they are told; the count tells the rest.
const MAX_TOLD: usize = 512 << 10;
/// Threads that read files.
const READERS: usize = 2;

static ROOM: Semaphore = Semaphore::const_new(MOST);

/// Begins what the site asks for; gives why not, or nothing.
pub fn start(link: &Link, request: Backup) -> String {
    let Ok(permit) = ROOM.try_acquire() else {
        return format!("{MOST} backups are under way on this host already");
    };
    let set: BackupSet = match serde_json::from_str(&request.set) {
        Ok(set) => set,
        Err(e) => return format!("this agent does not understand the set: {e}"),
    };
    let link = link.clone();
    tokio::spawn(async move {
        let _permit = permit;
        let name = set.name.clone();
        match run(&link, request.job, set).await {
            Ok(files) => tracing::info!(set = name, files, "the backup is in the vault"),
            Err(e) => tracing::warn!(set = name, "the backup was not made: {e:#}"),
        }
    });
    String::new()
}

async fn run(link: &Link, job: u64, set: BackupSet) -> Result<u64> {
    let dir = link.identity.dir().to_path_buf();
    let memory = Memory::of(&dir, &set.name);
    let remembered = {
        let memory = memory.clone();
        tokio::task::spawn_blocking(move || memory.load()).await?
    };
    let base = remembered.as_ref().map(|(root, _)| root.as_bytes().to_vec()).unwrap_or_default();
    let hello = hello::Session::Backup(BackupSession { job, base });
    let (tls, _) = link.open(link.instance, hello).await?;
    let (mut reader, mut writer) = tokio::io::split(tls);
    let begin = next(&mut reader).await?;
    let backup::Body::Begin(begin) = begin else { bail!("the site did not begin the backup") };
    let remembered = remembered.filter(|_| begin.base);

    let work = move |sink: &Sink, monitor: &Monitor| walk_into(&set, vec![dir], sink, monitor);
    let (sink, files) = make(&mut reader, &mut writer, remembered, work).await?;
    tokio::task::spawn_blocking(move || memory.save(&sink)).await?;
    Ok(files)
}

/// Makes a backup in a session in which it was begun; what was walked, and how many files.
async fn make(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    remembered: Option<Remembered>,
    work: impl FnOnce(&Sink, &Monitor) -> Result<Walked> + Send + 'static,
) -> Result<(Arc<Sink>, u64)> {
    let monitor = Arc::new(Monitor::default());
    let (sink, offers) = Sink::new(remembered);
    let sink = Arc::new(sink);
    let mut walking = {
        let (sink, monitor) = (Arc::clone(&sink), Arc::clone(&monitor));
        tokio::task::spawn_blocking(move || work(&sink, &monitor))
    };
    let mut over = false;
    let (out, blobs) = mpsc::channel(OUTGOING);
    let failed = Mutex::new(None);
    let walked = async {
        let walked = (&mut walking).await;
        over = true;
        let last = match walked.context("the walk died").and_then(|w| w) {
            Ok(walked) => backup::Body::Done(done(walked)),
            Err(e) => {
                let error = format!("{e:#}");
                *failed.lock() = Some(e);
                backup::Body::End(BackupEnd { error })
            }
        };
        let _ = out.send(frame(last)).await;
        // The site has the last word.
        std::future::pending::<Result<()>>().await
    };
    let ended = tokio::select! {
        r = listen(reader, &sink, &out) => r,
        w = send(writer, offers, blobs, &monitor) => w,
        w = walked => w,
    };
    // Whatever ended it, nothing goes on reading this host.
    monitor.cancel();
    sink.close();
    let _ = tokio::time::timeout(SESSION_SILENCE, writer.shutdown()).await;
    // Its place is free when its threads are: one may hang on a file system that is gone.
    if !over {
        drop(walking.await);
    }
    if let Some(e) = failed.into_inner() {
        return Err(e);
    }
    ended?;
    Ok((sink, monitor.files.load(Ordering::Relaxed)))
}

fn frame(body: backup::Body) -> BackupFrame {
    BackupFrame { body: Some(body) }
}

/// Hears what the site needs, until it says how it ended.
async fn listen(
    reader: &mut (impl AsyncRead + Unpin),
    sink: &Sink,
    out: &mpsc::Sender<BackupFrame>,
) -> Result<()> {
    loop {
        match next(reader).await? {
            backup::Body::Needed(needed) => sink.answered(&needed, out).await?,
            backup::Body::End(BackupEnd { error }) if error.is_empty() => return Ok(()),
            backup::Body::End(BackupEnd { error }) => bail!("{error}"),
            backup::Body::Ping(_) => {}
            other => bail!("the site sent an unexpected {}", name(&other)),
        }
    }
}

/// Writes offers and blobs, and signs of life in between.
async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    mut offers: mpsc::Receiver<BackupFrame>,
    mut blobs: mpsc::Receiver<BackupFrame>,
    monitor: &Monitor,
) -> Result<()> {
    loop {
        let frame = tokio::select! {
            Some(frame) = blobs.recv() => frame,
            Some(frame) = offers.recv() => frame,
            () = tokio::time::sleep(HEARTBEAT_EVERY) => progress(monitor),
        };
        write_message(writer, FrameType::Backup, &frame).await?;
    }
}

fn walk_into(set: &BackupSet, leave_out: Vec<PathBuf>, sink: &Sink, monitor: &Monitor) -> Result<Walked> {
    let options = WalkOptions {
        paths: set.paths.iter().map(PathBuf::from).collect(),
        // This agent's key and spool are nobody's business.
        exclude: Exclude::new(&set.exclude, &leave_out)?,
        one_file_system: set.one_file_system,
        readers: READERS,
    };
    let previous = sink.previous().map(|(root, blobs)| Tree::new(blobs, *root));
    let walked = walk(&options, previous, sink, monitor, &SystemClock)?;
    sink.finish()?;
    sink.set_root(walked.root);
    Ok(walked)
}

fn progress(monitor: &Monitor) -> BackupFrame {
    let progress = BackupProgress {
        files: monitor.files.load(Ordering::Relaxed),
        bytes: monitor.bytes.load(Ordering::Relaxed),
    };
    frame(backup::Body::Progress(progress))
}

fn done(walked: Walked) -> BackupDone {
    BackupDone {
        root: walked.root.as_bytes().to_vec(),
        files: walked.files,
        directories: walked.directories,
        bytes: walked.bytes,
        files_read: walked.files_read,
        bytes_read: walked.bytes_read,
        problems: told(walked.problems.0),
        problem_count: walked.problems.1,
    }
}

/// The problems of which a frame has room to tell.
pub(crate) fn told(mut problems: Vec<String>) -> Vec<String> {
    let mut told = 0;
    problems.retain(|p| {
        told += p.len();
        told <= MAX_TOLD
    });
    problems
}

/// The next frame of the site.
async fn next(reader: &mut (impl AsyncRead + Unpin)) -> Result<backup::Body, SessionError> {
    loop {
        let frame: BackupFrame = next_message(reader, (FrameType::Backup, MAX_BACKUP_FRAME)).await?;
        if let Some(body) = frame.body {
            return Ok(body);
        }
    }
}

fn name(body: &backup::Body) -> &'static str {
    match body {
        backup::Body::Begin(_) => "begin",
        backup::Body::Offer(_) => "offer",
        backup::Body::Needed(_) => "answer",
        backup::Body::Blob(_) => "blob",
        backup::Body::Progress(_) => "progress",
        backup::Body::Done(_) => "done",
        backup::Body::End(_) => "end",
        backup::Body::Ping(_) => "ping",
    }
}

/// Root and blobs of a tree that is remembered.
pub(crate) type Remembered = (Hash, lifeboat_files::blob::MemoryBlobs);

#[cfg(test)]
mod tests;
