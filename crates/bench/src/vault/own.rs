//! Lifeboat's vault, through the library: what tiering and backups of files do.

use super::archives::{Archive, bytes_below};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{Clock as _, DiskId, Epoch, PointId, Secret, Seq, ServerId, SystemClock, SystemEntropy};
use lifeboat_block::{BlockDevice as _, ExtentKind, FileDevice};
use lifeboat_files::blob::{BlobError, BlobKind, BlobSink, BlobSource, Hash};
use lifeboat_files::exclude::Exclude;
use lifeboat_files::reader::Tree;
use lifeboat_files::report::Monitor;
use lifeboat_files::walk::{WalkOptions, walk};
use lifeboat_sim::clock;
use lifeboat_vault::store::DirStore;
use lifeboat_vault::{
    DiskRoot, Kind, Owner, Session, Settings, Snapshot, SnapshotBody, Stats, Vault, VaultOptions, ingest,
};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Threads that read a tree's files.
const READERS: usize = 2;

/// Bytes a restore asks for at a time.
const PIECE: usize = 4 << 20;

pub struct Own {
    dir: PathBuf,
    server: ServerId,
}

const KEY: [u8; 32] = [7; 32];

impl Own {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), server: ServerId::random(&SystemEntropy) }
    }

    fn owner(&self) -> Owner {
        Owner::Server(self.server)
    }

    /// As a process does that has just started.
    ///
    /// # Errors
    /// What the vault says.
    pub fn open(&self) -> Result<Vault> {
        let options = VaultOptions {
            store: Arc::new(DirStore::open(self.dir.join("vault"))?),
            site_keys: vec![Secret(KEY)],
            index: Some(self.dir.join("vault-index.redb")),
            settings: Settings::default(),
        };
        let vault = Vault::open(options, Arc::new(SystemClock), Arc::new(SystemEntropy))?;
        vault.refresh(&|_, _| {})?;
        Ok(vault)
    }

    fn newest(&self, vault: &Vault) -> Option<Arc<Snapshot>> {
        vault.snapshots_of(&self.owner()).into_iter().max_by_key(|s| s.body.site_time)
    }

    /// Commits a disk, or a tree.
    ///
    /// # Errors
    /// What the vault says.
    pub fn commit(session: Session, disk: Option<DiskRoot>, tree: Option<[u8; 32]>) -> Result<Arc<Snapshot>> {
        let now = SystemClock.wall();
        Ok(session.commit(SnapshotBody {
            point: Some(PointId { epoch: Epoch(1), seq: Seq(now.0) }),
            consistency: 0,
            source_time: now,
            site_time: now,
            disks: disk.into_iter().collect(),
            tree,
            details: Vec::new(),
            stats: Stats::default(),
            locked_until: None,
        })?)
    }

    fn back_up_disk(&self, vault: &Vault, image: &Path, changed: Option<&[u64]>) -> Result<()> {
        let device = FileDevice::open(image, true)?;
        let old = match changed {
            Some(_) => Some(self.newest(vault).context("no backup to build on")?.body.disks[0]),
            None => None,
        };
        let block = BLOCK as u64;
        let ranges: Vec<Range<u64>> = match changed {
            Some(changed) => changed.iter().map(|number| number * block..(number + 1) * block).collect(),
            None => std::iter::once(0..device.size()).collect(),
        };
        let session = vault.begin(self.owner())?;
        let disk = ingest::disk(&session, DiskId(0), &device, old, ranges, &|_| true)?;
        Self::commit(session, Some(disk), None).map(drop)
    }

    fn back_up_tree(&self, vault: &Vault, tree: &Path) -> Result<()> {
        let earlier = Source(vault.clone());
        let previous =
            self.newest(vault).and_then(|s| s.body.tree).map(|root| Tree::new(&earlier, root.into()));
        let sink = Sink(vault.begin(self.owner())?);
        let options = WalkOptions {
            paths: vec![tree.to_path_buf()],
            exclude: Exclude::new(&[], &[])?,
            one_file_system: false,
            readers: READERS,
        };
        let walked = walk(&options, previous, &sink, &Monitor::default(), &SystemClock)?;
        anyhow::ensure!(walked.problems.1 == 0, "{:?}", walked.problems.0);
        Self::commit(sink.0, None, Some(*walked.root.as_bytes())).map(drop)
    }

    /// Reads the newest backup of a disk from beginning to end, holes left out, and gives it piece by piece.
    fn each_piece(&self, mut take: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<u64> {
        let vault = self.open()?;
        let snapshot = self.newest(&vault).context("no backup to restore")?;
        let device = vault.map_device(snapshot.body.disks[0].map);
        let (size, mut at) = (device.size(), 0);
        let mut piece = vec![0; PIECE];
        while at < size {
            for extent in device.status(at, size - at)? {
                let end = at + extent.len;
                while at < end && extent.kind == ExtentKind::Data {
                    let len = (end - at).min(PIECE as u64) as usize;
                    device.read(at, &mut piece[..len])?;
                    take(at, &piece[..len])?;
                    at += len as u64;
                }
                at = end;
            }
        }
        Ok(size)
    }

    /// Restores to nowhere and compares with the disk: how fast the vault gives.
    ///
    /// # Errors
    /// When it is not the same.
    pub fn read_all(&self, image: &Path) -> Result<Duration> {
        let file = File::open(image)?;
        let start = clock::elapsed();
        let mut hash = blake3::Hasher::new();
        self.each_piece(|_, piece| {
            hash.update(piece);
            Ok(())
        })?;
        let took = clock::elapsed() - start;
        let mut there = blake3::Hasher::new();
        std::io::copy(&mut &file, &mut there)?;
        anyhow::ensure!(there.finalize() == hash.finalize(), "what was read is not what was backed up");
        Ok(took)
    }
}

impl Archive for Own {
    fn name(&self) -> &'static str {
        "lifeboat"
    }

    fn init(&mut self) -> Result<()> {
        let store = DirStore::create(self.dir.join("vault"))?;
        Vault::create(&store, &Secret(KEY), &SystemClock, &SystemEntropy)?;
        Ok(())
    }

    fn back_up(&mut self, path: &Path, changed: Option<&[u64]>) -> Result<Duration> {
        let start = clock::elapsed();
        let vault = self.open()?;
        if path.is_dir() {
            self.back_up_tree(&vault, path)?;
        } else {
            self.back_up_disk(&vault, path, changed)?;
        }
        Ok(clock::elapsed() - start)
    }

    fn restore(&mut self, path: &Path, out: &Path) -> Result<Duration> {
        let start = clock::elapsed();
        let name = path.file_name().context("a disk without a name")?;
        let file = File::create(out.join(name))?;
        let size = self.each_piece(|at, piece| Ok(file.write_all_at(piece, at)?))?;
        file.set_len(size)?;
        Ok(clock::elapsed() - start)
    }

    fn stored(&self) -> Result<u64> {
        bytes_below(&self.dir.join("vault"))
    }
}

struct Sink(Session);

fn kind(blob: BlobKind) -> Kind {
    match blob {
        BlobKind::File => Kind::Data,
        BlobKind::Tree => Kind::Meta,
    }
}

impl BlobSink for Sink {
    fn has(&self, _: BlobKind, hash: &Hash) -> Result<bool, BlobError> {
        let id = self.0.vault().content_id(hash);
        self.0.has(&id).map_err(|e| BlobError::Store(e.to_string()))
    }

    fn put(&self, blob: BlobKind, hash: Hash, content: Bytes) -> Result<(), BlobError> {
        self.0.put_hashed(kind(blob), &hash, content).map(drop).map_err(|e| BlobError::Store(e.to_string()))
    }
}

struct Source(Vault);

impl BlobSource for Source {
    fn get(&self, _: BlobKind, hash: &Hash) -> Result<Bytes, BlobError> {
        self.0.read(&self.0.content_id(hash)).map_err(|e| BlobError::Store(e.to_string()))
    }
}
