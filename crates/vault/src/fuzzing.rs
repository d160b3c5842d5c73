//! Every decoder of the vault's formats behind one door, for fuzzing. Seals keep such input out in practice; whoever has
//! the keys, or a writer with a bug, does not.

use crate::id::{ObjectName, VaultId};
use crate::keys::VaultKeys;
use crate::map;
use crate::object::{self, ObjectType};
use crate::pack::{Kind, PackHead, PackOpener, PackWriter, Trailer, decode_directory};
use crate::plan;
use crate::snapshot::{Hold, SessionWire, Snapshot, decode_marker};
use lifeboat_base::{Secret, SeededEntropy};
use prost::Message;

/// Feeds `text` to the decoder `which`; what is decoded must be encoded and decoded to the same again.
///
/// # Panics
/// When it is not.
pub fn decode(which: u8, text: &[u8]) {
    let u32_at = |at: usize| text.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    match which {
        0 => {
            if let Ok(head) = PackHead::decode(text) {
                assert_eq!(PackHead::decode(&head.encode()), Ok(head));
            }
        }
        1 => drop(decode_directory(text.get(8..).unwrap_or_default(), u32_at(0), u32_at(4))),
        2 => drop(Trailer::decode(text, text.len() as u64)),
        3 => drop(object::open(&VaultId([1; 16]), &name(), text, |_| Some(Secret([2; 32])))),
        4 => {
            if let Ok(snapshot) = Snapshot::decode(text)
                && let Ok(again) = snapshot.encode()
            {
                assert_eq!(Snapshot::decode(&again).as_ref(), Ok(&snapshot));
            }
        }
        5 => {
            if let Ok(hold) = Hold::decode(text)
                && let Ok(again) = hold.encode()
            {
                assert_eq!(Hold::decode(&again).as_ref(), Ok(&hold));
            }
        }
        6 => {
            if let Ok(packs) = plan::decode_plan(text) {
                assert_eq!(plan::decode_plan(&plan::encode_plan(&packs)), Ok(packs));
            }
        }
        7 => drop(VaultKeys::decode(VaultId([1; 16]), text)),
        8 => {
            let level = text.get(3).copied().unwrap_or(0);
            if let Ok(children) = map::decode(text, level) {
                assert_eq!(map::encode(level, &children), text);
            }
        }
        9 => drop(SessionWire::decode(text)),
        _ => drop(decode_marker(text)),
    }
}

/// How many decoders there are.
pub const DECODERS: u8 = 11;

fn name() -> ObjectName {
    ObjectName::new("holds/x").expect("a plain name")
}

/// Something each decoder takes, with its number in front.
pub fn seeds() -> Vec<Vec<u8>> {
    let (vault, key) = (VaultId([1; 16]), Secret([2; 32]));
    let head = PackHead { vault, id: crate::PackId([3; 16]), kind: Kind::Data, generation: 1 };
    let mut pack = PackWriter::new(head, &key);
    pack.push(
        &[7; 64],
        crate::pack::Codec::Raw,
        64,
        vec![(crate::ChunkId([8; 32]), 40), (crate::ChunkId([9; 32]), 24)],
    );
    let (_, bytes, _) = pack.finish();
    let trailer = Trailer::decode(&bytes, bytes.len() as u64).expect("it was just written");
    let end = bytes.len() - crate::pack::TRAILER;
    let from = end - trailer.directory as usize;
    let opener = PackOpener::new(&head, &key);
    let frames = opener.directory(&bytes[from..end], from as u64, &trailer).expect("it was just written");
    let mut directory = [1u32.to_le_bytes(), 2u32.to_le_bytes()].concat();
    crate::pack::encode_directory(&frames, &mut directory);
    let sealed =
        object::seal(ObjectType::Hold, (1, &key), &vault, &name(), &[5; 400], &SeededEntropy::new(1));
    let keys = VaultKeys::create(vault, lifeboat_base::WallTime(5), &SeededEntropy::new(2));
    let hold =
        Hold { name: Some("kept".into()), locked_until: Some(lifeboat_base::WallTime(9)), ..Hold::default() };
    let session =
        SessionWire { owner_kind: 3, owner: b"etc".to_vec(), begun: 7, prune_epoch: 1, writer: vec![5; 16] };
    let texts = [
        head.encode().to_vec(),
        directory,
        bytes,
        sealed.to_vec(),
        crate::snapshot::sample().encode().expect("the sample is right"),
        hold.encode().expect("the hold is right"),
        plan::encode_plan(&[crate::PackId([4; 16]); 3]),
        keys.encode(),
        map::encode(1, &[crate::ChunkId([6; 32]); 5]),
        session.encode_to_vec(),
        crate::snapshot::encode_marker(&vault),
    ];
    (0..).zip(texts).map(|(n, text)| [&[n][..], &text].concat()).collect()
}
