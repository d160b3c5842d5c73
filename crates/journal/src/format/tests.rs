#![allow(clippy::unwrap_used)]

use super::*;
use crate::seal::JournalKey;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn segment_header_golden() {
    let header = SegmentHeader {
        journal: [0x11; 16],
        id: [0x22; 16],
        base: true,
        first: Seq(0x0102_0304_0506_0708),
        epoch: Epoch(9),
        created: WallTime(1_767_225_600_000_000_000),
    };
    let golden = concat!(
        "4c424a534547303101000100",
        "444bb939",
        "11111111111111111111111111111111",
        "22222222222222222222222222222222",
        "0807060504030201",
        "09000000",
        "00000000",
        "0000faed51728618",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "000000000000000000000000000000000000000000000000",
    );
    assert_eq!(hex(&header.encode()), golden);
    assert_eq!(SegmentHeader::decode(&header.encode()), Some(header));
}

fn header() -> Header {
    Header {
        kind: Kind::Data,
        detail: 0,
        disk: DiskId(3),
        payload: 5,
        len: 5,
        offset: 0x1000,
        seq: Seq(42),
        time: WallTime(0x1122_3344_5566_7788),
        epoch: Epoch(2),
        content_crc: crc32c::crc32c(b"hello"),
        clock: 0,
        durable: 128,
    }
}

#[test]
fn record_golden() {
    let key = JournalKey([7; 32]).segment(&[1; 16], &[2; 16]);
    let plain = header().encode();
    let mut payload = *b"hello";
    let tag = key.seal(128, &plain, &mut payload).unwrap();
    let sealed = [&payload[..], &tag[..]].concat();
    let mut bytes = plain;
    set_crc(&mut bytes, record_crc(&plain, &sealed));
    let golden = concat!(
        "4c42523101000300",
        "1580ee88",
        "05000000",
        "0500000000000000",
        "0010000000000000",
        "2a00000000000000",
        "8877665544332211",
        "02000000",
        "4cbb719a",
        "00000000",
        "80000000",
        "51c583e4bfcea417b0fdcb2dd851ba372341a86359",
    );
    let whole = [&bytes[..], &sealed[..]].concat();
    assert_eq!(hex(&whole), golden);

    let (back, aad, sealed) = parse(&whole).unwrap();
    assert_eq!(back, header());
    let mut content = [0; 5];
    key.open(128, &aad, sealed, &mut content).unwrap();
    assert_eq!(&content, b"hello");
    assert!(key.open(129, &aad, sealed, &mut content).is_err(), "a record is bound to its place");
    let other = JournalKey([7; 32]).segment(&[1; 16], &[3; 16]);
    assert!(other.open(128, &aad, sealed, &mut content).is_err(), "and to its segment");
}

#[test]
fn every_flipped_bit_of_a_record_is_seen() {
    let key = JournalKey([7; 32]).segment(&[1; 16], &[2; 16]);
    let plain = header().encode();
    let mut payload = *b"hello";
    let tag = key.seal(128, &plain, &mut payload).unwrap();
    let sealed = [&payload[..], &tag[..]].concat();
    let mut bytes = plain;
    set_crc(&mut bytes, record_crc(&plain, &sealed));
    let whole = [&bytes[..], &sealed[..]].concat();
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(parse(&damaged).is_none(), "bit {bit}");
    }
    for len in 0..whole.len() {
        assert!(parse(&whole[..len]).is_none(), "length {len}");
    }
}

#[test]
fn fields_out_of_bounds_are_refused() {
    let refused = |change: fn(&mut Header)| {
        let mut h = header();
        change(&mut h);
        Header::decode(&h.encode()).is_none()
    };
    assert!(!refused(|_| {}));
    assert!(refused(|h| h.disk = DiskId(MAX_DISKS as u16)));
    assert!(refused(|h| h.payload = MAX_RECORD as u32 + 1));
    assert!(refused(|h| h.len = MAX_RECORD as u64 + 1));
    assert!(refused(|h| h.offset = u64::MAX));
    assert!(refused(|h| h.detail = 9));
    assert!(refused(|h| h.kind = Kind::Zero));
}
