//! The local index: where each chunk is. A cache of what the packs' directories say, made anew from them when it is lost.
//!
//! Invariants: an entry is made after its pack is in the store; a chunk may be in several packs, and each has its entry,
//! so that the end of one pack never hides another. Chunks are known by the first 16 bytes of their id: the id is proven
//! by the content when it is read.
//!
//! ```text
//! chunks     id (16), pack u32 BE                       -> frame offset, stored, raw, chunk's offset, length: 5 x u32 LE;
//!                                                         the top bit of stored: the frame is zstd
//! packs      number u32                                 -> id (16), kind u8, generation u32, size u64, chunks u32, raw u64
//! pack_ids   id (16)                                    -> number
//! snapshots  object name                                -> its text
//! meta       "vault", "next"                            -> vault id; the next pack's number
//! ```

use crate::error::VaultError;
use crate::id::{ChunkId, PackId, VaultId};
use crate::pack::{FrameAt, FrameEntry, Kind, PackHead};
use lifeboat_base::Entropy;
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const CHUNKS: TableDefinition<&[u8; 20], &[u8; 20]> = TableDefinition::new("chunks");
const PACKS: TableDefinition<u32, &[u8; 41]> = TableDefinition::new("packs");
const PACK_IDS: TableDefinition<&[u8; 16], u32> = TableDefinition::new("pack_ids");
const SNAPSHOTS: TableDefinition<&str, &[u8]> = TableDefinition::new("snapshots");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Bytes of all packs, in META.
const STORED: &str = "stored";

/// Memory the index may use for its pages, in bytes.
const CACHE: usize = 64 << 20;
const ZSTD: u32 = 1 << 31;

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The pack's number in this index.
    pub pack: u32,
    pub frame: FrameAt,
    /// Of the chunk, in the frame's raw bytes.
    pub offset: u32,
    pub len: u32,
}

/// A pack in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackInfo {
    pub number: u32,
    pub id: PackId,
    pub kind: Kind,
    pub generation: u32,
    /// In bytes.
    pub size: u64,
    pub chunks: u32,
    /// Raw bytes of its chunks.
    pub raw: u64,
}

impl PackInfo {
    pub(crate) fn head(&self, vault: VaultId) -> PackHead {
        PackHead { vault, id: self.id, kind: self.kind, generation: self.generation }
    }
}

/// A chunk in the index, as [`Index::each_chunk`] gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// First bytes of its id.
    pub short: [u8; 16],
    pub place: Place,
}

/// See the module's text.
pub struct Index {
    db: Database,
    cleared: AtomicU64,
}

fn failed(e: impl std::fmt::Display) -> VaultError {
    VaultError::Index(format!("{e}; it is a cache: remove the file and it is made again from the vault"))
}

/// What an index has in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub packs: u64,
    /// Places of chunks.
    pub chunks: u64,
    /// Bytes of the packs.
    pub stored: u64,
}

fn number_in(meta: &impl ReadableTable<&'static str, &'static [u8]>, key: &str) -> Result<u64, VaultError> {
    let value = meta.get(key).map_err(failed)?.and_then(|v| v.value().try_into().ok());
    Ok(value.map_or(0, u64::from_le_bytes))
}

fn take_stored(t: &WriteTransaction, bytes: u64) -> Result<(), VaultError> {
    let mut meta = t.open_table(META).map_err(failed)?;
    let stored = number_in(&meta, STORED)?.saturating_sub(bytes);
    meta.insert(STORED, &stored.to_le_bytes()[..]).map_err(failed)?;
    Ok(())
}

impl Index {
    /// Opens the index of `vault` at `path`, or makes it; one of another vault is made anew. In memory without a path.
    ///
    /// # Errors
    /// `Index`.
    pub fn open(path: Option<&Path>, vault: VaultId, entropy: &dyn Entropy) -> Result<Self, VaultError> {
        let build = || {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE);
            match path {
                Some(path) => builder.create(path),
                None => builder.create_with_backend(redb::backends::InMemoryBackend::new()),
            }
        };
        let db = match (build(), path) {
            (Ok(db), _) => db,
            // Whatever is there is no index of this version, or damaged.
            (Err(e), Some(path)) if is_no_index(&e) => {
                tracing::warn!("the vault's index cannot be used and is made again: {e}");
                std::fs::remove_file(path).map_err(failed)?;
                build().map_err(failed)?
            }
            (Err(e), _) => return Err(failed(e)),
        };
        let index = Self { db, cleared: AtomicU64::new(0) };
        let known = index.meta("vault")?;
        if known.as_deref() != Some(&vault.0) || index.meta(STORED)?.is_none() {
            index.clear(vault)?;
        }
        if index.meta("writer")?.is_none() {
            let mut writer = [0; 16];
            entropy.fill(&mut writer);
            index.change(Durability::Immediate, |t| {
                let mut meta = t.open_table(META).map_err(failed)?;
                meta.insert("writer", &writer[..]).map_err(failed)?;
                Ok(())
            })?;
        }
        Ok(index)
    }

    /// The name of this index, which stays when it is cleared. One process has it open at a time.
    ///
    /// # Errors
    /// `Index`.
    pub(crate) fn writer(&self) -> Result<[u8; 16], VaultError> {
        let name = self.meta("writer")?.and_then(|w| w.try_into().ok());
        name.ok_or_else(|| VaultError::Index("it has no name; make it anew".into()))
    }

    /// Forgets everything. Numbers of packs are not given again: somebody may still go by them.
    ///
    /// # Errors
    /// `Index`.
    pub fn clear(&self, vault: VaultId) -> Result<(), VaultError> {
        // Before and after: who looked between the two has seen it whole and may see it empty.
        self.cleared.fetch_add(1, Ordering::AcqRel);
        let cleared = self.change(Durability::Immediate, |t| {
            t.delete_table(CHUNKS).map_err(failed)?;
            t.delete_table(PACKS).map_err(failed)?;
            t.delete_table(PACK_IDS).map_err(failed)?;
            t.delete_table(SNAPSHOTS).map_err(failed)?;
            t.open_table(CHUNKS).map_err(failed)?;
            t.open_table(PACKS).map_err(failed)?;
            t.open_table(PACK_IDS).map_err(failed)?;
            t.open_table(SNAPSHOTS).map_err(failed)?;
            let mut meta = t.open_table(META).map_err(failed)?;
            meta.insert("vault", &vault.0[..]).map_err(failed)?;
            meta.insert(STORED, &0u64.to_le_bytes()[..]).map_err(failed)?;
            if meta.get("next").map_err(failed)?.is_none() {
                meta.insert("next", &0u32.to_le_bytes()[..]).map_err(failed)?;
            }
            Ok(())
        });
        self.cleared.fetch_add(1, Ordering::AcqRel);
        cleared
    }

    /// Entries begin or cease to move from one number of a pack to another.
    pub(crate) fn moves(&self) {
        self.cleared.fetch_add(1, Ordering::AcqRel);
    }

    /// How often it was [cleared](Self::clear), or its entries moved, since it was opened: who relies on its being whole
    /// looks whether that changed.
    pub fn cleared(&self) -> u64 {
        self.cleared.load(Ordering::Acquire)
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, VaultError> {
        let t = self.db.begin_read().map_err(failed)?;
        match t.open_table(META) {
            Ok(meta) => Ok(meta.get(key).map_err(failed)?.map(|v| v.value().to_vec())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    fn change<T>(
        &self,
        durability: Durability,
        f: impl FnOnce(&WriteTransaction) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let mut t = self.db.begin_write().map_err(failed)?;
        t.set_durability(durability).map_err(failed)?;
        let done = f(&t)?;
        t.commit().map_err(failed)?;
        Ok(done)
    }

    /// Makes all changes so far outlast the process. They are found again without it, only later.
    ///
    /// # Errors
    /// `Index`.
    pub fn settle(&self) -> Result<(), VaultError> {
        self.change(Durability::Immediate, |_| Ok(()))
    }

    /// Adds packs that are in the store. One that is known already stays as it is.
    ///
    /// # Errors
    /// `Index`.
    pub fn add_packs(&self, packs: &[(PackHead, u64, Vec<FrameEntry>)]) -> Result<(), VaultError> {
        self.insert_packs(packs, false)
    }

    /// Adds packs that are in the store, each in place of what is known of it: in one step, and with another number.
    ///
    /// # Errors
    /// `Index`.
    pub(crate) fn renew_packs(&self, packs: &[(PackHead, u64, Vec<FrameEntry>)]) -> Result<(), VaultError> {
        self.insert_packs(packs, true)
    }

    /// Takes away entries of packs that are not known.
    ///
    /// # Errors
    /// `Index`.
    pub(crate) fn sweep(&self) -> Result<(), VaultError> {
        self.change(Durability::None, |t| {
            let list = t.open_table(PACKS).map_err(failed)?;
            let (mut known, mut stored) = (std::collections::HashSet::new(), 0u64);
            for row in list.iter().map_err(failed)? {
                let (number, info) = row.map_err(failed)?;
                known.insert(number.value());
                stored += decode_pack(number.value(), info.value()).map_or(0, |info| info.size);
            }
            let mut meta = t.open_table(META).map_err(failed)?;
            meta.insert(STORED, &stored.to_le_bytes()[..]).map_err(failed)?;
            let mut chunks = t.open_table(CHUNKS).map_err(failed)?;
            chunks.retain(|key, _| known.contains(&key_pack(key))).map_err(failed)
        })
    }

    fn insert_packs(
        &self,
        packs: &[(PackHead, u64, Vec<FrameEntry>)],
        renew: bool,
    ) -> Result<(), VaultError> {
        self.change(Durability::None, |t| {
            let mut ids = t.open_table(PACK_IDS).map_err(failed)?;
            let mut list = t.open_table(PACKS).map_err(failed)?;
            let mut chunks = t.open_table(CHUNKS).map_err(failed)?;
            let mut meta = t.open_table(META).map_err(failed)?;
            let next = meta.get("next").map_err(failed)?.and_then(|v| v.value().try_into().ok());
            let mut next = next.map_or(0, u32::from_le_bytes);
            let (mut stored, mut replaced) = (0, 0);
            for (head, size, frames) in packs {
                let known = ids.get(&head.id.0).map_err(failed)?.map(|v| v.value());
                match known {
                    Some(_) if !renew => continue,
                    Some(old) => {
                        let info =
                            list.remove(old).map_err(failed)?.and_then(|v| decode_pack(old, v.value()));
                        replaced += info.map_or(0, |info| info.size);
                        for (id, _) in frames.iter().flat_map(|f| &f.chunks) {
                            chunks.remove(&chunk_key(&id.short(), old)).map_err(failed)?;
                        }
                    }
                    None => {}
                }
                let number = next;
                next += 1;
                ids.insert(&head.id.0, number).map_err(failed)?;
                let count: usize = frames.iter().map(|f| f.chunks.len()).sum();
                let raw: u64 = frames.iter().map(|f| u64::from(f.at.raw)).sum();
                let info = PackInfo {
                    number,
                    id: head.id,
                    kind: head.kind,
                    generation: head.generation,
                    size: *size,
                    chunks: count as u32,
                    raw,
                };
                list.insert(number, &encode_pack(&info)).map_err(failed)?;
                stored += size;
                for frame in frames {
                    let mut offset = 0;
                    for (id, len) in &frame.chunks {
                        let place = Place { pack: number, frame: frame.at, offset, len: *len };
                        chunks
                            .insert(&chunk_key(&id.short(), number), &encode_place(&place))
                            .map_err(failed)?;
                        offset += len;
                    }
                }
            }
            meta.insert("next", &next.to_le_bytes()[..]).map_err(failed)?;
            let stored = number_in(&meta, STORED)?.saturating_sub(replaced).saturating_add(stored);
            meta.insert(STORED, &stored.to_le_bytes()[..]).map_err(failed)?;
            Ok(())
        })
    }

    /// Forgets a pack and the entries of its chunks.
    ///
    /// # Errors
    /// `Index`.
    pub fn remove_pack(&self, id: &PackId, frames: &[FrameEntry]) -> Result<(), VaultError> {
        self.change(Durability::None, |t| {
            let mut ids = t.open_table(PACK_IDS).map_err(failed)?;
            let Some(number) = ids.remove(&id.0).map_err(failed)?.map(|v| v.value()) else { return Ok(()) };
            let mut list = t.open_table(PACKS).map_err(failed)?;
            let info = list.remove(number).map_err(failed)?.and_then(|v| decode_pack(number, v.value()));
            take_stored(t, info.map_or(0, |info| info.size))?;
            let mut chunks = t.open_table(CHUNKS).map_err(failed)?;
            for (id, _) in frames.iter().flat_map(|f| &f.chunks) {
                chunks.remove(&chunk_key(&id.short(), number)).map_err(failed)?;
            }
            Ok(())
        })
    }

    /// Forgets packs by number, and the entries of their chunks: one look at every entry for all of them.
    ///
    /// # Errors
    /// `Index`.
    pub fn remove_packs(&self, numbers: &[u32]) -> Result<(), VaultError> {
        if numbers.is_empty() {
            return Ok(());
        }
        let gone: std::collections::HashSet<u32> = numbers.iter().copied().collect();
        self.change(Durability::None, |t| {
            let mut ids = t.open_table(PACK_IDS).map_err(failed)?;
            let mut list = t.open_table(PACKS).map_err(failed)?;
            let mut stored = 0;
            for number in &gone {
                let id = list.remove(number).map_err(failed)?.and_then(|v| decode_pack(*number, v.value()));
                if let Some(info) = id {
                    ids.remove(&info.id.0).map_err(failed)?;
                    stored += info.size;
                }
            }
            take_stored(t, stored)?;
            let mut chunks = t.open_table(CHUNKS).map_err(failed)?;
            chunks.retain(|key, _| !gone.contains(&key_pack(key))).map_err(failed)
        })
    }

    /// Places of a chunk, any order.
    ///
    /// # Errors
    /// `Index`.
    pub fn find(&self, id: &ChunkId) -> Result<Vec<Place>, VaultError> {
        self.reader()?.find(id)
    }

    /// For many lookups at one state of the index.
    ///
    /// # Errors
    /// `Index`.
    pub fn reader(&self) -> Result<IndexReader, VaultError> {
        let t = self.db.begin_read().map_err(failed)?;
        Ok(IndexReader { chunks: t.open_table(CHUNKS).map_err(failed)? })
    }

    /// # Errors
    /// `Index`.
    pub fn pack(&self, number: u32) -> Result<Option<PackInfo>, VaultError> {
        let t = self.db.begin_read().map_err(failed)?;
        let list = t.open_table(PACKS).map_err(failed)?;
        Ok(list.get(number).map_err(failed)?.and_then(|v| decode_pack(number, v.value())))
    }

    /// # Errors
    /// `Index`.
    pub fn pack_by_id(&self, id: &PackId) -> Result<Option<PackInfo>, VaultError> {
        let number = {
            let t = self.db.begin_read().map_err(failed)?;
            let ids = t.open_table(PACK_IDS).map_err(failed)?;
            ids.get(&id.0).map_err(failed)?.map(|v| v.value())
        };
        number.map_or(Ok(None), |n| self.pack(n))
    }

    /// All packs, by number.
    ///
    /// # Errors
    /// `Index`.
    pub fn packs(&self) -> Result<Vec<PackInfo>, VaultError> {
        let t = self.db.begin_read().map_err(failed)?;
        let list = t.open_table(PACKS).map_err(failed)?;
        let mut packs = Vec::new();
        for row in list.iter().map_err(failed)? {
            let (number, info) = row.map_err(failed)?;
            packs.extend(decode_pack(number.value(), info.value()));
        }
        Ok(packs)
    }

    /// What there is in all; looks at no pack.
    ///
    /// # Errors
    /// `Index`.
    pub fn totals(&self) -> Result<Totals, VaultError> {
        let t = self.db.begin_read().map_err(failed)?;
        Ok(Totals {
            packs: t.open_table(PACKS).map_err(failed)?.len().map_err(failed)?,
            chunks: t.open_table(CHUNKS).map_err(failed)?.len().map_err(failed)?,
            stored: number_in(&t.open_table(META).map_err(failed)?, STORED)?,
        })
    }

    /// How many entries of chunks there are.
    ///
    /// # Errors
    /// `Index`.
    pub fn chunk_count(&self) -> Result<u64, VaultError> {
        let t = self.db.begin_read().map_err(failed)?;
        t.open_table(CHUNKS).map_err(failed)?.len().map_err(failed)
    }

    /// Every entry, ordered by the id's first bytes; an error of `f` ends it.
    ///
    /// # Errors
    /// `Index`, and what `f` says.
    pub fn each_chunk(&self, mut f: impl FnMut(Known) -> Result<(), VaultError>) -> Result<(), VaultError> {
        let t = self.db.begin_read().map_err(failed)?;
        let chunks = t.open_table(CHUNKS).map_err(failed)?;
        for row in chunks.iter().map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            let key = key.value();
            let mut short = [0; 16];
            short.copy_from_slice(&key[..16]);
            f(Known { short, place: decode_place(key_pack(key), value.value()) })?;
        }
        Ok(())
    }

    /// Keeps the texts of snapshots and holds, by object name.
    ///
    /// # Errors
    /// `Index`.
    pub fn put_texts(&self, texts: &[(String, Vec<u8>)]) -> Result<(), VaultError> {
        self.change(Durability::None, |t| {
            let mut table = t.open_table(SNAPSHOTS).map_err(failed)?;
            for (name, text) in texts {
                table.insert(name.as_str(), text.as_slice()).map_err(failed)?;
            }
            Ok(())
        })
    }

    /// # Errors
    /// `Index`.
    pub fn remove_text(&self, name: &str) -> Result<(), VaultError> {
        self.change(Durability::None, |t| {
            t.open_table(SNAPSHOTS).map_err(failed)?.remove(name).map_err(failed)?;
            Ok(())
        })
    }

    /// All texts by object name.
    ///
    /// # Errors
    /// `Index`.
    pub fn texts(&self) -> Result<Vec<(String, Vec<u8>)>, VaultError> {
        let t = self.db.begin_read().map_err(failed)?;
        let table = t.open_table(SNAPSHOTS).map_err(failed)?;
        let mut texts = Vec::new();
        for row in table.iter().map_err(failed)? {
            let (name, text) = row.map_err(failed)?;
            texts.push((name.value().to_string(), text.value().to_vec()));
        }
        Ok(texts)
    }
}

/// Looks chunks up, at one state of the index.
pub struct IndexReader {
    chunks: redb::ReadOnlyTable<&'static [u8; 20], &'static [u8; 20]>,
}

impl IndexReader {
    /// Places of a chunk, any order.
    ///
    /// # Errors
    /// `Index`.
    pub fn find(&self, id: &ChunkId) -> Result<Vec<Place>, VaultError> {
        let short = id.short();
        let (first, last) = (chunk_key(&short, 0), chunk_key(&short, u32::MAX));
        let mut places = Vec::new();
        for row in self.chunks.range::<&[u8; 20]>(&first..=&last).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            places.push(decode_place(key_pack(key.value()), value.value()));
        }
        Ok(places)
    }
}

/// Whether what is there is of no use; what only could not be opened now may be a good index.
fn is_no_index(e: &redb::DatabaseError) -> bool {
    use redb::{DatabaseError, StorageError};
    use std::io::ErrorKind;
    match e {
        DatabaseError::RepairAborted | DatabaseError::UpgradeRequired(_) => true,
        DatabaseError::Storage(StorageError::Corrupted(_)) => true,
        DatabaseError::Storage(StorageError::Io(e)) => {
            matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

fn chunk_key(short: &[u8; 16], pack: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(short);
    key[16..].copy_from_slice(&pack.to_be_bytes());
    key
}

fn key_pack(key: &[u8; 20]) -> u32 {
    u32::from_be_bytes([key[16], key[17], key[18], key[19]])
}

fn encode_place(p: &Place) -> [u8; 20] {
    let mut v = [0; 20];
    let stored = p.frame.stored | if p.frame.codec_zstd { ZSTD } else { 0 };
    for (n, x) in [p.frame.offset, stored, p.frame.raw, p.offset, p.len].into_iter().enumerate() {
        v[4 * n..4 * n + 4].copy_from_slice(&x.to_le_bytes());
    }
    v
}

fn decode_place(pack: u32, v: &[u8; 20]) -> Place {
    let at = |n: usize| u32::from_le_bytes([v[4 * n], v[4 * n + 1], v[4 * n + 2], v[4 * n + 3]]);
    let frame = FrameAt { offset: at(0), stored: at(1) & !ZSTD, raw: at(2), codec_zstd: at(1) & ZSTD != 0 };
    Place { pack, frame, offset: at(3), len: at(4) }
}

fn encode_pack(p: &PackInfo) -> [u8; 41] {
    let mut v = [0; 41];
    v[..16].copy_from_slice(&p.id.0);
    v[16] = p.kind as u8;
    v[17..21].copy_from_slice(&p.generation.to_le_bytes());
    v[21..29].copy_from_slice(&p.size.to_le_bytes());
    v[29..33].copy_from_slice(&p.chunks.to_le_bytes());
    v[33..].copy_from_slice(&p.raw.to_le_bytes());
    v
}

fn decode_pack(number: u32, v: &[u8; 41]) -> Option<PackInfo> {
    let mut id = [0; 16];
    id.copy_from_slice(&v[..16]);
    Some(PackInfo {
        number,
        id: PackId(id),
        kind: Kind::of(v[16])?,
        generation: u32::from_le_bytes(v[17..21].try_into().ok()?),
        size: u64::from_le_bytes(v[21..29].try_into().ok()?),
        chunks: u32::from_le_bytes(v[29..33].try_into().ok()?),
        raw: u64::from_le_bytes(v[33..].try_into().ok()?),
    })
}

#[cfg(test)]
mod tests;
