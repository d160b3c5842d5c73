//! Batches to frames: zeros become zero records, content is checksummed and compressed.

use crate::sender::{Batch, Item};
use crate::wire::{RecordsFrame, is_zero};
use bytes::Bytes;
use lifeboat_base::Seq;
use lifeboat_base::limits::{AGENT_QUEUE, MIB};
use lifeboat_block::codec::Encoder;
use lifeboat_block::{Body, Codec};

/// How much content one frame carries at most. Far below `MAX_FRAME`: headers and incompressible
/// content fit besides.
pub const BATCH: usize = MIB;

/// The encoder of one stream. Runs off the sender's lock; one at a time keeps the order.
#[derive(Default)]
pub struct StreamEncoder {
    zstd: Encoder,
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
        self.zstd.set_level(match waiting {
            w if w > AGENT_QUEUE / 2 => -5,
            w if w > AGENT_QUEUE / 8 => -1,
            w if w > BATCH => 1,
            _ => 3,
        });
        let content: usize = batch
            .items
            .iter()
            .map(|q| if let Item::Data { data, .. } = &q.item { data.len() } else { 0 })
            .sum();
        let mut frame = RecordsFrame::new(batch.epoch, batch.first, content + batch.items.len() * 48);
        for q in &batch.items {
            frame.push(q.time, &self.body(&q.item));
        }
        Encoded { last: frame.last(), offer: false, frame: frame.finish() }
    }

    fn body(&mut self, item: &Item) -> Body {
        match item {
            Item::Data { disk, offset, data } if is_zero(data) => {
                Body::Zero { disk: *disk, offset: *offset, len: data.len() as u64 }
            }
            Item::Data { disk, offset, data } => {
                let (codec, payload): (Codec, Bytes) = self.zstd.encode(data);
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
}
