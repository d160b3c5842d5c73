#![allow(clippy::unwrap_used)]

use super::*;
use lifeboat_base::{Entropy, SeededEntropy};
use proptest::prelude::*;

fn noise(len: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; len];
    SeededEntropy::new(seed).fill(&mut bytes);
    bytes.into()
}

proptest! {
    #[test]
    fn what_is_encoded_decodes(seed: u64, len in 0..20_000usize, noisy in 0..100usize) {
        let mut content = vec![42u8; len];
        let part = len * noisy / 100;
        content[..part].copy_from_slice(&noise(part, seed));
        let content = Bytes::from(content);
        let mut encoder = Encoder::default();
        let (codec, payload) = encoder.encode(&content);
        prop_assert!(payload.len() <= content.len());
        let crc = crc32c::crc32c(&content);
        prop_assert_eq!(decode(codec, &payload, len as u32, crc).unwrap(), content);
    }

    #[test]
    fn hostile_payloads_are_errors(payload in prop::collection::vec(any::<u8>(), 0..200), len: u32, crc: u32) {
        let payload = Bytes::from(payload);
        for codec in [Codec::Raw, Codec::Zstd] {
            if let Ok(content) = decode(codec, &payload, len, crc) {
                prop_assert_eq!(content.len(), len as usize);
                prop_assert_eq!(crc32c::crc32c(&content), crc);
            }
        }
    }
}

#[test]
fn each_kind_of_damage_has_its_error() {
    let content = Bytes::from(vec![1u8; 8192]);
    let crc = crc32c::crc32c(&content);
    let (codec, payload) = Encoder::default().encode(&content);
    assert_eq!(codec, Codec::Zstd);
    assert_eq!(decode(codec, &payload, 8191, crc), Err(DecodeError::Length(8191)));
    assert_eq!(decode(codec, &payload, 8193, crc), Err(DecodeError::Length(8193)));
    assert!(matches!(decode(codec, &payload, 8192, crc ^ 1), Err(DecodeError::Checksum { .. })));
    let over = MAX_RECORD as u32 + 1;
    assert_eq!(decode(Codec::Raw, &payload, over, crc), Err(DecodeError::TooLong(over)));
}

#[test]
fn a_run_of_noise_is_soon_let_through_raw_and_order_returns() {
    let mut encoder = Encoder::default();
    let plain = Bytes::from(vec![0u8; 4096]);
    for n in 0..GIVE_UP_AFTER {
        assert_eq!(encoder.encode(&noise(4096, n.into())).0, Codec::Raw);
    }
    let tries: Vec<_> = (0..TRY_ONE_IN).map(|_| encoder.encode(&plain).0).collect();
    assert!(tries[..TRY_ONE_IN as usize - 1].iter().all(|c| *c == Codec::Raw), "not tried");
    assert_eq!(tries.last(), Some(&Codec::Zstd), "tried again, and it shrank");
    assert_eq!(encoder.encode(&plain).0, Codec::Zstd, "back to trying every one");
}
