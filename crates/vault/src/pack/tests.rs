use super::*;
use lifeboat_base::{Entropy, SeededEntropy};

fn head() -> PackHead {
    PackHead { vault: VaultId([1; 16]), id: PackId([2; 16]), kind: Kind::Data, generation: 1 }
}

fn made() -> (Vec<u8>, Vec<FrameEntry>) {
    let mut w = PackWriter::new(head(), &Secret([9; 32]));
    let id = |n: u8| ChunkId([n; 32]);
    let mut noise = vec![0; 100];
    SeededEntropy::new(5).fill(&mut noise);
    w.push(&noise, Codec::Raw, 100, vec![(id(1), 60), (id(2), 40)]);
    let text = vec![7; 5000];
    w.push(&zstd::bulk::compress(&text, 3).unwrap(), Codec::Zstd, 5000, vec![(id(3), 5000)]);
    let (_, bytes, frames) = w.finish();
    (bytes, frames)
}

fn open_all(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let head = PackHead::decode(bytes)?;
    let t = Trailer::decode(bytes, bytes.len() as u64)?;
    let opener = PackOpener::new(&head, &Secret([9; 32]));
    let end = bytes.len() - TRAILER;
    let offset = end - t.directory as usize;
    let frames = opener.directory(&bytes[offset..end], offset as u64, &t).map_err(|e| e.to_string())?;
    let open = |f: &FrameEntry| {
        let from = f.at.offset as usize;
        opener.frame(&f.at, &mut bytes[from..from + f.at.stored as usize].to_vec())
    };
    frames.iter().map(open).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

#[test]
fn a_pack_holds_what_was_put_in() {
    let (bytes, frames) = made();
    assert_eq!(frames.len(), 2);
    let opened = open_all(&bytes).unwrap();
    assert_eq!((opened[0].len(), &opened[1]), (100, &vec![7; 5000]));
}

#[test]
fn i3_every_flipped_bit_and_every_cut_is_noticed() {
    let (bytes, _) = made();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(open_all(&bad).is_err(), "byte {at} of {}", bytes.len());
        assert!(open_all(&bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn i3_frames_do_not_open_in_each_others_place() {
    let mut w = PackWriter::new(head(), &Secret([9; 32]));
    for n in 1..=2 {
        w.push(&[n; 64], Codec::Raw, 64, vec![(ChunkId([n; 32]), 64)]);
    }
    let (_, mut bytes, frames) = w.finish();
    let (a, b) = (frames[0].at.offset as usize, frames[1].at.offset as usize);
    let one = bytes[a..b].to_vec();
    bytes.copy_within(b..b + one.len(), a);
    bytes[b..b + one.len()].copy_from_slice(&one);
    assert!(open_all(&bytes).unwrap_err().contains("seal is broken"));
}
