//! Everything but the content of packs.

use super::{Bad, Check, Found, Gone};
use crate::error::{StoreError, VaultError};
use crate::id::{ObjectName, PackId, SnapshotId};
use crate::index::PackInfo;
use crate::keys::VaultKeys;
use crate::object::ObjectType;
use crate::plan::decode_plan;
use crate::snapshot::{Hold, SessionWire, Snapshot, decode_marker, pack_object};
use crate::store::Part;
use crate::vault::{MAX_OBJECT, Vault, marker};
use lifeboat_base::Secret;
use parking_lot::Mutex;
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Objects that are read at a time.
const PARALLEL: usize = 8;
/// Most chunks of packs that are gone which are known by their pack.
const MAX_GONE: usize = 4 << 20;

/// Objects with what is wrong with them, and what kept others from being opened.
type Opened = (Vec<(ObjectName, Wrong)>, Option<VaultError>);

/// What is wrong with an object.
struct Wrong {
    why: String,
    /// No copy is right.
    lost: bool,
}

/// What is in the store, by kind.
#[derive(Default)]
struct Listing {
    packs: HashMap<PackId, u64>,
    others: Vec<ObjectName>,
}

impl Check<'_> {
    /// Looks at every small object, and at the sizes of packs. Gives packs that are bad, and where the chunks were that
    /// are in packs that are gone.
    pub(super) fn look_at_objects(&self, found: &mut Found) -> Result<(Vec<Bad>, Gone), VaultError> {
        self.watch("listing", 0, 0)?;
        let known: Vec<PackInfo> = self.vault.index().packs()?;
        let texts: HashSet<String> = self.vault.index().texts()?.into_iter().map(|(name, _)| name).collect();
        let listing = self.list()?;
        self.look_for_missing(&listing, &texts, found)?;
        self.read_all(&listing.others, found)?;

        let (mut bad, mut gone) = (Vec::new(), HashMap::new());
        for pack in known {
            match listing.packs.get(&pack.id) {
                Some(&size) if size == pack.size => {}
                Some(size) => bad.push(Bad {
                    pack: pack.id,
                    what: format!("it is {size} bytes long and was {} when it was made", pack.size),
                    chunks: None,
                }),
                None if self.is_there(&pack_object(&pack.id))? => {}
                None => drop(gone.insert(pack.number, pack.id)),
            }
        }
        Ok((bad, self.chunks_of(&gone)?))
    }

    fn list(&self) -> Result<Listing, VaultError> {
        let mut listing = Listing::default();
        self.vault.store().list("", &mut |o| {
            let pack = o.name.as_str().strip_prefix("packs/").and_then(|rest| rest.split_once('/'));
            match pack.and_then(|(_, id)| PackId::parse(id)) {
                Some(id) => drop(listing.packs.insert(id, o.size)),
                None => listing.others.push(o.name),
            }
            ControlFlow::Continue(())
        })?;
        listing.others.sort();
        Ok(listing)
    }

    fn is_there(&self, name: &ObjectName) -> Result<bool, VaultError> {
        match self.vault.store().size(name) {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// What was known to be there and is not. A snapshot another process has deleted has no hold any more, or the mark
    /// of its deletion; which of both happened cannot be told from here, so it is said.
    fn look_for_missing(
        &self,
        listing: &Listing,
        texts: &HashSet<String>,
        found: &mut Found,
    ) -> Result<(), VaultError> {
        let there: HashSet<&str> = listing.others.iter().map(ObjectName::as_str).collect();
        if !there.contains(marker().as_str()) {
            found.add("vault", "it is gone: nobody finds the vault any more");
        }
        if !there.iter().any(|n| n.starts_with("keys/")) {
            found.add("keys/", "the vault's keys are gone: once it is closed nobody opens it any more");
        }
        for name in texts.iter().filter(|n| !there.contains(n.as_str())) {
            let Some(object) = ObjectName::new(name.clone()) else { continue };
            if self.is_there(&object)? {
                continue;
            }
            let what = "it is gone: another process has deleted it, or it was lost";
            found.add_about(name, what, self.about(&object));
        }
        Ok(())
    }

    /// The snapshot an object is about, as it was known before.
    fn about(&self, name: &ObjectName) -> Option<Arc<Snapshot>> {
        subject(name).and_then(|id| self.vault.snapshot(&id))
    }

    /// Opens every small object.
    fn read_all(&self, names: &[ObjectName], found: &mut Found) -> Result<(), VaultError> {
        let next = AtomicUsize::new(0);
        let out: Mutex<Opened> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(names.len()) {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        let Some(name) = names.get(n) else { return };
                        let result = self
                            .watch("opening objects", n as u64, names.len() as u64)
                            .and_then(|()| self.look_at(name));
                        match result {
                            Ok(None) => {}
                            Ok(Some(why)) => out.lock().0.push((name.clone(), why)),
                            Err(e) => {
                                out.lock().1 = Some(e);
                                next.store(names.len(), Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        let (mut wrong, failed) = out.into_inner();
        wrong.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, wrong) in wrong {
            found.add_about(name.as_str(), wrong.why, self.about(&name).filter(|_| wrong.lost));
        }
        failed.map_or(Ok(()), Err)
    }

    /// What is wrong with an object, if anything is, and whether no copy of it is right.
    fn look_at(&self, name: &ObjectName) -> Result<Option<Wrong>, VaultError> {
        let store = self.vault.store();
        let copies = store.copies();
        let (mut wrong, mut right, mut unasked) = (Vec::new(), 0, None);
        for copy in 0..copies {
            let part = Part::Range { offset: 0, len: MAX_OBJECT + 1 };
            let why = match store.get_copy(copy, name, part) {
                Ok(bytes) if bytes.len() as u64 > MAX_OBJECT => "it is longer than it can be".into(),
                Ok(bytes) => match verify(self.vault, self.site_keys, name, &bytes) {
                    Ok(()) => {
                        right += 1;
                        continue;
                    }
                    Err(VaultError::Damaged { why, .. }) => why,
                    Err(VaultError::WrongKey) => "no key of the vault opens it".into(),
                    Err(e) => e.to_string(),
                },
                // Deleted meanwhile, or lacking in this copy: the copies' health tells.
                Err(StoreError::NotFound(_)) => continue,
                Err(e) => {
                    unasked = Some(e);
                    continue;
                }
            };
            wrong.push(if copies > 1 { format!("copy {} of {copies}: {why}", copy + 1) } else { why });
        }
        match unasked {
            Some(e) if right == 0 && wrong.is_empty() => Err(e.into()),
            _ if wrong.is_empty() => Ok(None),
            _ => Ok(Some(Wrong { why: wrong.join("; "), lost: right == 0 })),
        }
    }

    /// The chunks of packs that are gone, before the index forgets them.
    fn chunks_of(&self, gone: &HashMap<u32, PackId>) -> Result<Gone, VaultError> {
        let mut chunks = HashMap::new();
        if gone.is_empty() {
            return Ok(chunks);
        }
        self.vault.index().each_chunk(|known| {
            if let Some(pack) = gone.get(&known.place.pack)
                && chunks.len() < MAX_GONE
            {
                chunks.insert(known.short, *pack);
            }
            Ok(())
        })?;
        Ok(chunks)
    }
}

/// The snapshot an object is, or is about.
pub(super) fn subject(name: &ObjectName) -> Option<SnapshotId> {
    Snapshot::id_of(name).or_else(|| Hold::of_object(name).map(|(id, _)| id))
}

/// Whether these bytes are what the object `name` may hold; of packs only that they are one.
///
/// # Errors
/// `Damaged`, `WrongKey` and the like: what is wrong with them.
pub(crate) fn verify(
    vault: &Vault,
    site_keys: &[Secret],
    name: &ObjectName,
    bytes: &[u8],
) -> Result<(), VaultError> {
    let damaged = |why: &str| VaultError::damaged(name, why);
    let of_type = |wanted: ObjectType| match vault.open_bytes(name, bytes)? {
        (found, text) if found == wanted => Ok(text),
        (found, _) => Err(damaged(&format!("there is a {found:?} in its place"))),
    };
    let text = name.as_str();
    if *name == marker() {
        return match decode_marker(bytes)? {
            id if id == vault.id() => Ok(()),
            _ => Err(damaged("it is another vault's")),
        };
    }
    match text.split_once('/').map(|(kind, _)| kind) {
        Some("keys") if site_keys.is_empty() => Ok(()),
        Some("keys") => VaultKeys::verify(vault.id(), site_keys, name, bytes),
        Some("snapshots") => match vault.open_bytes(name, bytes)? {
            (ObjectType::Snapshot, text) => vault.parse_snapshot(name, &text).map(drop),
            (ObjectType::Tombstone, _) => Ok(()),
            (found, _) => Err(damaged(&format!("there is a {found:?} in its place"))),
        },
        Some("holds") => Hold::decode(&of_type(ObjectType::Hold)?).map(drop).map_err(damaged),
        Some("sessions") => {
            let text = of_type(ObjectType::Session)?;
            SessionWire::decode(text.as_slice()).map(drop).map_err(|_| damaged("it announces no session"))
        }
        Some("prune") if text.ends_with(".plan") => {
            decode_plan(&of_type(ObjectType::Plan)?).map(drop).map_err(damaged)
        }
        Some("prune") => of_type(ObjectType::Epoch).map(drop),
        Some("catalogue") => of_type(ObjectType::Catalogue).map(drop),
        // Not of this version, or nobody's: it does no harm.
        _ => Ok(()),
    }
}
