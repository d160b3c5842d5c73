//! Batches to frames: zeros become zero records, content is checksummed and compressed.
//!
//! Compressing costs more than everything else a byte goes through, so a full batch is compressed by two
//! threads. The order of the records is that of the batch all the same.

use crate::sender::{Batch, Item, Queued};
use crate::wire::RecordsFrame;
use bytes::Bytes;
use lifeboat_base::Seq;
use lifeboat_base::limits::{AGENT_QUEUE, MIB};
use lifeboat_block::codec::Encoder;
use lifeboat_block::{Body, Codec, is_zero};

/// How much content one frame carries at most. Far below `MAX_FRAME`: headers and incompressible
/// content fit besides.
pub const BATCH: usize = MIB;

/// A batch with less content than this is not worth a second thread.
const SHARED: usize = BATCH / 2;

/// The encoder of one stream. Runs off the sender's lock; one at a time keeps the order.
#[derive(Default)]
pub struct StreamEncoder {
    zstd: [Encoder; 2],
}

/// A batch as a frame.
pub struct Encoded {
    pub last: Seq,
    pub offer: bool,
    pub frame: Bytes,
}

impl StreamEncoder {
    /// `waiting`: bytes in the queue behind this batch. The more there are, the less effort goes
    /// into compression; an idle link gets the best.
    pub fn encode(&mut self, batch: &Batch, waiting: usize) -> Encoded {
        if let [only] = &batch.items[..]
            && let Item::Offer(offer) = &only.item
        {
            let last = Seq(batch.first.0 - 1);
            return Encoded { last, offer: true, frame: offer.frame() };
        }
        let level = match waiting {
            w if w > AGENT_QUEUE / 2 => -5,
            w if w > AGENT_QUEUE / 8 => -1,
            w if w > BATCH => 1,
            _ => 3,
        };
        self.zstd.iter_mut().for_each(|z| z.set_level(level));
        let content: usize = batch.items.iter().map(|q| content(&q.item)).sum();
        let mut frame = RecordsFrame::new(batch.epoch, batch.first, content + batch.items.len() * 48);
        let split = if content < SHARED { batch.items.len() } else { middle(&batch.items, content) };
        let (front, back) = batch.items.split_at(split);
        let [mine, other] = &mut self.zstd;
        std::thread::scope(|scope| {
            let work = move || back.iter().map(|q| body(other, &q.item)).collect::<Vec<_>>();
            let helper = std::thread::Builder::new().name("encoder2".into());
            let helper = (!back.is_empty()).then(|| helper.spawn_scoped(scope, work));
            for q in front {
                frame.push(q.time, &body(mine, &q.item));
            }
            match helper.and_then(Result::ok).and_then(|h| h.join().ok()) {
                Some(bodies) => back.iter().zip(&bodies).for_each(|(q, b)| frame.push(q.time, b)),
                // No thread was to be had: this one does it all.
                None => back.iter().for_each(|q| frame.push(q.time, &body(mine, &q.item))),
            }
        });
        Encoded { last: frame.last(), offer: false, frame: frame.finish() }
    }
}

fn content(item: &Item) -> usize {
    if let Item::Data { data, .. } = item { data.len() } else { 0 }
}

/// Where to split a batch so that each half has about as much content.
fn middle(items: &[Queued], all: usize) -> usize {
    let mut before = 0;
    let fits = |q: &&Queued| {
        before += content(&q.item);
        before <= all / 2
    };
    items.iter().take_while(fits).count()
}

fn body(zstd: &mut Encoder, item: &Item) -> Body {
    match item {
        Item::Data { disk, offset, data } if is_zero(data) => {
            Body::Zero { disk: *disk, offset: *offset, len: data.len() as u64 }
        }
        Item::Data { disk, offset, data } => {
            let (codec, payload): (Codec, Bytes) = zstd.encode(data);
            Body::Data {
                disk: *disk,
                offset: *offset,
                len: data.len() as u32,
                codec,
                crc: crc32c::crc32c(data),
                payload,
            }
        }
        Item::Zero { disk, offset, len } => Body::Zero { disk: *disk, offset: *offset, len: *len },
        Item::Barrier(kind) => Body::Barrier { kind: *kind },
        Item::Disk { disk, size } => Body::Disk { disk: *disk, size: *size },
        Item::Offer(_) => unreachable!("an offer is a batch of its own"),
    }
}

#[cfg(test)]
mod tests;
