//! What a snapshot refers to: nodes of maps, blobs of trees, content.

use super::marks::{ENTERED, LIVE, Marks};
use crate::error::VaultError;
use crate::id::ChunkId;
use crate::map;
use crate::snapshot::Snapshot;
use crate::vault::Vault;
use std::collections::HashSet;

/// How trees of files are read; their format belongs to who makes them.
pub trait TreeFormat: Send + Sync {
    /// What a tree's root is, for [`references`](Self::references).
    fn root(&self) -> u32;

    /// Gives everything a blob refers to. `what` is what it was told to be where it was found.
    ///
    /// # Errors
    /// What is wrong with the blob, in words.
    fn references(&self, what: u32, blob: &[u8], found: &mut dyn FnMut(TreeRef)) -> Result<(), String>;
}

/// A reference in a tree's blob, by the BLAKE3 of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeRef {
    /// Another blob of the tree.
    Blob { hash: [u8; 32], what: u32 },
    /// Content of a file.
    Content { hash: [u8; 32] },
}

/// For a vault in which there are no trees.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTrees;

impl TreeFormat for NoTrees {
    fn root(&self) -> u32 {
        0
    }

    fn references(&self, _: u32, _: &[u8], _: &mut dyn FnMut(TreeRef)) -> Result<(), String> {
        Err("no format of trees is known here".into())
    }
}

/// Something a snapshot refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ref {
    Node { id: ChunkId, level: u8 },
    Tree { id: ChunkId, what: u32 },
    Chunk { id: ChunkId },
}

impl Ref {
    pub fn id(&self) -> &ChunkId {
        match self {
            Self::Node { id, .. } | Self::Tree { id, .. } | Self::Chunk { id } => id,
        }
    }
}

/// Reads what refers to something else.
pub(crate) struct Reach<'a> {
    pub vault: &'a Vault,
    pub trees: &'a dyn TreeFormat,
}

impl Reach<'_> {
    /// What the snapshot itself refers to.
    pub fn roots(&self, snapshot: &Snapshot) -> Vec<Ref> {
        let disks = snapshot.body.disks.iter().filter(|d| !d.map.root.is_zero());
        let mut roots: Vec<Ref> =
            disks.map(|d| Ref::Node { id: d.map.root, level: map::levels(d.map.size) - 1 }).collect();
        roots.extend(snapshot.body.tree.map(|hash| Ref::Tree { id: self.id(hash), what: self.trees.root() }));
        roots
    }

    fn id(&self, hash: [u8; 32]) -> ChunkId {
        self.vault.content_id(&blake3::Hash::from_bytes(hash))
    }

    /// What is directly below.
    ///
    /// # Errors
    /// What reading it says.
    pub fn below(&self, r: &Ref, out: &mut Vec<Ref>) -> Result<(), VaultError> {
        match *r {
            Ref::Chunk { .. } => Ok(()),
            Ref::Node { id, level } => {
                let children = self.vault.node(&id, level)?;
                let below = |id: &ChunkId| match level {
                    0 => Ref::Chunk { id: *id },
                    _ => Ref::Node { id: *id, level: level - 1 },
                };
                out.extend(children.iter().rev().filter(|c| !c.is_zero()).map(below));
                Ok(())
            }
            Ref::Tree { id, what } => {
                let blob = self.vault.read(&id)?;
                self.trees
                    .references(what, &blob, &mut |found| {
                        out.push(match found {
                            TreeRef::Blob { hash, what } => Ref::Tree { id: self.id(hash), what },
                            TreeRef::Content { hash } => Ref::Chunk { id: self.id(hash) },
                        });
                    })
                    .map_err(|why| VaultError::damaged(format!("tree {id}"), why))
            }
        }
    }
}

/// What a walk could not follow.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No pack has it.
    Missing(Ref),
    /// It is there and cannot be read.
    Unreadable(Ref, VaultError),
}

/// Whether an error tells of what is stored, and not of the way to it.
pub(crate) fn is_damage(e: &VaultError) -> bool {
    use crate::error::StoreError;
    matches!(
        e,
        VaultError::Damaged { .. } | VaultError::Missing(_) | VaultError::Store(StoreError::NotFound(_))
    )
}

/// Marks all that snapshots refer to as live.
pub(crate) struct Marker<'a> {
    pub reach: Reach<'a>,
    /// Blobs that were looked into as more than one thing: the same bytes may be a list here and a list of lists there.
    otherwise: HashSet<(usize, u32)>,
    /// What came to the vault after the slots were made, and what it was looked into as.
    late: HashSet<(ChunkId, u32)>,
}

impl<'a> Marker<'a> {
    pub fn new(reach: Reach<'a>) -> Self {
        Self { reach, otherwise: HashSet::new(), late: HashSet::new() }
    }

    /// Marks what one snapshot refers to; parts that are marked already cost nothing.
    ///
    /// # Errors
    /// What reading says where it is no damage; what `trouble` says.
    pub fn mark(
        &mut self,
        marks: &mut Marks,
        snapshot: &Snapshot,
        trouble: &mut dyn FnMut(Trouble) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let mut stack = self.reach.roots(snapshot);
        while let Some(r) = stack.pop() {
            let enter = match marks.slot(r.id()) {
                Some(slot) => {
                    marks.set(slot, LIVE);
                    self.enters(marks, slot, &r)
                }
                None if self.reach.vault.places(r.id())?.is_empty() => {
                    trouble(Trouble::Missing(r))?;
                    false
                }
                None => match r {
                    Ref::Chunk { .. } => false,
                    Ref::Node { id, level } => self.late.insert((id, u32::from(level))),
                    Ref::Tree { id, what } => self.late.insert((id, what)),
                },
            };
            if enter {
                match self.reach.below(&r, &mut stack) {
                    Ok(()) => {}
                    Err(e) if is_damage(&e) => trouble(Trouble::Unreadable(r, e))?,
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// Whether to look below it: the first time only.
    fn enters(&mut self, marks: &mut Marks, slot: usize, r: &Ref) -> bool {
        match *r {
            Ref::Chunk { .. } => false,
            Ref::Node { .. } => marks.set(slot, ENTERED),
            Ref::Tree { what, .. } if what == self.reach.trees.root() => marks.set(slot, ENTERED),
            Ref::Tree { what, .. } => self.otherwise.insert((slot, what)),
        }
    }
}
