//! Wrong behaviours put between the world's parts, to see that the checks find them. No production code knows of them.

use lifeboat_block::storage::{LogFile, MemoryStorage, Storage};
use std::any::Any;
use std::io;
use std::sync::Arc;

/// The wrong behaviour of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// None: what runs is the product.
    None,
    /// The site acknowledges what it has received and not yet stored.
    EarlyAck,
    /// The site's syncs do nothing and say that all is well.
    SkippedFsync,
    /// The stream is told of two overlapping writes in the wrong order.
    SwappedWrites,
    /// The stream is not told of discards.
    DroppedDiscard,
    /// The stream is told of some writes one block further on.
    OffByOneBlock,
    /// The site takes what an old epoch sends as if it were the present one's.
    StaleEpoch,
}

impl Mutant {
    pub const ALL: [Self; 6] = [
        Self::EarlyAck,
        Self::SkippedFsync,
        Self::SwappedWrites,
        Self::DroppedDiscard,
        Self::OffByOneBlock,
        Self::StaleEpoch,
    ];

    pub fn is(self, other: Self) -> bool {
        self == other
    }
}

/// A storage whose syncs are lies.
pub struct Lying(pub MemoryStorage);

struct LyingFile(Arc<dyn LogFile>);

impl Storage for Lying {
    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(LyingFile(self.0.create(name)?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(LyingFile(self.0.open(name)?)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.0.lock()
    }
}

impl LogFile for LyingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.0.preallocate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}
