//! Backups through an agent.
//!
//! The site asks the agent over its control session; the agent opens a session for that one backup, offers the hashes of
//! its blobs and sends what the site lacks. The site writes; the agent never reads and never deletes.
//!
//! ```text
//!  job ── Backup{job, set} ──> agent            (control session)
//!  job <── Hello: BackupSession{job, base} ──   (its own session; base: root of the tree the agent remembers)
//!      ── Begin{base} ──>   <── Offer ──   ── Needed ──>   <── Blob ──   ...   <── Done ──   ── End ──>
//! ```
//! What the agent remembers of the last tree is its own cache; the site proves it by its hash: it is built on only when it
//! is the tree of the newest backup here.
//!
//! Invariants: every blob of a tree is decoded here, and all it names is in the vault before it is taken: so a tree that
//! counts resolves, whoever sent it. Nothing is believed because the vault has it already: what is content to one is not a
//! directory to another.

use super::blobs::{VaultSource, kind};
use super::door::{self, LOOK_EVERY, Line, PATIENCE, agent_id, clip};
use super::{Backups, Failed};
use crate::Site;
use crate::vault::jobs::JobControl;
use lifeboat_api::port::PortError;
use lifeboat_api::types::{BackupSet, ErrorCode};
use lifeboat_base::AgentId;
use lifeboat_base::limits::BACKUP_OFFER;
use lifeboat_files::blob::MAX_BLOB;
use lifeboat_files::report::MAX_PROBLEMS;
use lifeboat_files::tree::{Reference, references, what};
use lifeboat_files::walk::Walked;
use lifeboat_files::{BlobKind, BlobSource, Hash};
use lifeboat_replicate::message::{
    Backup, BackupBegin, BackupBlob, BackupDone, BackupEnd, BackupFrame, BackupNeeded, BackupOffer, backup,
    control,
};
use lifeboat_vault::{Owner, Session, Snapshot};
use std::collections::HashMap;
use std::sync::Arc;

/// Answers that wait for a slow agent; it has fewer offers out.
const OUTGOING: usize = 2 * lifeboat_base::limits::BACKUP_OFFERS;

pub(crate) enum Incoming {
    Opened { base: Vec<u8> },
    Frame(backup::Body),
}

fn frame(body: backup::Body) -> BackupFrame {
    BackupFrame { body: Some(body) }
}

impl Site {
    /// Has an agent walk its host into the vault. Blocks.
    pub(super) fn make_through(
        &self,
        agent: &str,
        set: &BackupSet,
        control: &JobControl,
        anew: bool,
    ) -> Result<Arc<Snapshot>, Failed> {
        let vault = self.vault.open()?;
        let agent = agent_id(agent)?;
        let begun = self.clock.wall();
        let session = vault.begin(Owner::Set(set.name.clone()))?;
        let previous = Backups::newest(&vault, &set.name).filter(|_| !anew).and_then(|s| s.body.tree);
        let mut line = self.ask_for_backup(agent, set, control)?;
        control.step("the agent reads files");
        let base = line.begin(previous)?;
        let mut taker = Taker { session: &session, trees: HashMap::new() };
        if base && let Some(root) = previous {
            taker.know(&VaultSource::new(vault.clone()), Hash::from_bytes(root))?;
        }
        let done = loop {
            match line.next(control)? {
                backup::Body::Offer(offer) => {
                    let needed = taker.needed(&offer)?;
                    line.tell(backup::Body::Needed(needed))?;
                }
                backup::Body::Blob(blob) => taker.take(blob)?,
                backup::Body::Progress(p) => control.progress(p.files, 0, "files"),
                backup::Body::Done(done) => break done,
                backup::Body::End(end) => {
                    let text = format!("the agent could not make the backup: {}", clip(end.error));
                    return Err(PortError::new(ErrorCode::Unavailable, text).into());
                }
                other => {
                    return Err(broken(
                        format!("unexpected {other:?}").chars().take(200).collect::<String>(),
                    ));
                }
            }
        };
        let walked = walked(done, &taker)?;
        control.step("storing");
        let made = session.commit(self.backups.body(set, begun, walked));
        let error = made.as_ref().err().map(ToString::to_string).unwrap_or_default();
        // It is in the vault, whether the agent hears of it or not.
        let _ = line.tell(backup::Body::End(BackupEnd { error }));
        Ok(made?)
    }

    /// Asks, and waits until the agent's session is there.
    fn ask_for_backup(
        &self,
        agent: AgentId,
        set: &BackupSet,
        control: &JobControl,
    ) -> Result<Remote, PortError> {
        control.step("waiting for the agent");
        let job = self.entropy.next_u64();
        let text = serde_json::to_string(set)
            .map_err(|e| PortError::new(ErrorCode::Internal, format!("the set cannot be told: {e}")))?;
        let (_place, mut line) = self.backups.remote.wait(job, agent, OUTGOING);
        self.ask_agent(agent, job, control::Body::Backup(Backup { job, set: text }))?;
        match line.receive(PATIENCE) {
            Some(Incoming::Opened { base }) => Ok(Remote { line, base }),
            _ => Err(PortError::new(ErrorCode::Unavailable, "the agent did not open its session")
                .hint("see the agent's log")),
        }
    }
}

/// The job's end of the agent's session.
struct Remote {
    line: Line<Incoming, BackupFrame>,
    base: Vec<u8>,
}

impl Remote {
    /// Says whether the agent may build on what it remembers.
    fn begin(&mut self, previous: Option<[u8; 32]>) -> Result<bool, Failed> {
        let base = previous.is_some_and(|p| self.base == p);
        self.tell(backup::Body::Begin(BackupBegin { base }))?;
        Ok(base)
    }

    fn next(&mut self, control: &JobControl) -> Result<backup::Body, Failed> {
        loop {
            if control.cancelled() {
                let error = "it was cancelled".to_string();
                let _ = self.tell(backup::Body::End(BackupEnd { error: error.clone() }));
                return Err(PortError::new(ErrorCode::Conflict, error).into());
            }
            match self.line.receive(LOOK_EVERY) {
                Some(Incoming::Frame(body)) => return Ok(body),
                Some(Incoming::Opened { .. }) => return Err(broken("it opened its session twice")),
                None if self.line.ended() => {
                    return Err(gone().hint("see why the agent is away: lifeboat agents").into());
                }
                None => {}
            }
        }
    }

    fn tell(&self, body: backup::Body) -> Result<(), Failed> {
        if self.line.tell(frame(body)) { Ok(()) } else { Err(gone().into()) }
    }
}

fn gone() -> PortError {
    PortError::new(ErrorCode::Unavailable, "the agent's session ended before the backup did")
}

fn broken(why: impl Into<String>) -> Failed {
    Failed::For(door::broken(why))
}

/// Takes blobs from an agent. See the module's invariants.
struct Taker<'a> {
    session: &'a Session,
    /// Blobs of trees that were looked through, and what they are: those taken here, and the base's.
    trees: HashMap<Hash, u32>,
}

impl Taker<'_> {
    /// Goes through the tree that is built on.
    fn know(&mut self, source: &VaultSource, root: Hash) -> Result<(), Failed> {
        let mut open = vec![(root, 0)];
        while let Some((hash, what)) = open.pop() {
            if self.trees.insert(hash, what).is_some() {
                continue;
            }
            let again =
                |e: &dyn std::fmt::Display| Failed::Again(format!("the last backup cannot be built on: {e}"));
            let blob = source.get(BlobKind::Tree, &hash).map_err(|e| again(&e))?;
            let mut named = Vec::new();
            references(&blob, what, &mut |r| named.push(r)).map_err(|e| again(&e))?;
            for reference in named {
                match reference {
                    // Lost since: without the base the agent sends it, as long as it has it.
                    Reference::Content(hash) if !self.there(&hash)? => return Err(again(&"content is lost")),
                    Reference::Tree(hash, what) if !self.trees.contains_key(&hash) => open.push((hash, what)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn there(&self, hash: &Hash) -> Result<bool, Failed> {
        Ok(self.session.has(&self.session.vault().content_id(hash))?)
    }

    fn needed(&self, offer: &BackupOffer) -> Result<BackupNeeded, Failed> {
        if offer.blobs.is_empty() || offer.blobs.len() > BACKUP_OFFER {
            return Err(broken("an offer is empty or too long"));
        }
        let mut blobs = Vec::new();
        for (n, blob) in offer.blobs.iter().enumerate() {
            let hash: [u8; 32] =
                blob.hash.as_slice().try_into().map_err(|_| broken("a hash has the wrong length"))?;
            let hash = Hash::from_bytes(hash);
            let has = if blob.tree { self.trees.contains_key(&hash) } else { self.there(&hash)? };
            if !has {
                blobs.push(n as u32);
            }
        }
        Ok(BackupNeeded { blobs })
    }

    fn take(&mut self, blob: BackupBlob) -> Result<(), Failed> {
        if blob.content.is_empty() || blob.content.len() > MAX_BLOB {
            return Err(broken(format!("a blob of {} bytes", blob.content.len())));
        }
        let hash = blake3::hash(&blob.content);
        if blob.tree {
            let what = what(&blob.content).map_err(|e| broken(e.to_string()))?;
            self.resolves(&blob.content, what)?;
            self.trees.insert(hash, what);
        }
        let kind = kind(if blob.tree { BlobKind::Tree } else { BlobKind::File });
        self.session.put_hashed(kind, &hash, blob.content)?;
        Ok(())
    }

    /// All a tree's blob names has to be here before it.
    fn resolves(&self, blob: &[u8], what: u32) -> Result<(), Failed> {
        let mut named = Vec::new();
        references(blob, what, &mut |r| named.push(r)).map_err(|e| broken(e.to_string()))?;
        for reference in named {
            let there = match &reference {
                Reference::Content(hash) => self.there(hash)?,
                Reference::Tree(hash, what) => self.trees.get(hash) == Some(what),
            };
            if !there {
                // Lost from the vault since, perhaps: without the base the agent sends it.
                return Err(Failed::Again("the tree names content that is not in the vault".into()));
            }
        }
        Ok(())
    }
}

fn walked(done: BackupDone, taker: &Taker<'_>) -> Result<Walked, Failed> {
    let root: [u8; 32] =
        done.root.as_slice().try_into().map_err(|_| broken("the root's hash has the wrong length"))?;
    let root = Hash::from_bytes(root);
    if taker.trees.get(&root) != Some(&0) {
        return Err(broken("the root was not sent"));
    }
    let problems: Vec<String> = done.problems.into_iter().take(MAX_PROBLEMS).map(clip).collect();
    Ok(Walked {
        root,
        files: done.files,
        directories: done.directories,
        bytes: done.bytes,
        files_read: done.files_read,
        bytes_read: done.bytes_read,
        problems: (problems, done.problem_count),
    })
}

#[cfg(test)]
pub(crate) mod tests;
