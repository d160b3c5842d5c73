//! Forgetting what no rule keeps, and freeing what nothing refers to: plan, show, execute.
//!
//! Invariants:
//! - a pack is deleted only when every chunk of it that any snapshot refers to is in another pack that stays, whatever
//!   sessions and other pruners do meanwhile, and wherever any of them stops;
//! - a plan changes nothing; its execution forgets nothing the plan does not show, and looks again before each step;
//! - what is locked or named is not forgotten, also when that happened after the plan was made;
//! - where it cannot be known what a snapshot refers to, nothing is deleted.
//!
//! No clock decides. A pruner
//! 1. takes the next epoch (`prune/N`, a conditional put): of two pruners the later one counts;
//! 2. forgets: takes the snapshot's next hold, so that a name or a lock cannot come too, then deletes its manifest;
//! 3. marks what the snapshots that are left refer to, and publishes (`prune/N.plan`) the packs it is going to delete. A
//!    session announces itself before it reads the plans, and relies on no pack in one;
//! 4. copies what is still needed out of packs that are going to go;
//! 5. waits for every session that is announced, or puts a tombstone in the place of its snapshot: a session that began
//!    later has seen the plan;
//! 6. lists the snapshots again and marks what the new ones refer to. A pack that has the only copy of something stays;
//! 7. looks whether it is still the newest pruner, and only then deletes. What it deletes now stays in every later plan
//!    until it is gone, so it may be as slow about it as it likes.
//!
//! The step before a crash is the last one that happened; the next prune begins anew and takes over what was published.

mod decide;
mod execute;
mod fence;
mod forget;
mod lock;
pub(crate) mod marks;
pub(crate) mod reach;
mod repack;

pub use fence::{Patience, Waiting, Writer};
pub use lock::InStore;
pub use reach::{NoTrees, TreeFormat, TreeRef};

use crate::error::VaultError;
use crate::id::PackId;
use crate::refresh::Refreshed;
use crate::retention::Policy;
use crate::snapshot::{Owner, Snapshot};
use crate::vault::Vault;
use lifeboat_base::WallTime;
use marks::{LIVE, Marks, Packs};
use reach::{Marker, Reach, Ref, Trouble};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Most packs one prune deletes or empties; the rest is left for the next.
pub const MAX_GOING: usize = 1 << 20;

/// Is told the step, how much of it is done and how much there is (0: not known); `false` ends the work.
pub type Watch<'a> = &'a (dyn Fn(&str, u64, u64) -> bool + Sync);

/// What the owner of a snapshot says about it, besides rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Special {
    /// Nothing: rules decide.
    No,
    /// It is in use: why.
    Keep(String),
    /// It is of no use any more: why. A lock is stronger.
    Forget(String),
}

/// Who knows the rules.
pub trait Keeping: Send + Sync {
    /// The rules for an owner's points; `None` keeps all of them.
    fn policy(&self, owner: &Owner) -> Option<Policy>;

    /// Snapshots rules do not decide about. A base is kept where nothing is said. Of one that goes it is asked again, also
    /// after [`Vault::is_going`] tells.
    fn special(&self, _snapshot: &Snapshot) -> Special {
        Special::No
    }
}

/// When it is worth to copy the rest of a pack, and how much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thrift {
    /// A pack of which more than so many percent are not needed is emptied.
    pub unused_percent: u64,
    /// Packs smaller than this are merged, in bytes,
    pub small: u64,
    /// where there are at least so many of a kind.
    pub many: usize,
    /// Most bytes to copy.
    pub copy: u64,
}

impl Default for Thrift {
    fn default() -> Self {
        Self { unused_percent: 40, small: 4 << 20, many: 32, copy: 16 << 30 }
    }
}

/// A prune, its plan or its execution.
pub struct Prune<'a> {
    pub vault: &'a Vault,
    pub keeping: &'a dyn Keeping,
    pub trees: &'a dyn TreeFormat,
    /// The guarded time (see [`crate::guard`]).
    pub now: WallTime,
    pub thrift: Thrift,
    pub watch: Watch<'a>,
}

/// A snapshot, and why it goes or stays.
#[derive(Debug, Clone)]
pub struct Because {
    pub snapshot: Arc<Snapshot>,
    pub why: String,
}

/// What a prune would do.
#[derive(Debug, Clone, Default)]
pub struct PrunePlan {
    /// What no rule keeps any more.
    pub forget: Vec<Because>,
    /// What stays although no rule asks for it.
    pub kept: Vec<Because>,
    /// Snapshots that stay, all of them.
    pub staying: u64,
    /// Packs nothing refers to then.
    pub packs_deleted: u64,
    /// Packs of which little is needed, or that are small, and whose rest is copied.
    pub packs_repacked: u64,
    /// Bytes.
    pub freed: u64,
    /// Bytes that have to be copied for it.
    pub copied: u64,
}

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    pub forgotten: u64,
    pub packs_deleted: u64,
    pub packs_repacked: u64,
    /// Bytes of the packs that were deleted, less what was copied.
    pub freed: u64,
    pub copied: u64,
    /// Left for the next prune, and why.
    pub left: Vec<String>,
}

impl fmt::Display for PrunePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in &self.forget {
            writeln!(f, "forget {} ({})", b.snapshot.id, b.why)?;
        }
        for b in &self.kept {
            writeln!(f, "keep {} ({})", b.snapshot.id, b.why)?;
        }
        write!(
            f,
            "{} snapshots stay, {} go; {} packs are deleted, {} repacked; {} bytes are freed, {} copied",
            self.staying,
            self.forget.len(),
            self.packs_deleted,
            self.packs_repacked,
            self.freed,
            self.copied
        )
    }
}

/// What of a pack is needed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Use {
    /// Bytes its chunks take.
    pub all: u64,
    /// Bytes of those that are needed from here.
    pub live: u64,
}

/// Which packs go.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    pub dead: Vec<u32>,
    pub repack: Vec<u32>,
    pub freed: u64,
    pub copied: u64,
}

impl Prune<'_> {
    /// What would be done now. Changes nothing but the local index.
    ///
    /// # Errors
    /// `Refused` where it cannot be known what is needed; what the store says; `Cancelled`.
    pub fn plan(&self) -> Result<PrunePlan, VaultError> {
        self.vault.store().whole()?;
        let cleared = self.vault.index().cleared();
        self.refresh()?;
        let (forget, kept, staying) = self.judge();
        let writing = self.vault.being_written();
        let (marks, packs) = self.mark_all(&staying)?;
        let going = self.condemned(&packs);
        let uses = tally(self.vault, &marks, &going)?;
        let choice = choose(&packs, &uses, &going, &writing, &self.thrift);
        self.vault.still_indexed(cleared)?;
        Ok(PrunePlan {
            forget,
            kept,
            staying: staying.len() as u64,
            packs_deleted: choice.dead.len() as u64,
            packs_repacked: choice.repack.len() as u64,
            freed: choice.freed,
            copied: choice.copied,
        })
    }

    pub(crate) fn watch(&self, step: &str, done: u64, total: u64) -> Result<(), VaultError> {
        if (self.watch)(step, done, total) { Ok(()) } else { Err(VaultError::Cancelled) }
    }

    /// Brings the index in line; refuses where a snapshot cannot be read.
    fn refresh(&self) -> Result<Refreshed, VaultError> {
        self.watch("looking at what is there", 0, 0)?;
        let done = self.vault.refresh(&|done, total| {
            (self.watch)("reading directories", done, total);
        })?;
        let matters = ["snapshots/", "holds/", "prune/"];
        let unknown = |(name, _): &&(String, String)| matters.iter().any(|m| name.starts_with(m));
        match done.damaged.iter().find(unknown) {
            Some((name, why)) => Err(unclear(name, why)),
            None => Ok(done),
        }
    }

    /// Marks what these snapshots refer to.
    fn mark_all(&self, snapshots: &[Arc<Snapshot>]) -> Result<(Marks, Packs), VaultError> {
        let packs = marks::packs_of(self.vault.index())?;
        let mut marks = Marks::build(self.vault.index())?;
        let mut marker = Marker::new(Reach { vault: self.vault, trees: self.trees });
        self.mark(&mut marks, &mut marker, snapshots)?;
        Ok((marks, packs))
    }

    fn mark(
        &self,
        marks: &mut Marks,
        marker: &mut Marker<'_>,
        snapshots: &[Arc<Snapshot>],
    ) -> Result<(), VaultError> {
        for (n, snapshot) in snapshots.iter().enumerate() {
            self.watch("marking what is needed", n as u64, snapshots.len() as u64)?;
            marker.mark(marks, snapshot, &mut |trouble| match trouble {
                // Content that is lost refers to nothing.
                Trouble::Missing(Ref::Chunk { .. }) => Ok(()),
                Trouble::Missing(r) => {
                    Err(unclear(&format!("snapshot {}", snapshot.id), &format!("{} is in no pack", r.id())))
                }
                Trouble::Unreadable(_, e) => {
                    Err(unclear(&format!("snapshot {}", snapshot.id), &e.to_string()))
                }
            })?;
        }
        Ok(())
    }

    /// Numbers of the packs that plans from before say will go.
    fn condemned(&self, packs: &Packs) -> HashSet<u32> {
        let state = self.vault.shared.state.read();
        packs.values().filter(|p| state.condemned.contains(&p.id)).map(|p| p.number).collect()
    }
}

impl Vault {
    /// Whether the index was not made anew since it was cleared so many times: half an index shows half of what is there.
    pub(crate) fn still_indexed(&self, cleared: u64) -> Result<(), VaultError> {
        if self.index().cleared() == cleared {
            return Ok(());
        }
        Err(VaultError::Fenced(
            "the local index was made anew meanwhile; begin again when that is done".into(),
        ))
    }
}

fn unclear(object: &str, why: &str) -> VaultError {
    VaultError::Refused {
        why: format!(
            "it is not clear what is still needed: {object}: {why}. Nothing is deleted before \
             'lifeboat vault check' finds it whole: repair it, or delete the point it belongs to"
        ),
        until: None,
    }
}

/// Counts what is needed of each pack. Of several places of a chunk the one in the oldest pack that stays counts.
fn tally(vault: &Vault, marks: &Marks, going: &HashSet<u32>) -> Result<HashMap<u32, Use>, VaultError> {
    let mut uses: HashMap<u32, Use> = HashMap::new();
    marks::each_with_places(vault.index(), marks, |slot, places| {
        for known in places {
            uses.entry(known.place.pack).or_default().all += marks::share(known);
        }
        if marks.has(slot, LIVE) {
            let stays = places.iter().find(|k| !going.contains(&k.place.pack));
            if let Some(home) = stays.or(places.first()) {
                // Never none, however little a chunk takes.
                uses.entry(home.place.pack).or_default().live += marks::share(home).max(1);
            }
        }
        Ok(())
    })?;
    Ok(uses)
}

/// Decides which packs go. `before` are those that were going to go before, `writing` those a session here has just stored:
/// its snapshot will need them.
fn choose(
    packs: &Packs,
    uses: &HashMap<u32, Use>,
    before: &HashSet<u32>,
    writing: &HashSet<PackId>,
    thrift: &Thrift,
) -> Choice {
    let mut choice = Choice::default();
    let mut wasteful = Vec::new();
    let mut small: HashMap<u8, Vec<(u64, u32, Use)>> = HashMap::new();
    let mut sorted: Vec<_> = packs.values().collect();
    sorted.sort_by_key(|p| p.number);
    for pack in sorted {
        if writing.contains(&pack.id) && !before.contains(&pack.number) {
            continue;
        }
        let used = uses.get(&pack.number).copied().unwrap_or_default();
        let unused = used.all.saturating_sub(used.live);
        let percent = unused * 100 / used.all.max(1);
        if used.live == 0 {
            choice.dead.push(pack.number);
            choice.freed += pack.size;
        } else if before.contains(&pack.number) {
            // Nobody relies on it any more: it was to go, or is damaged.
            wasteful.push((100, pack.number, used));
        } else if percent > thrift.unused_percent {
            wasteful.push((percent, pack.number, used));
        } else if pack.size < thrift.small {
            small.entry(pack.kind as u8).or_default().push((percent, pack.number, used));
        }
    }
    wasteful.sort_by_key(|(percent, number, _)| (std::cmp::Reverse(*percent), *number));
    let merged = small.into_values().filter(|list| list.len() >= thrift.many.max(2)).flatten();
    for (_, number, used) in wasteful.into_iter().chain(merged) {
        if choice.copied + used.live > thrift.copy {
            continue;
        }
        choice.copied += used.live;
        choice.freed += used.all.saturating_sub(used.live);
        choice.repack.push(number);
    }
    choice.dead.truncate(MAX_GOING);
    choice.repack.truncate(MAX_GOING - choice.dead.len());
    choice
}

#[cfg(test)]
mod tests;
