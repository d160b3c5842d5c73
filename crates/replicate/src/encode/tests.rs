use super::*;
use crate::wire::{FRAME_HEADER, decode_records};
use lifeboat_base::{DiskId, Entropy as _, Epoch, SeededEntropy, WallTime};

/// Items of `lens` bytes: noise, then text, then zeros, and so on.
fn batch(lens: &[usize]) -> Batch {
    let entropy = SeededEntropy::new(7);
    let mut offset = 0;
    let items = lens.iter().enumerate().map(|(i, &len)| {
        let mut data = vec![0; len];
        match i % 3 {
            0 => entropy.fill(&mut data),
            1 => data.iter_mut().enumerate().for_each(|(at, b)| *b = b"a lifeboat for servers "[at % 23]),
            _ => {}
        }
        offset += len as u64;
        let item = Item::Data { disk: DiskId(0), offset: offset - len as u64, data: data.into() };
        Queued { time: WallTime(i as u64), item }
    });
    Batch { epoch: Epoch(1), first: Seq(10), items: items.collect() }
}

/// Encodes, decodes, and holds what came out against what went in.
fn round_trip(batch: &Batch) {
    let encoded = StreamEncoder::default().encode(batch, 8 * BATCH);
    let records = decode_records(encoded.frame.slice(FRAME_HEADER..)).unwrap();
    assert_eq!(records.len(), batch.items.len());
    assert_eq!(encoded.last, Seq(9 + records.len() as u64));
    for (i, (record, q)) in records.iter().zip(&batch.items).enumerate() {
        assert_eq!((record.seq, record.time), (Seq(10 + i as u64), q.time));
        let Item::Data { offset: wanted, data, .. } = &q.item else { panic!("only data went in") };
        match &record.body {
            Body::Data { offset, .. } => {
                assert_eq!(offset, wanted);
                assert_eq!(&record.content().unwrap(), data);
            }
            Body::Zero { offset, len, .. } => {
                assert_eq!((offset, *len), (wanted, data.len() as u64));
                assert!(is_zero(data));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn two_threads_keep_the_order_of_the_batch() {
    round_trip(&batch(&[65536; 16]));
    round_trip(&batch(&[4096; 256]));
    let uneven: Vec<usize> = (1..200).map(|i| i * 37 % 9000 + 1).collect();
    round_trip(&batch(&uneven));
}

#[test]
fn a_batch_that_cannot_be_halved_is_encoded_all_the_same() {
    round_trip(&batch(&[]));
    round_trip(&batch(&[100]));
    round_trip(&batch(&[262_144, 262_144]));
    round_trip(&batch(&[4096, 262_144, 4096, 262_144]));
}
