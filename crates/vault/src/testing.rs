//! A small vault in memory, for tests.

use crate::id::ChunkId;
use crate::pack::Kind;
use crate::session::Session;
use crate::snapshot::{DiskMap, DiskRoot, Owner, Snapshot, SnapshotBody, Stats};
use crate::store::MemoryStore;
use crate::vault::{Settings, Vault, VaultOptions};
use bytes::Bytes;
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{
    Clock, DiskId, Entropy, Epoch, ManualClock, PointId, Secret, SeededEntropy, Seq, ServerId,
};
use std::sync::Arc;

/// Content of a disk's chunk, told by one byte.
pub(crate) fn chunk(value: u8) -> Bytes {
    Bytes::from(vec![value; BLOCK])
}

pub(crate) struct Rig {
    pub store: Arc<MemoryStore>,
    pub clock: Arc<ManualClock>,
    pub entropy: Arc<SeededEntropy>,
    pub vault: Vault,
}

impl Rig {
    pub const SITE_KEY: [u8; 32] = [42; 32];

    pub fn new() -> Self {
        let store = Arc::new(MemoryStore::new("memory"));
        let (clock, entropy) = (Arc::new(ManualClock::default()), Arc::new(SeededEntropy::new(1)));
        Vault::create(&*store, &Secret(Self::SITE_KEY), &*clock, &*entropy).unwrap();
        let options = VaultOptions {
            store: store.clone(),
            site_keys: vec![Secret(Self::SITE_KEY)],
            index: None,
            settings: Settings::default(),
        };
        let vault =
            Vault::open(options, clock.clone() as Arc<dyn Clock>, entropy.clone() as Arc<dyn Entropy>)
                .unwrap();
        Self { store, clock, entropy, vault }
    }

    /// The same vault, as a process sees it whose index is empty.
    pub fn reopen(&self) -> Vault {
        let options = VaultOptions {
            store: self.store.clone(),
            site_keys: vec![Secret(Self::SITE_KEY)],
            index: None,
            settings: Settings::default(),
        };
        let (clock, entropy) =
            (self.clock.clone() as Arc<dyn Clock>, self.entropy.clone() as Arc<dyn Entropy>);
        let vault = Vault::open(options, clock, entropy).unwrap();
        vault.refresh(&|_, _| {}).unwrap();
        vault
    }

    pub fn owner() -> Owner {
        Owner::Server(ServerId::random(&SeededEntropy::new(9)))
    }

    pub fn begin(&self) -> Session {
        self.vault.begin(Self::owner()).unwrap()
    }

    pub fn body(&self, maps: Vec<DiskMap>) -> SnapshotBody {
        let now = self.clock.wall();
        let root = |(n, map): (usize, DiskMap)| DiskRoot { disk: DiskId(n as u16), map, used: 0 };
        SnapshotBody {
            point: Some(PointId { epoch: Epoch(1), seq: Seq(1) }),
            consistency: 0,
            source_time: now,
            site_time: now,
            disks: maps.into_iter().enumerate().map(root).collect(),
            tree: None,
            details: Vec::new(),
            stats: Stats::default(),
            locked_until: None,
        }
    }

    pub fn commit(&self, session: Session, maps: Vec<DiskMap>) -> Arc<Snapshot> {
        session.commit(self.body(maps)).unwrap()
    }

    /// A snapshot of a disk of 1000 chunks, of which these are set.
    pub fn snapshot(&self, set: &[(u64, u8)]) -> Arc<Snapshot> {
        let session = self.begin();
        let mut map = session.map(None, 1000 * BLOCK as u64).unwrap();
        for (n, value) in set {
            let id =
                if *value == 0 { ChunkId::ZERO } else { session.put(Kind::Data, chunk(*value)).unwrap() };
            map.set(*n, id).unwrap();
        }
        let map = map.finish().unwrap();
        self.commit(session, vec![map])
    }
}
