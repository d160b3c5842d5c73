//! A group's barrier at one member: writes are held, the barrier is cut, writes go on.
//!
//! Invariant: between a hold that was confirmed and a cut that was confirmed no write of this stream was answered. A hold
//! ends by itself at its time; a cut that comes later is refused.

use super::Stream;
use lifeboat_block::BarrierKind;
use lifeboat_replicate::message::ServerCut;
use lifeboat_replicate::sender::Sender;
use parking_lot::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Writes wait for this.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold {
    barrier: u64,
    begun: Duration,
    until: Duration,
}

impl Stream {
    /// Waits while writes are held. The caller has the source's answer and has not passed it on.
    pub(super) fn wait_for_hold(&self, sender: &mut MutexGuard<'_, Sender>) {
        while self.held.load(Ordering::Relaxed) && !self.stopped() {
            let Some(hold) = *self.hold.lock() else { return };
            let left = hold.until.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                self.end_hold();
                return;
            }
            self.hold_over.wait_for(sender, left);
        }
    }

    fn end_hold(&self) {
        *self.hold.lock() = None;
        self.held.store(false, Ordering::Relaxed);
        self.hold_over.notify_all();
    }

    /// Holds writes for at most `limit`, if a barrier would be exact now.
    ///
    /// # Errors
    /// Why not; nothing is held then.
    pub fn hold(&self, barrier: u64, limit: Duration) -> Result<(), String> {
        let sender = self.sender.lock();
        if !sender.is_live() {
            return Err("it is catching up, so no point can be cut".into());
        }
        let now = self.clock.monotonic();
        if self.hold.lock().is_some_and(|h| h.until > now && h.barrier != barrier) {
            return Err("another group's barrier is under way".into());
        }
        *self.hold.lock() = Some(Hold { barrier, begun: now, until: now + limit });
        self.held.store(true, Ordering::Relaxed);
        drop(sender);
        Ok(())
    }

    /// Cuts the barrier while writes are held, and lets them go on.
    ///
    /// # Errors
    /// When the hold was over already, or the barrier would not be exact.
    pub fn cut(&self, barrier: u64) -> Result<ServerCut, String> {
        let mut sender = self.sender.lock();
        let now = self.clock.monotonic();
        let hold = self.hold.lock().filter(|h| h.barrier == barrier);
        let Some(hold) = hold.filter(|h| h.until > now) else {
            return Err("its writes were held too long and went on".into());
        };
        let time = self.clock.wall();
        let cut = sender.barrier(time, BarrierKind::Crash);
        self.end_hold();
        self.encoder_wake.notify_one();
        let seq = cut.ok_or("it has lost track of writes meanwhile")?;
        let held_us = u64::try_from((now - hold.begun).as_micros()).unwrap_or(u64::MAX);
        Ok(ServerCut { server: Vec::new(), seq: seq.0, time: time.0, held_us })
    }

    /// Lets writes go on without a barrier.
    pub fn abandon(&self, barrier: u64) {
        let _sender = self.sender.lock();
        if self.hold.lock().is_some_and(|h| h.barrier == barrier) {
            self.end_hold();
        }
    }
}
