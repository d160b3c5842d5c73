//! Copying what is still needed out of packs that are going to go.
//!
//! Invariants: content is proven by its id before it is copied, so damage is not carried on; it is sealed with the newest
//! key; in memory are one frame and one pack of each kind.

use super::marks::{LIVE, Marks};
use super::reach::is_damage;
use crate::error::VaultError;
use crate::id::ChunkId;
use crate::index::PackInfo;
use crate::pack::{Codec, Kind, MAX_FRAME_CHUNKS, PackWriter};
use crate::session::{new_pack, store_pack};
use crate::vault::Vault;
use bytes::Bytes;
use std::collections::HashSet;

#[derive(Default)]
struct Open {
    pack: Option<PackWriter>,
    frame: Vec<(ChunkId, Bytes)>,
    raw: usize,
}

pub(super) struct Repacker<'a> {
    vault: &'a Vault,
    marks: &'a Marks,
    going: &'a HashSet<u32>,
    open: [(Kind, Open); 2],
    done: HashSet<[u8; 16]>,
    /// Bytes stored.
    pub copied: u64,
}

impl<'a> Repacker<'a> {
    pub fn new(vault: &'a Vault, marks: &'a Marks, going: &'a HashSet<u32>) -> Self {
        let open = [(Kind::Data, Open::default()), (Kind::Meta, Open::default())];
        Self { vault, marks, going, open, done: HashSet::new(), copied: 0 }
    }

    /// Copies what only packs that go have, of what is needed of this one.
    ///
    /// # Errors
    /// `Damaged` and the like where something cannot be read: it stays where it is, and all that can be read is copied.
    pub fn empty(&mut self, pack: &PackInfo) -> Result<(), VaultError> {
        let (_, frames) = self.vault.read_directory(&pack.id, pack.size)?;
        let mut damaged = None;
        for (id, _) in frames.iter().flat_map(|f| &f.chunks) {
            if self.marks.slot(id).is_none_or(|slot| !self.marks.has(slot, LIVE))
                || self.done.contains(&id.short())
            {
                continue;
            }
            let places = self.vault.places(id)?;
            if places.iter().any(|p| !self.going.contains(&p.pack)) {
                continue;
            }
            let own = places.iter().find(|p| p.pack == pack.number);
            let content = match own.map(|own| self.vault.read_at(id, own)) {
                Some(Ok(content)) => Ok(content),
                Some(Err(_)) | None => self.vault.read(id),
            };
            match content {
                Ok(content) => {
                    self.done.insert(id.short());
                    // A copy: a slice would keep the frame it is from.
                    self.push(pack.kind, *id, Bytes::copy_from_slice(&content))?;
                }
                Err(e) if is_damage(&e) => drop(damaged.get_or_insert(e)),
                Err(e) => return Err(e),
            }
        }
        damaged.map_or(Ok(()), Err)
    }

    /// Stores what is left.
    pub fn finish(&mut self) -> Result<(), VaultError> {
        for kind in [Kind::Data, Kind::Meta] {
            self.seal(kind)?;
            if let Some(pack) = self.open_mut(kind).pack.take() {
                self.copied += store_pack(self.vault, pack.finish())?;
            }
        }
        Ok(())
    }

    fn open_mut(&mut self, kind: Kind) -> &mut Open {
        &mut self.open[usize::from(kind == Kind::Meta)].1
    }

    fn push(&mut self, kind: Kind, id: ChunkId, content: Bytes) -> Result<(), VaultError> {
        let settings = self.vault.settings().clone();
        let open = self.open_mut(kind);
        if open.raw + content.len() > settings.frame_bytes && !open.frame.is_empty() {
            self.seal(kind)?;
        }
        let open = self.open_mut(kind);
        open.raw += content.len();
        open.frame.push((id, content));
        if open.frame.len() >= settings.frame_chunks.min(MAX_FRAME_CHUNKS) {
            self.seal(kind)?;
        }
        Ok(())
    }

    /// Ends the frame, and the pack where it is full.
    fn seal(&mut self, kind: Kind) -> Result<(), VaultError> {
        let vault = self.vault;
        let settings = vault.settings();
        let open = self.open_mut(kind);
        if open.frame.is_empty() {
            return Ok(());
        }
        let chunks = open.frame.iter().map(|(id, content)| (*id, content.len() as u32)).collect();
        let raw: Vec<u8> = open.frame.drain(..).flat_map(|(_, content)| content).collect();
        open.raw = 0;
        let packed = zstd::bulk::compress(&raw, settings.level).map_err(VaultError::io("cannot compress"))?;
        let (stored, codec) =
            if packed.len() < raw.len() { (&packed, Codec::Zstd) } else { (&raw, Codec::Raw) };
        let mut pack = match open.pack.take() {
            Some(pack) => pack,
            None => new_pack(vault, kind)?,
        };
        pack.push(stored, codec, raw.len() as u32, chunks);
        if pack.len() >= settings.pack_bytes {
            self.copied += store_pack(vault, pack.finish())?;
        } else {
            self.open_mut(kind).pack = Some(pack);
        }
        Ok(())
    }
}
