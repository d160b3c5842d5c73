//! The sender's side of the link: sessions, frames, acknowledgements.

use super::{Batch, Frame, FrameBytes, Item, Knowledge, MAX_FRAMES, Mark, Queued, Sender, SenderError};
use crate::wire::{Ack, Ping};
use lifeboat_base::{DiskId, Seq, WallTime};

/// What the site's welcome says of its copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcomed {
    /// The site has every record up to here on stable storage.
    pub durable: Seq,
    /// It has content of this server at all.
    pub has_content: bool,
    /// The newest record there came from this process.
    pub same_writer: bool,
    /// The newest record there came from a process whose tracking this one has taken over.
    pub follows: bool,
}

impl Sender {
    /// A session was accepted. Records of another process under the same numbers are not ours.
    pub fn connected(&mut self, now: WallTime, welcome: &Welcomed) {
        let Welcomed { durable, has_content, same_writer, follows } = *welcome;
        self.disconnected();
        self.connected = true;
        self.branch = false;
        let assigned = self.next_seq;
        // Frames hold every record from `acked + 1` on, so anything from there to the last number
        // given is a place to go on from. Anywhere else, tracking is lost.
        let untouched = follows && self.welcome == Some((durable, true));
        let continues = match assigned {
            Some(next) => (same_writer || untouched) && durable < next && durable >= self.acked.durable,
            None => false,
        };
        if !continues {
            tracing::debug!(?assigned, ?durable, "stream starts anew after the site's last record");
            self.forget_frames();
            self.next_seq = Some(durable.next());
            self.fresh = !has_content;
            self.welcome = Some((durable, follows));
            match self.knowledge {
                Knowledge::Claimed(_) => self.decide(durable, follows),
                Knowledge::Nothing => {}
                Knowledge::Shared => self.restart(),
            }
            self.announce(now);
        }
        while self.frames.front().is_some_and(|f| f.last <= durable) {
            self.pop_frame();
        }
        self.acked.durable = durable;
    }

    /// The session just begun is one of an epoch that is over: what the site acknowledges now is in no line that is
    /// recovered to, so it confirms nothing.
    pub fn on_branch(&mut self) {
        self.branch = true;
        self.generation += 1;
    }

    /// See [`on_branch`](Self::on_branch).
    pub fn is_on_branch(&self) -> bool {
        self.branch
    }

    /// Frames are of no use any more: their numbers are not the stream's.
    fn forget_frames(&mut self) {
        self.frames.clear();
        self.frames_bytes = 0;
        self.spooled = 0;
        self.spool_released = self.spool_given;
        self.written = 0;
        // A batch at the encoder keeps its old numbers; its frame is dropped when it comes back.
        self.encoding = false;
        self.mark = None;
    }

    /// A stream begins with its disks.
    fn announce(&mut self, now: WallTime) {
        self.queue.retain(|q| !matches!(q.item, Item::Disk { .. }));
        for (i, d) in self.disks.iter().enumerate().rev() {
            let item = Item::Disk { disk: DiskId(i as u16), size: d.size };
            self.queue.push_front(Queued { time: now, item });
        }
        self.queue_bytes = self.queue.iter().map(|q| q.item.cost()).sum();
        self.queue_records = self.queue.iter().filter(|q| q.item.is_record()).count() as u64;
        self.unbarriered = true;
    }

    /// A frame in the spool cannot be read any more. The session must end; with the next the stream starts anew.
    pub fn spool_lost(&mut self) {
        self.forget_frames();
        self.next_seq = None;
        self.restart();
    }

    /// The session is over. What was not acknowledged is kept and written again on the next.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.written = 0;
        // Offers live with their session.
        let mut bytes = 0;
        self.frames.retain(|f| {
            if let (false, FrameBytes::Memory(b)) = (f.offer, &f.bytes) {
                bytes += b.len();
            }
            !f.offer
        });
        self.frames_bytes = bytes;
        let queue_bytes = &mut self.queue_bytes;
        self.queue.retain(|q| {
            let offer = matches!(q.item, Item::Offer(_));
            if offer {
                *queue_bytes -= q.item.cost();
            }
            !offer
        });
        self.retry_verify();
        if let Some(Mark::InQueue(_)) = self.mark {
            // Offers have left the queue: counted anew, at worst too far back.
            self.mark = Some(Mark::InQueue(self.queue.len()));
        }
        if !self.pending.is_empty() {
            self.abort_pending();
            self.live = false;
        }
    }

    /// Takes up to `max` bytes of queue for the encoder, which answers with [`encoded`](Self::encoded).
    /// `None` when there is nothing to do, or enough is waiting for the site.
    pub fn take_batch(&mut self, max: usize) -> Option<Batch> {
        let first = self.next_seq?;
        let waits = self.unsettled.is_some() || self.knowledge != Knowledge::Shared;
        if waits || self.encoding || !self.has_room() || self.queue.is_empty() {
            return None;
        }
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some(front) = self.queue.front() {
            let cost = front.item.cost();
            let offer = matches!(front.item, Item::Offer(_));
            if !items.is_empty() && (bytes + cost > max || offer) {
                break;
            }
            bytes += cost;
            self.queue_bytes -= cost;
            items.extend(self.queue.pop_front());
            if offer {
                break;
            }
        }
        self.encoding = true;
        let records = items.iter().filter(|q| q.item.is_record()).count() as u64;
        self.next_seq = Some(Seq(first.0 + records));
        self.queue_records -= records;
        if let Some(Mark::InQueue(left)) = self.mark {
            self.mark = Some(match left.saturating_sub(items.len()) {
                // Perhaps a little beyond the mark: what was captured just after it.
                0 => Mark::At(self.last_given()),
                left => Mark::InQueue(left),
            });
        }
        Some(Batch { epoch: self.epoch, first, items })
    }

    /// Whether the encoder may go on: frames have room in memory or in the spool. The spool is for what a live stream
    /// cannot get rid of; while blocks are dirty there is no point worth keeping.
    pub(super) fn has_room(&self) -> bool {
        let spool = self.live
            && !self.spool_failed
            && self.queue_bytes > self.limit / 2
            && self.spooled < self.spool_limit
            && self.frames.len() < MAX_FRAMES;
        self.frames_bytes < self.unacked || spool
    }

    /// Whether a frame that is ready now belongs in the spool.
    pub fn spools(&self) -> bool {
        self.frames_bytes >= self.unacked && self.spool_limit > 0 && !self.spool_failed
    }

    /// The spool cannot be written: it is left alone until it is empty.
    pub fn spool_failed(&mut self) {
        self.spool_failed = true;
    }

    /// Slots below this number are needed no more.
    pub fn spool_released(&self) -> u64 {
        self.spool_released
    }

    /// The encoder's answer: the batch's frame. `offer` when the batch was one.
    pub fn encoded(&mut self, last: Seq, offer: bool, bytes: FrameBytes) {
        if let FrameBytes::Spooled(slot) = &bytes {
            self.spool_given = slot.id + 1;
        }
        if !std::mem::replace(&mut self.encoding, false) {
            // The stream started anew meanwhile; its blocks are dirty.
            self.spool_released = self.spool_given;
            return;
        }
        if offer && !self.connected {
            return;
        }
        match &bytes {
            FrameBytes::Memory(b) => self.frames_bytes += b.len(),
            FrameBytes::Spooled(slot) => self.spooled += slot.len as u64,
        }
        self.frames.push_back(Frame { last, offer, bytes });
    }

    /// The next frame to write to the present connection.
    pub fn next_frame(&mut self) -> Option<FrameBytes> {
        if !self.connected {
            return None;
        }
        let frame = self.frames.get(self.written)?;
        let bytes = frame.bytes.clone();
        self.written += 1;
        Some(bytes)
    }

    /// The site's acknowledgement.
    ///
    /// # Errors
    /// When it acknowledges what was never sent; the session must end.
    pub fn ack(&mut self, ack: Ack) -> Result<(), SenderError> {
        let highest = self.frames.iter().take(self.written).rev().find(|f| !f.offer).map(|f| f.last);
        if ack.durable > highest.unwrap_or(self.acked.durable) {
            return Err(SenderError::AckOfUnsent(ack.durable));
        }
        // An offer is done with once it is written and everything before it is acknowledged.
        while self.written > 0 && self.frames.front().is_some_and(|f| f.last <= ack.durable) {
            self.pop_frame();
        }
        self.acked = Ack { durable: ack.durable.max(self.acked.durable), barrier: ack.barrier };
        Ok(())
    }

    fn pop_frame(&mut self) {
        if let Some(f) = self.frames.pop_front() {
            match f.bytes {
                FrameBytes::Memory(b) => self.frames_bytes -= b.len(),
                FrameBytes::Spooled(slot) => {
                    self.spooled -= slot.len as u64;
                    self.spool_released = slot.id + 1;
                }
            }
            self.spool_failed &= self.spooled > 0;
            self.written = self.written.saturating_sub(1);
        }
    }

    /// A sign of life for an otherwise quiet link.
    pub fn ping(&self, now: WallTime) -> Ping {
        let idle = self.queue.is_empty() && !self.encoding && self.written == self.frames.len();
        Ping {
            seq: Seq(self.next_seq.map_or(0, |s| s.0.saturating_sub(1))),
            time: now,
            lag_bytes: self.lag_bytes(),
            live: self.live && idle && !self.unbarriered && !self.sealed,
        }
    }
}
