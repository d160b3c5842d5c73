//! The pace of a comparison of source and copy.

use super::{Stream, holes};
use lifeboat_base::limits::BLOCK;
use lifeboat_block::{BlockDevice, BlockError};
use lifeboat_replicate::message::VerifyReport;
use lifeboat_replicate::sender::{Sender, SyncTask};
use lifeboat_replicate::wire::{ZERO_HASH, hash_block};
use std::time::Duration;

/// Bytes of the source read per second at most; 0 for no limit.
#[derive(Debug, Default)]
pub(super) struct VerifyPace {
    rate: u64,
    /// Nothing is read before this.
    next: Duration,
}

impl Stream {
    /// Begins a comparison.
    pub fn start_verify(&self, id: u64, rate: u64) {
        *self.verify.lock() = VerifyPace { rate, next: Duration::ZERO };
        self.with_sender(|s| s.verify(id));
    }

    pub fn verify_report(&self) -> Option<VerifyReport> {
        self.sender.lock().verify_report()
    }

    pub(super) fn next_verify(&self, sender: &mut Sender) -> Option<SyncTask> {
        if self.verify.lock().next > self.clock.monotonic() {
            return None;
        }
        sender.next_verify()
    }

    pub(super) fn carry_out_verify(
        &self,
        task: &SyncTask,
        device: &dyn BlockDevice,
    ) -> Result<(), BlockError> {
        let found = holes(device, task.offset, task.len)?;
        let hashes = if found == [(task.offset, task.len)] {
            vec![ZERO_HASH; (task.len as usize).div_ceil(BLOCK)]
        } else {
            let mut pace = self.verify.lock();
            if let Some(nanos) = (task.len * 1_000_000_000).checked_div(pace.rate) {
                pace.next = self.clock.monotonic() + Duration::from_nanos(nanos);
            }
            drop(pace);
            let mut content = vec![0; task.len as usize];
            device.read(task.offset, &mut content)?;
            content.chunks(BLOCK).map(hash_block).collect()
        };
        self.sender.lock().verified(self.clock.wall(), task.id, hashes);
        Ok(())
    }
}
