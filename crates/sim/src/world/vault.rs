//! A vault as journals see it: bases below them, and content by its hash. It outlives every process and every machine.
//!
//! What the real one adds (packs, sessions, pruners) is tested where it is; here is what leaning on one does to the rest.

use super::World;
use bytes::Bytes;
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{DiskId, Entropy, Seq};
use lifeboat_block::{BlockDevice, BlockError, MemoryDevice};
use lifeboat_journal::{Elsewhere, JournalReader};
use lifeboat_replicate::wire::{BlockHash, hash_block};
use lifeboat_site::server::{Beyond, Finder};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// A base's name, and one of its disks.
type Disk = ([u8; 16], DiskId);

/// See the module's text.
#[derive(Default)]
pub struct Vault {
    bases: Mutex<BTreeMap<Disk, Bytes>>,
    blocks: Mutex<HashMap<BlockHash, Bytes>>,
}

impl Vault {
    pub fn beyond(self: &Arc<Self>) -> Beyond {
        Beyond { elsewhere: Arc::clone(self) as _, finder: Arc::clone(self) as _ }
    }

    /// Copies the disks as they are after a record.
    fn keep(&self, id: [u8; 16], reader: &JournalReader, seq: Seq) -> Result<(), String> {
        for d in reader.disks_after(seq) {
            let device = reader.open_at(d.disk, seq).map_err(|e| e.to_string())?;
            let mut content = vec![0; device.size() as usize];
            device.read(0, &mut content).map_err(|e| e.to_string())?;
            let content = Bytes::from(content);
            let mut blocks = self.blocks.lock();
            for block in (0..content.len() / BLOCK).map(|n| content.slice(n * BLOCK..(n + 1) * BLOCK)) {
                blocks.insert(hash_block(&block), block);
            }
            self.bases.lock().insert((id, d.disk), content);
        }
        Ok(())
    }

    fn forget(&self, id: [u8; 16]) {
        self.bases.lock().retain(|(kept, _), _| *kept != id);
    }
}

impl Elsewhere for Vault {
    fn base(&self, id: [u8; 16], disk: DiskId) -> Result<Arc<dyn BlockDevice>, BlockError> {
        let content = self.bases.lock().get(&(id, disk)).cloned();
        let content = content.ok_or_else(|| BlockError::Corrupt("the base is gone".into()))?;
        let device = MemoryDevice::new(content.len() as u64);
        device.write(0, content)?;
        Ok(Arc::new(device))
    }
}

impl Finder for Vault {
    fn find(&self, hash: &BlockHash, len: usize) -> Option<Bytes> {
        self.blocks.lock().get(hash).filter(|b| b.len() == len).cloned()
    }

    // One thread, one trace.
    fn within(&self, _limit: Duration, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

impl World {
    /// The journal's base moves to the oldest point of the window, or where there is no point yet, anywhere.
    pub(super) fn tier(&mut self, server: usize) {
        self.set_site_clock(server);
        let Some(vault) = self.vault.clone() else { return };
        let any = self.rng.below(u64::MAX);
        let mut id = [0; 16];
        super::chance::SharedRng::new(self.rng.fork()).fill(&mut id);
        let Some(core) = &self.servers[server].core else { return };
        let (reader, keeper) = (core.cell().reader.clone(), core.cell().keeper.clone());
        let old = reader.base();
        let from = old.as_ref().map_or(0, |b| b.seq.0);
        let seq = match keeper.horizon() {
            Some((point, _)) => point.seq,
            None => Seq(from + any % (reader.durable_seq().0 - from + 1)),
        };
        if seq == Seq::ZERO || old.as_ref().is_some_and(|b| b.seq == seq) {
            return;
        }
        if let Err(e) = vault.keep(id, &reader, seq) {
            vault.forget(id);
            return self.say(|| format!("server {server}: no base at {seq}: {e}"));
        }
        let done = keeper.advance_base(id, seq);
        self.say(|| match &done {
            Ok(r) => format!("server {server} stands on {seq}, {} segments go", r.segments_dropped),
            Err(e) => format!("server {server} stands where it stood: {e}"),
        });
        match (&done, old) {
            (Ok(_), Some(old)) => vault.forget(old.id),
            // Nobody knows which one stands after a restart.
            (Err(_), _) if reader.is_sure() => vault.forget(id),
            _ => {}
        }
        if done.is_err() && self.servers[server].kill {
            self.stop_site(self.servers[server].site, false);
            return;
        }
        self.trimmed(server);
    }
}
