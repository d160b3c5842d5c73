//! Reading packs back.

use super::Bad;
use crate::error::{StoreError, VaultError};
use crate::id::PackId;
use crate::index::PackInfo;
use crate::pack::{FrameEntry, HEADER, PackHead, PackOpener, TRAILER, Trailer};
use crate::snapshot::pack_object;
use crate::store::Part;
use crate::vault::Vault;
use bytes::Bytes;
use std::collections::HashSet;

/// Reads a pack, each copy of it, and proves all of it; what is wrong with it, if anything is.
///
/// # Errors
/// What keeps it from being read: no copy answers.
pub(crate) fn read_back(vault: &Vault, pack: &PackInfo) -> Result<Option<Bad>, VaultError> {
    let name = pack_object(&pack.id);
    let copies = vault.store().copies();
    let (mut wrong, mut broken, mut unasked) = (Vec::new(), None, None);
    let mut asked = 0;
    for copy in 0..copies {
        let proof = match vault.store().get_copy(copy, &name, Part::All) {
            Ok(bytes) => prove(vault, &pack.id, &bytes),
            Err(StoreError::NotFound(_)) => Proof::none("it is gone".into()),
            // Whether a copy is away is another question.
            Err(e) => {
                unasked = Some(e);
                continue;
            }
        };
        asked += 1;
        if let Some(why) = proof.why {
            let which = if copies > 1 { format!("copy {} of {copies}: ", copy + 1) } else { String::new() };
            wrong.push(format!("{which}{why}"));
        }
        broken = Some(match broken {
            None => proof.broken,
            Some(before) => both(before, proof.broken),
        });
    }
    match (unasked, broken) {
        (Some(e), _) if asked == 0 => Err(e.into()),
        _ if wrong.is_empty() => Ok(None),
        (_, broken) => {
            let chunks = broken.unwrap_or(Some(HashSet::new()));
            let lost = chunks.as_ref().map_or(pack.chunks as usize, HashSet::len);
            let what = match wrong.join("; ") {
                what if lost == 0 => format!("{what}; nothing of it is lost"),
                what => format!("{what}; {lost} of its {} chunks are lost", pack.chunks),
            };
            Ok(Some(Bad { pack: pack.id, what, chunks }))
        }
    }
}

/// Chunks; `None` for all of a pack.
type Chunks = Option<HashSet<[u8; 16]>>;

/// What is broken in both.
fn both(a: Chunks, b: Chunks) -> Chunks {
    match (a, b) {
        (None, other) | (other, None) => other,
        (Some(a), Some(b)) => Some(a.intersection(&b).copied().collect()),
    }
}

/// What a pack's bytes are worth.
pub(super) struct Proof {
    /// What is wrong first.
    pub why: Option<String>,
    broken: Chunks,
}

impl Proof {
    fn none(why: String) -> Self {
        Self { why: Some(why), broken: None }
    }
}

/// Proves a pack: header, directory, every frame, every chunk.
pub(super) fn prove(vault: &Vault, id: &PackId, bytes: &Bytes) -> Proof {
    let (opener, frames) = match directory(vault, id, bytes) {
        Ok(read) => read,
        Err(VaultError::Damaged { why, .. }) => return Proof::none(why),
        Err(e) => return Proof::none(e.to_string()),
    };
    let (mut broken, mut why) = (HashSet::new(), None);
    for frame in &frames {
        let from = frame.at.offset as usize;
        let sealed = bytes.get(from..from.saturating_add(frame.at.stored as usize)).unwrap_or_default();
        if let Err(e) = prove_frame(vault, &opener, frame, sealed.to_vec(), &mut broken) {
            why.get_or_insert(e);
        }
    }
    Proof { why, broken: Some(broken) }
}

fn directory(vault: &Vault, id: &PackId, bytes: &Bytes) -> Result<(PackOpener, Vec<FrameEntry>), VaultError> {
    let damaged = |why: &str| VaultError::damaged(pack_object(id), why);
    let head = PackHead::decode(bytes).map_err(damaged)?;
    if head.id != *id || head.vault != vault.id() {
        return Err(damaged("it is another pack than its name says"));
    }
    let size = bytes.len();
    let trailer = Trailer::decode(bytes, size as u64).map_err(damaged)?;
    let end = size - TRAILER;
    let from = end.checked_sub(trailer.directory as usize).filter(|&at| at >= HEADER);
    let from = from.ok_or_else(|| damaged("it is cut short"))?;
    let info = PackInfo {
        number: 0,
        id: *id,
        kind: head.kind,
        generation: head.generation,
        size: size as u64,
        chunks: trailer.chunks,
        raw: 0,
    };
    let opener = vault.open_pack(&info)?;
    let frames = opener.directory(&bytes[from..end], from as u64, &trailer)?;
    Ok((opener, frames))
}

/// Proves the chunks of a frame; those that are not what they should be are added to `broken`.
fn prove_frame(
    vault: &Vault,
    opener: &PackOpener,
    frame: &FrameEntry,
    mut sealed: Vec<u8>,
    broken: &mut HashSet<[u8; 16]>,
) -> Result<(), String> {
    let raw = match opener.frame(&frame.at, &mut sealed) {
        Ok(raw) => raw,
        Err(e) => {
            broken.extend(frame.chunks.iter().map(|(id, _)| id.short()));
            return Err(match e {
                VaultError::Damaged { why, .. } => why,
                e => e.to_string(),
            });
        }
    };
    let mut at = 0;
    let mut wrong = None;
    for (id, len) in &frame.chunks {
        let content = &raw[at..at + *len as usize];
        at += *len as usize;
        if vault.content_id(&blake3::hash(content)) != *id {
            broken.insert(id.short());
            wrong =
                Some(format!("frame at {}: what it holds as chunk {id} is something else", frame.at.offset));
        }
    }
    wrong.map_or(Ok(()), Err)
}
