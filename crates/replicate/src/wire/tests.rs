use super::*;
use lifeboat_base::limits::MAX_FRAME;
use proptest::prelude::*;

fn body() -> impl Strategy<Value = Body> {
    let disk = (0u16..64).prop_map(DiskId);
    prop_oneof![
        (disk.clone(), 0u64..1 << 40, proptest::collection::vec(any::<u8>(), 1..600), any::<u32>()).prop_map(
            |(disk, offset, p, crc)| Body::Data {
                disk,
                offset,
                len: p.len() as u32,
                codec: Codec::Raw,
                crc,
                payload: p.into()
            }
        ),
        (disk.clone(), 0u64..1 << 40, proptest::collection::vec(any::<u8>(), 1..600)).prop_map(
            |(disk, offset, p)| Body::Data {
                disk,
                offset,
                len: 4096,
                codec: Codec::Zstd,
                crc: 1,
                payload: p.into()
            }
        ),
        (disk.clone(), 0u64..1 << 40, 1u64..1 << 40).prop_map(|(disk, offset, len)| Body::Zero {
            disk,
            offset,
            len
        }),
        Just(Body::Barrier { kind: BarrierKind::Crash }),
        (disk, 0u64..=MAX_DISK).prop_map(|(disk, size)| Body::Disk { disk, size }),
    ]
}

proptest! {
    #[test]
    fn records_round_trip(bodies in proptest::collection::vec((any::<u64>(), body()), 1..40), first in 1u64..1 << 60) {
        let mut f = RecordsFrame::new(Epoch(7), Seq(first), 0);
        for (t, b) in &bodies {
            f.push(WallTime(*t), b);
        }
        prop_assert_eq!(f.last(), Seq(first + bodies.len() as u64 - 1));
        let frame = f.finish();
        let (kind, len) = parse_header(frame[..8].try_into().expect("8"), MAX_FRAME).expect("header");
        prop_assert_eq!((kind, len), (FrameType::Records, frame.len() - 8));
        let back = decode_records(frame.slice(8..)).expect("decodes");
        prop_assert_eq!(back.len(), bodies.len());
        for (i, (r, (t, b))) in back.iter().zip(&bodies).enumerate() {
            prop_assert_eq!(r, &Record { epoch: Epoch(7), seq: Seq(first + i as u64), time: WallTime(*t), body: b.clone() });
        }
    }

    /// Cut, flipped or random bytes: an error or records, never a panic.
    #[test]
    fn hostile_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in any::<usize>(), flip in any::<u8>()) {
        let b = Bytes::from(bytes.clone());
        let _ = decode_records(b.clone());
        let _ = Offer::decode(b.clone());
        let _ = Answer::decode(b.clone());
        let _ = Ack::decode(b.clone());
        let _ = Ping::decode(b);
        let mut f = RecordsFrame::new(Epoch(1), Seq(1), 0);
        f.push(WallTime(0), &Body::Zero { disk: DiskId(0), offset: 0, len: 1 });
        f.push(WallTime(0), &Body::Data { disk: DiskId(0), offset: 0, len: 3, codec: Codec::Raw, crc: 0, payload: Bytes::from_static(b"abc") });
        let mut v = f.finish()[8..].to_vec();
        let i = at % v.len();
        v[i] ^= flip;
        let _ = decode_records(v.clone().into());
        v.truncate(i);
        prop_assert!(decode_records(v.into()).is_err());
    }
}

/// Version 1 on the wire, byte for byte: a change here breaks every deployed agent.
#[test]
fn golden_bytes() {
    let mut f = RecordsFrame::new(Epoch(2), Seq(9), 0);
    f.push(
        WallTime(0x0102_0304_0506_0708),
        &Body::Data {
            disk: DiskId(3),
            offset: 0x1000,
            len: 4,
            codec: Codec::Raw,
            crc: 0xAABB_CCDD,
            payload: Bytes::from_static(b"data"),
        },
    );
    f.push(WallTime(1), &Body::Barrier { kind: BarrierKind::Filesystem });
    let hex: String = f.finish().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "6400000004000000",
            "02000000020000000900000000000000",
            "0100030004000000001000000000000004000000000000000807060504030201ddccbbaa0000000064617461",
            "03010000000000000000000000000000000000000000000001000000000000000000000000000000",
        )
    );
    let ack: String =
        Ack { durable: Seq(5), barrier: Seq(4) }.frame().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(ack, "100000000700000005000000000000000400000000000000");
    let offer = Offer { id: 1, disk: DiskId(2), offset: 65536, exact: false, hashes: vec![[0x11; 32]] };
    let frame = offer.frame();
    assert_eq!(Offer::decode(frame.slice(8..)), Ok(offer));
    let answer = Answer { id: 1, needed: vec![true, false, true, true, false, false, false, false, true] };
    assert_eq!(answer.frame()[8..], [1, 0, 0, 0, 9, 0, 0, 0, 0b1101, 1]);
    assert_eq!(Answer::decode(answer.frame().slice(8..)), Ok(answer));
}

#[test]
fn lengths_out_of_bounds_are_refused() {
    let header = |len: u32, t: u8| {
        let l = len.to_le_bytes();
        [l[0], l[1], l[2], l[3], t, 0, 0, 0]
    };
    assert!(parse_header(header(MAX_FRAME as u32, 4), MAX_FRAME).is_ok());
    assert_eq!(
        parse_header(header(MAX_FRAME as u32 + 1, 4), usize::MAX),
        Err(WireError::TooLong(MAX_FRAME + 1, MAX_FRAME))
    );
    assert_eq!(parse_header(header(u32::MAX, 4), 100), Err(WireError::TooLong(u32::MAX as usize, 100)));
    assert_eq!(parse_header(header(0, 200), 100), Err(WireError::UnknownType(200)));
    // A count that promises more records than there are bytes must not reserve memory for them.
    let mut b = BytesMut::new();
    b.put_u32_le(1);
    b.put_u32_le(u32::MAX);
    b.put_u64_le(1);
    assert_eq!(decode_records(b.freeze()), Err(WireError::Short("records")));
}

#[test]
fn zero_blocks_are_told_from_data() {
    assert!(is_zero(&[0; 100]));
    for i in [0, 7, 8, 50, 99] {
        let mut v = [0u8; 100];
        v[i] = 1;
        assert!(!is_zero(&v), "{i}");
    }
    assert_eq!(hash_block(&[0; 65536]), ZERO_HASH);
    assert_ne!(hash_block(&[1; 65536]), ZERO_HASH);
}
