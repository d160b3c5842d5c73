//! Disks as Merkle trees over 64 KiB chunks.
//!
//! Invariants: equal content of equal size has an equal root; a node of zeros only is not stored, its place holds
//! [`ChunkId::ZERO`]; a map costs the nodes on the paths to what changed, all others are those of the map before.
//!
//! ```text
//! node, a chunk of kind Meta: | "LM" | version u8 = 1 | level u8 | children u16 LE | reserved u16 | children x id (32) |
//! ```
//! Level 0 lists chunks of the disk, level n nodes of level n - 1; a node has [`FAN`] children, the last one of a level
//! as many as are left. The tree is as high as the size needs, at least one level. The last chunk of a disk whose size is
//! no multiple of 64 KiB is filled up with zeros.

use crate::error::VaultError;
use crate::id::ChunkId;
use crate::pack::Kind;
use crate::session::Session;
use crate::snapshot::DiskMap;
use crate::vault::Vault;
use bytes::Bytes;
use lifeboat_base::limits::BLOCK;
use std::sync::Arc;

/// Children of a node.
pub const FAN: u64 = 256;
const HEADER: usize = 8;

/// How many levels of nodes a disk of so many bytes has.
pub fn levels(size: u64) -> u8 {
    let (mut levels, mut reach) = (1, FAN);
    while reach < chunks(size) {
        reach *= FAN;
        levels += 1;
    }
    levels
}

/// How many chunks a disk of so many bytes has.
pub fn chunks(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64)
}

/// Chunks under one child of a node at `level`.
fn span(level: u8) -> u64 {
    FAN.pow(u32::from(level))
}

pub(crate) fn encode(level: u8, children: &[ChunkId]) -> Vec<u8> {
    let mut node = Vec::with_capacity(HEADER + 32 * children.len());
    node.extend_from_slice(b"LM");
    node.extend_from_slice(&[1, level]);
    node.extend_from_slice(&(children.len() as u16).to_le_bytes());
    node.extend_from_slice(&[0; 2]);
    children.iter().for_each(|c| node.extend_from_slice(&c.0));
    node
}

/// The children of a node that must be of `level`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn decode(node: &[u8], level: u8) -> Result<Vec<ChunkId>, &'static str> {
    let (head, body) = node.split_at_checked(HEADER).ok_or("the node is shorter than a header")?;
    let count = usize::from(u16::from_le_bytes([head[4], head[5]]));
    if &head[..2] != b"LM" || head[2] != 1 || head[6..] != [0; 2] {
        return Err("it is no node of a map this version knows");
    }
    if head[3] != level || count > FAN as usize || body.len() != 32 * count {
        return Err("the node does not fit its place");
    }
    let id = |c: &[u8]| {
        let mut id = [0; 32];
        id.copy_from_slice(c);
        ChunkId(id)
    };
    Ok(body.chunks_exact(32).map(id).collect())
}

/// A node's children, from the vault.
pub(crate) fn load(vault: &Vault, id: &ChunkId, level: u8) -> Result<Arc<Vec<ChunkId>>, VaultError> {
    vault.node(id, level)
}

/// A node that is being made.
struct Open {
    /// Which of its level.
    number: u64,
    children: Vec<ChunkId>,
}

/// Makes a map from chunks in ascending order, over a map from before.
pub struct MapWriter<'a> {
    session: &'a Session,
    base: Option<DiskMap>,
    size: u64,
    open: Vec<Option<Open>>,
    next: u64,
    /// Chunks whose nodes have another shape than the base's, ascending: what is not set of them is set as it was.
    edges: Vec<u64>,
    touched: bool,
}

impl<'a> MapWriter<'a> {
    /// A map of a disk of `size` bytes; where nothing is [set](Self::set) it is as `base`, and zeros beyond that.
    pub(crate) fn new(session: &'a Session, base: Option<DiskMap>, size: u64) -> Self {
        let open = (0..levels(size)).map(|_| None).collect();
        let mut edges = Vec::new();
        if let Some(base) = base.filter(|b| b.size != size) {
            let (old, new) = (chunks(base.size), chunks(size));
            // The first, so that nodes above the base's root come to be; the ends, old and new.
            edges.extend([0, old.saturating_sub(1), new.saturating_sub(1)].into_iter().filter(|n| *n < new));
            edges.sort_unstable();
            edges.dedup();
        }
        Self { session, base, size, open, next: 0, edges, touched: false }
    }

    /// Sets a chunk. Each may be set once, in ascending order.
    ///
    /// # Errors
    /// `Invalid` when the order or the disk's end is not kept; what reading the base says.
    pub fn set(&mut self, chunk: u64, id: ChunkId) -> Result<(), VaultError> {
        if chunk < self.next || chunk >= chunks(self.size) {
            return Err(VaultError::Invalid(format!("chunk {chunk} is out of order or beyond the disk")));
        }
        self.edges_before(chunk)?;
        self.next = chunk + 1;
        self.put(0, chunk, id)
    }

    fn edges_before(&mut self, chunk: u64) -> Result<(), VaultError> {
        while let Some(edge) = self.edges.first().copied().filter(|e| *e < chunk) {
            self.edges.remove(0);
            if edge >= self.next {
                let id = self.base_chunk(edge)?;
                self.put(0, edge, id)?;
            }
        }
        Ok(())
    }

    /// Finishes it.
    ///
    /// # Errors
    /// What the session says.
    pub fn finish(mut self) -> Result<DiskMap, VaultError> {
        self.edges_before(u64::MAX)?;
        if !self.touched {
            let same = self.base.filter(|b| b.size == self.size);
            return Ok(DiskMap { size: self.size, root: same.map_or(ChunkId::ZERO, |b| b.root) });
        }
        let top = self.open.len();
        for level in 0..top as u8 {
            self.close(level)?;
        }
        let root = self.open.pop().flatten().and_then(|above| above.children.first().copied());
        Ok(DiskMap { size: self.size, root: root.unwrap_or(ChunkId::ZERO) })
    }

    /// Sets child `index` (counted over the whole level) of the nodes at `level`.
    fn put(&mut self, level: u8, index: u64, id: ChunkId) -> Result<(), VaultError> {
        self.touched = true;
        let number = index / FAN;
        let at = usize::from(level);
        if self.open.len() == at {
            // Above the top: the root itself.
            self.open.push(Some(Open { number: 0, children: vec![id] }));
            return Ok(());
        }
        if self.open[at].as_ref().is_none_or(|o| o.number != number) {
            self.close(level)?;
            let children = self.base_children(level, number)?;
            self.open[at] = Some(Open { number, children });
        }
        if let Some(open) = &mut self.open[at] {
            open.children[(index % FAN) as usize] = id;
        }
        Ok(())
    }

    /// Stores the open node of `level` and tells its parent.
    fn close(&mut self, level: u8) -> Result<(), VaultError> {
        let Some(open) = self.open[usize::from(level)].take() else { return Ok(()) };
        let id = if open.children.iter().all(ChunkId::is_zero) {
            ChunkId::ZERO
        } else {
            self.session.put(Kind::Meta, Bytes::from(encode(level, &open.children)))?
        };
        self.put(level + 1, open.number, id)
    }

    /// The children of a node as the base has them, as many as the new size has.
    fn base_children(&self, level: u8, number: u64) -> Result<Vec<ChunkId>, VaultError> {
        let below = chunks(self.size).div_ceil(span(level));
        let count = (below - number * FAN).min(FAN) as usize;
        let mut children = match self.base {
            Some(base) => base_node(self.session.vault(), &base, level, number)?,
            None => Vec::new(),
        };
        children.resize(count, ChunkId::ZERO);
        Ok(children)
    }

    fn base_chunk(&self, chunk: u64) -> Result<ChunkId, VaultError> {
        let Some(base) = self.base.filter(|b| chunk < chunks(b.size)) else { return Ok(ChunkId::ZERO) };
        let leaf = base_node(self.session.vault(), &base, 0, chunk / FAN)?;
        Ok(leaf.get((chunk % FAN) as usize).copied().unwrap_or(ChunkId::ZERO))
    }
}

/// Children of node `number` at `level` of a map; of a level the map does not reach, as if it did.
fn base_node(vault: &Vault, map: &DiskMap, level: u8, number: u64) -> Result<Vec<ChunkId>, VaultError> {
    let top = levels(map.size) - 1;
    if map.root.is_zero() || number * FAN * span(level) >= chunks(map.size).max(1) {
        return Ok(Vec::new());
    }
    if level > top {
        // The base's root is the first child of the level above it; further up, what is made from it is put.
        return Ok(if level == top + 1 { vec![map.root] } else { Vec::new() });
    }
    let mut id = map.root;
    for l in (level..top).rev() {
        let children = load(vault, &id, l + 1)?;
        let child = (number * FAN * span(level)) / span(l + 1) % FAN;
        id = children.get(child as usize).copied().unwrap_or(ChunkId::ZERO);
        if id.is_zero() {
            return Ok(Vec::new());
        }
    }
    Ok(load(vault, &id, level)?.to_vec())
}

/// What a walk over a map meets.
pub enum Visit<'a> {
    Node { id: &'a ChunkId, level: u8 },
    Chunk { number: u64, id: &'a ChunkId },
}

/// Walks a map top down, zeros left out. `enter` says whether to look below a node, so that parts which were seen
/// already cost nothing.
///
/// # Errors
/// What reading a node says, and what the visitor says.
pub fn walk(
    vault: &Vault,
    map: &DiskMap,
    enter: &mut dyn FnMut(Visit<'_>) -> Result<bool, VaultError>,
) -> Result<(), VaultError> {
    fn go(
        vault: &Vault,
        id: &ChunkId,
        level: u8,
        first: u64,
        enter: &mut dyn FnMut(Visit<'_>) -> Result<bool, VaultError>,
    ) -> Result<(), VaultError> {
        if id.is_zero() || !enter(Visit::Node { id, level })? {
            return Ok(());
        }
        let children = load(vault, id, level)?;
        for (n, child) in children.iter().enumerate().filter(|(_, c)| !c.is_zero()) {
            let number = first + n as u64 * span(level);
            if level == 0 {
                enter(Visit::Chunk { number, id: child })?;
            } else {
                go(vault, child, level - 1, number, enter)?;
            }
        }
        Ok(())
    }
    go(vault, &map.root, levels(map.size) - 1, 0, enter)
}

#[cfg(test)]
mod tests;
