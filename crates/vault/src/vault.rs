//! A vault that is open: keys, index, what snapshots there are, reading.
//!
//! Invariants: what is read was proven by its id; a damaged pack does not hide another that has the chunk; the index is
//! brought in line with the store before it is relied on.

use crate::error::{StoreError, VaultError};
use crate::id::{ChunkId, ObjectName, PackId, SnapshotId, VaultId};
use crate::index::{Index, Place};
use crate::keys::{VaultKeys, read_bounded};
use crate::object::{self, ObjectType};
use crate::read::ReadCache;
use crate::session::Session;
use crate::snapshot::{DiskMap, Hold, Owner, Snapshot, decode_marker, encode_marker};
use crate::store::{Part, Put, Store};
use bytes::Bytes;
use lifeboat_base::{Clock, DiskId, Entropy, Secret, WallTime};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

/// Longest snapshot, hold or plan object, in bytes.
pub(crate) const MAX_OBJECT: u64 = 64 << 20;

/// How a vault is used. The format does not depend on it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads of one session that compress.
    pub workers: usize,
    /// Of zstd.
    pub level: i32,
    /// Most chunks in one frame.
    pub frame_chunks: usize,
    /// Raw bytes at which a frame is full; fewer make small reads faster, more compress better.
    pub frame_bytes: usize,
    /// Bytes at which a pack is full.
    pub pack_bytes: usize,
    /// Chunks kept in memory, in bytes.
    pub cache_bytes: usize,
    /// Decoded content kept in an unnamed file beside the index, in bytes; 0 for none.
    pub disk_cache: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 2,
            level: 3,
            frame_chunks: crate::pack::MAX_FRAME_CHUNKS,
            frame_bytes: 1 << 20,
            pack_bytes: 32 << 20,
            cache_bytes: 64 << 20,
            disk_cache: 1 << 30,
        }
    }
}

/// What to open.
#[derive(Clone)]
pub struct VaultOptions {
    pub store: Arc<dyn Store>,
    /// The site's vault key; in the middle of a rotation both.
    pub site_keys: Vec<Secret>,
    /// File of the local index; in memory without one.
    pub index: Option<PathBuf>,
    pub settings: Settings,
}

pub(crate) struct Shared {
    pub id: VaultId,
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub settings: Settings,
    pub index: Index,
    pub keys: RwLock<(VaultKeys, u32)>,
    /// The site's, of which one opens the vault's.
    pub site_keys: RwLock<Vec<Secret>>,
    pub state: RwLock<State>,
    pub cache: ReadCache,
    /// Until when objects are locked in the store, as far as this process knows.
    pub locked: Mutex<HashMap<ObjectName, WallTime>>,
    /// The sessions of this process, and the packs each has stored.
    pub writing: Mutex<HashMap<SnapshotId, HashSet<PackId>>>,
}

/// What is known of the vault besides its chunks.
#[derive(Default)]
pub(crate) struct State {
    pub snapshots: BTreeMap<SnapshotId, Arc<Snapshot>>,
    /// The newest hold of each, with its number.
    pub holds: BTreeMap<SnapshotId, (u32, Hold)>,
    /// Packs a pruner has said will go, and damaged ones. No new snapshot may rely on them.
    pub condemned: HashSet<PackId>,
    /// What is condemned by the plan of which epoch.
    pub plans: BTreeMap<u32, Vec<PackId>>,
    /// Packs that were found damaged.
    pub distrusted: HashSet<PackId>,
    /// The newest pruner's epoch seen.
    pub prune_epoch: u32,
    /// The newest plan that had been seen when packs were last listed.
    pub refreshed: u32,
}

/// A vault that is open; cheap to clone.
#[derive(Clone)]
pub struct Vault {
    pub(crate) shared: Arc<Shared>,
}

/// The object that says what vault it is.
pub(crate) fn marker() -> ObjectName {
    ObjectName::new("vault").expect("a word is a name")
}

impl Vault {
    /// Makes a vault in an empty store.
    ///
    /// # Errors
    /// `Refused` when there is a vault already; what the store says.
    pub fn create(
        store: &dyn Store,
        site_key: &Secret,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<VaultId, VaultError> {
        let taken = || VaultError::Refused {
            why: format!("there is a vault in {} already; attach it with its recovery kit", store.describe()),
            until: None,
        };
        match store.get(&marker(), Part::All) {
            Ok(_) => return Err(taken()),
            Err(StoreError::NotFound(_)) => {}
            Err(e) => return Err(e.into()),
        }
        let id = VaultId::random(entropy);
        // The keys first: a vault that can be found can be opened.
        let keys = VaultKeys::create(id, clock.wall(), entropy);
        match keys.store(store, site_key, 1, entropy) {
            Ok(()) => {}
            // Left by an attempt that was cut off, where nothing was ever sealed with them; else the marker is what is lost.
            Err(VaultError::Fenced(_)) => {
                let mut more = None;
                store.list("", &mut |o| {
                    let keys = o.name.as_str() == "keys/00000001";
                    more = more.take().or((!keys).then_some(o.name));
                    if more.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })?;
                if let Some(more) = more {
                    let why = format!("it is missing, but there is {more}: bring it back from another copy");
                    return Err(VaultError::damaged("vault", why));
                }
                store.delete(&ObjectName::new("keys/00000001").ok_or_else(taken)?)?;
                keys.store(store, site_key, 1, entropy)?;
            }
            Err(e) => return Err(e),
        }
        match store.put_new(&marker(), encode_marker(&id).into())? {
            Put::Created => Ok(id),
            Put::Exists => Err(taken()),
        }
    }

    /// Opens the vault in a store. The index may be behind until [`refresh`](Self::refresh) has run.
    ///
    /// # Errors
    /// `NoVault`, `Version`, `WrongKey`, `Damaged`; what the store says.
    pub fn open(
        options: VaultOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, VaultError> {
        let VaultOptions { store, site_keys, index, settings } = options;
        let bytes = match store.get(&marker(), Part::Range { offset: 0, len: 64 }) {
            Err(StoreError::NotFound(_)) => return Err(VaultError::NoVault(store.describe())),
            other => other?,
        };
        let id = decode_marker(&bytes)?;
        let (keys, number) = VaultKeys::load(&*store, id, &site_keys)?;
        let shared = Shared {
            id,
            index: Index::open(index.as_deref(), id, &*entropy)?,
            writing: Mutex::default(),
            locked: Mutex::default(),
            keys: RwLock::new((keys, number)),
            site_keys: RwLock::new(site_keys),
            state: RwLock::default(),
            cache: ReadCache::new(&settings, index.as_deref()),
            store,
            clock,
            entropy,
            settings,
        };
        let vault = Self { shared: Arc::new(shared) };
        vault.load_texts()?;
        Ok(vault)
    }

    pub fn id(&self) -> VaultId {
        self.shared.id
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    pub fn index(&self) -> &Index {
        &self.shared.index
    }

    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// All keys; whoever has them reads everything.
    pub fn keys(&self) -> VaultKeys {
        self.shared.keys.read().0.clone()
    }

    /// Seals what is new with a new key from now on; gives its generation. `site_key` is what seals the vault's keys from
    /// now on, and may be a new one: until this returns, the old one opens the vault, afterwards the new one.
    ///
    /// # Errors
    /// `Fenced` when another process rotated meanwhile: open the vault anew.
    pub fn rotate_key(&self, site_key: &Secret) -> Result<u32, VaultError> {
        let s = &*self.shared;
        let (mut keys, number) = s.keys.read().clone();
        keys.rotate(s.clock.wall(), &*s.entropy)?;
        keys.store(&*s.store, site_key, number + 1, &*s.entropy)?;
        s.site_keys.write().insert(0, site_key.clone());
        self.take_keys(keys, number + 1);
        Ok(s.keys.read().0.generation())
    }

    fn take_keys(&self, keys: VaultKeys, number: u32) {
        let mut held = self.shared.keys.write();
        if number > held.1 {
            *held = (keys, number);
        }
    }

    /// The data keys up to a generation are known: another process may have rotated since this one opened the vault.
    pub(crate) fn learn_generation(&self, generation: u32) -> Result<(), VaultError> {
        let s = &*self.shared;
        if generation <= s.keys.read().0.generation() {
            return Ok(());
        }
        let site_keys = s.site_keys.read().clone();
        let (keys, number) = VaultKeys::load(&*s.store, s.id, &site_keys)?;
        self.take_keys(keys, number);
        Ok(())
    }

    /// Key objects that a rotation has made superfluous go, so that an old site key opens nothing any more.
    ///
    /// # Errors
    /// What the store says; then they are still there.
    pub fn drop_old_keys(&self) -> Result<(), VaultError> {
        let newest = self.shared.keys.read().1;
        for number in 1..newest {
            if let Some(name) = ObjectName::new(format!("keys/{number:08}")) {
                self.shared.store.delete(&name)?;
            }
        }
        Ok(())
    }

    /// The id of content, from its BLAKE3.
    pub fn content_id(&self, content: &blake3::Hash) -> ChunkId {
        self.shared.keys.read().0.chunk_id(content)
    }

    /// Whether the vault has it, in a pack that is going to stay.
    ///
    /// # Errors
    /// `Index`.
    pub fn has(&self, id: &ChunkId) -> Result<bool, VaultError> {
        Ok(self.places(id)?.iter().any(|p| self.stays(p.pack)))
    }

    pub(crate) fn places(&self, id: &ChunkId) -> Result<Vec<Place>, VaultError> {
        self.shared.index.find(id)
    }

    /// Whether no pruner has said that the pack will go.
    pub(crate) fn stays(&self, pack: u32) -> bool {
        let state = self.shared.state.read();
        if state.condemned.is_empty() {
            return true;
        }
        match self.shared.index.pack(pack) {
            Ok(Some(info)) => !state.condemned.contains(&info.id),
            _ => false,
        }
    }

    /// Packs that sessions of this process have stored and no snapshot names yet.
    pub(crate) fn being_written(&self) -> HashSet<PackId> {
        self.shared.writing.lock().values().flatten().copied().collect()
    }

    /// Begins a session that will make one snapshot.
    ///
    /// # Errors
    /// What the store says.
    pub fn begin(&self, owner: Owner) -> Result<Session, VaultError> {
        Session::begin(self, owner)
    }

    /// All snapshots, by id.
    pub fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        self.shared.state.read().snapshots.values().cloned().collect()
    }

    /// Those of one owner, newest first by the site's clock.
    pub fn snapshots_of(&self, owner: &Owner) -> Vec<Arc<Snapshot>> {
        let mut list: Vec<_> =
            self.shared.state.read().snapshots.values().filter(|s| s.owner == *owner).cloned().collect();
        list.sort_by_key(|s| std::cmp::Reverse((s.body.site_time, s.body.point.map(|p| p.seq), s.id)));
        list
    }

    pub fn snapshot(&self, id: &SnapshotId) -> Option<Arc<Snapshot>> {
        self.shared.state.read().snapshots.get(id).cloned()
    }

    /// The name and the lock it was given.
    pub fn hold(&self, id: &SnapshotId) -> Hold {
        self.shared.state.read().holds.get(id).map(|(_, h)| h.clone()).unwrap_or_default()
    }

    /// Whether a snapshot is gone, or its deletion has begun. Who makes known that he uses it and then finds that it is not
    /// going keeps it: see [`Keeping::special`](crate::prune::Keeping::special).
    pub fn is_going(&self, id: &SnapshotId) -> bool {
        let state = self.shared.state.read();
        !state.snapshots.contains_key(id) || state.holds.get(id).is_some_and(|(_, hold)| hold.forgotten)
    }

    /// When a snapshot's lock ends: the later of what it was made with and what it was given.
    pub fn locked_until(&self, snapshot: &Snapshot) -> Option<lifeboat_base::WallTime> {
        self.hold(&snapshot.id).locked_until.max(snapshot.body.locked_until)
    }

    /// Changes the name and the lock of a snapshot; `change` is given what it has, again if somebody else was first. A lock
    /// never gets shorter.
    ///
    /// # Errors
    /// `Refused` for a shorter lock, `Invalid` for a snapshot that is not there; what the store says.
    pub fn change_hold(&self, id: &SnapshotId, change: impl Fn(&Hold) -> Hold) -> Result<(), VaultError> {
        let s = &*self.shared;
        let snapshot =
            self.snapshot(id).ok_or_else(|| VaultError::Invalid(format!("there is no snapshot {id}")))?;
        let (number, hold) = loop {
            let (number, old) = s.state.read().holds.get(id).cloned().unwrap_or_default();
            if old.forgotten {
                return Err(VaultError::Refused { why: "it is being deleted".into(), until: None });
            }
            let hold = change(&old);
            if hold.locked_until < old.locked_until {
                let until = old.locked_until.max(snapshot.body.locked_until);
                return Err(VaultError::Refused { why: "a lock is never made shorter".into(), until });
            }
            let name = Hold::object(id, number + 1)?;
            let sealed = self.seal(ObjectType::Hold, &name, &hold.encode()?);
            match s.store.put_new(&name, sealed)? {
                Put::Created => {
                    s.index.put_texts(&[(name.as_str().into(), hold.encode()?)])?;
                    break (number + 1, hold);
                }
                // Somebody else gave it one meanwhile: what is asked for is said of theirs.
                Put::Exists => self.load_hold(&name)?,
            }
        };
        // A pruner that forgot it in between has not seen this hold.
        let object = Snapshot::object(&snapshot.owner, id, &s.keys.read().0.id)?;
        if let Err(StoreError::NotFound(_)) = s.store.size(&object) {
            let name = Hold::object(id, number)?;
            s.store.delete(&name)?;
            s.index.remove_text(name.as_str())?;
            return Err(VaultError::Invalid(format!("snapshot {id} is gone")));
        }
        s.index.settle()?;
        s.state.write().note_hold(*id, number, hold);
        Ok(())
    }

    /// Gives a snapshot this name and lock in place of what it had.
    ///
    /// # Errors
    /// As [`change_hold`](Self::change_hold).
    pub fn set_hold(&self, id: &SnapshotId, hold: Hold) -> Result<(), VaultError> {
        self.change_hold(id, |_| hold.clone())
    }

    fn load_hold(&self, name: &ObjectName) -> Result<(), VaultError> {
        let text = self.open_object(name, ObjectType::Hold)?;
        let hold = Hold::decode(&text).map_err(|why| VaultError::damaged(name, why))?;
        if let Some((id, number)) = Hold::of_object(name) {
            self.shared.index.put_texts(&[(name.as_str().into(), text)])?;
            self.shared.state.write().note_hold(id, number, hold);
        }
        Ok(())
    }

    /// A disk as it is in a snapshot.
    ///
    /// # Errors
    /// `Invalid` when the snapshot has no such disk.
    pub fn device(
        &self,
        snapshot: &Snapshot,
        disk: DiskId,
    ) -> Result<crate::device::VaultDevice, VaultError> {
        let root = snapshot
            .disk(disk)
            .ok_or_else(|| VaultError::Invalid(format!("{disk} is not in snapshot {}", snapshot.id)))?;
        Ok(self.map_device(root.map))
    }

    /// A map as a disk.
    pub fn map_device(&self, map: DiskMap) -> crate::device::VaultDevice {
        crate::device::VaultDevice::new(self.clone(), map)
    }

    pub(crate) fn seal(&self, kind: ObjectType, name: &ObjectName, text: &[u8]) -> Bytes {
        let s = &*self.shared;
        let (generation, key) = s.keys.read().0.newest();
        object::seal(kind, (generation, &key), &s.id, name, text, &*s.entropy)
    }

    pub(crate) fn open_bytes(
        &self,
        name: &ObjectName,
        sealed: &[u8],
    ) -> Result<(ObjectType, Vec<u8>), VaultError> {
        if let Ok(header) = object::Header::decode(sealed) {
            self.learn_generation(header.generation)?;
        }
        let keys = self.shared.keys.read();
        object::open(&self.shared.id, name, sealed, |generation| keys.0.data(generation))
    }

    /// The text of a sealed object.
    ///
    /// # Errors
    /// `Damaged`, also when it is of another type.
    pub fn open_object(&self, name: &ObjectName, kind: ObjectType) -> Result<Vec<u8>, VaultError> {
        let sealed = read_bounded(&*self.shared.store, name, MAX_OBJECT)?;
        match self.open_bytes(name, &sealed)? {
            (found, text) if found == kind => Ok(text),
            (found, _) => Err(VaultError::damaged(name, format!("it is a {found:?}, not a {kind:?}"))),
        }
    }

    /// Puts a sealed object in place, if there is none of that name.
    ///
    /// # Errors
    /// What the store says.
    pub fn put_object(&self, name: &ObjectName, kind: ObjectType, text: &[u8]) -> Result<Put, VaultError> {
        Ok(self.shared.store.put_new(name, self.seal(kind, name, text))?)
    }
}

impl State {
    pub(crate) fn note_hold(&mut self, id: SnapshotId, number: u32, hold: Hold) {
        let known = self.holds.entry(id).or_default();
        if number > known.0 {
            *known = (number, hold);
        }
    }
}
