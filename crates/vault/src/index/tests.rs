use super::*;
use lifeboat_base::SeededEntropy;

fn pack(n: u8, chunks: &[u8]) -> (PackHead, u64, Vec<FrameEntry>) {
    let head = PackHead { vault: VaultId([1; 16]), id: PackId([n; 16]), kind: Kind::Data, generation: 1 };
    let frames = chunks
        .iter()
        .enumerate()
        .map(|(k, c)| FrameEntry {
            at: FrameAt { offset: 48 + 100 * k as u32, stored: 100, raw: 30, codec_zstd: k % 2 == 1 },
            chunks: vec![(ChunkId([*c; 32]), 10), (ChunkId([*c + 100; 32]), 20)],
        })
        .collect();
    (head, 1000, frames)
}

#[test]
fn a_chunk_in_two_packs_outlives_one_of_them() {
    let index = Index::open(None, VaultId([1; 16]), &SeededEntropy::new(1)).unwrap();
    let (one, two) = (pack(1, &[1, 2]), pack(2, &[2, 3]));
    index.add_packs(&[one.clone(), two]).unwrap();
    index.add_packs(std::slice::from_ref(&one)).unwrap();
    assert_eq!(index.packs().unwrap().len(), 2);
    assert_eq!(index.totals().unwrap(), Totals { packs: 2, chunks: 8, stored: 2000 });
    let places = |n: u8| index.find(&ChunkId([n; 32])).unwrap();
    assert_eq!((places(1).len(), places(2).len(), places(102).len(), places(9).len()), (1, 2, 2, 0));
    assert_eq!((places(101)[0].offset, places(101)[0].len), (10, 20));
    index.remove_pack(&PackId([1; 16]), &one.2).unwrap();
    assert_eq!((places(1).len(), places(2).len(), places(3).len()), (0, 1, 1));
    assert!(!places(2)[0].frame.codec_zstd);
    assert_eq!(index.totals().unwrap(), Totals { packs: 1, chunks: 4, stored: 1000 });
    index.remove_packs(&[1]).unwrap();
    assert_eq!(index.totals().unwrap(), Totals::default());
}

#[test]
fn an_index_of_another_vault_or_a_broken_one_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let index = Index::open(Some(&path), VaultId([1; 16]), &SeededEntropy::new(1)).unwrap();
    index.add_packs(&[pack(1, &[1])]).unwrap();
    index.settle().unwrap();
    drop(index);
    let index = Index::open(Some(&path), VaultId([1; 16]), &SeededEntropy::new(1)).unwrap();
    assert_eq!(index.packs().unwrap().len(), 1, "kept over a restart");
    drop(index);
    assert_eq!(
        Index::open(Some(&path), VaultId([2; 16]), &SeededEntropy::new(2)).unwrap().packs().unwrap().len(),
        0
    );
    std::fs::write(&path, vec![7; 100_000]).unwrap();
    assert_eq!(
        Index::open(Some(&path), VaultId([2; 16]), &SeededEntropy::new(2)).unwrap().packs().unwrap().len(),
        0
    );
}
