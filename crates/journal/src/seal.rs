//! Keys and sealing.
//!
//! ```text
//! journal key ──derive(journal, segment id)──> segment key: AES-256-GCM, nonce = record position, aad = header
//!            └──derive(journal)─────────────> mac key: keyed BLAKE3 of manifest and index
//! ```

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroize;

/// Bytes a sealed payload is longer than the payload.
pub(crate) const TAG: usize = 16;
pub(crate) const MAC: usize = 32;

/// The secret all keys of one journal are derived from.
#[derive(Clone)]
pub struct JournalKey(pub [u8; 32]);

impl Drop for JournalKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl JournalKey {
    /// The key of one segment.
    pub(crate) fn segment(&self, journal: &[u8; 16], segment: &[u8; 16]) -> SegmentKey {
        let mut hasher = blake3::Hasher::new_derive_key("lifeboat journal 1 segment");
        let hash = hasher.update(&self.0).update(journal).update(segment).finalize();
        let mut bytes: [u8; 32] = hash.into();
        let unbound =
            UnboundKey::new(&AES_256_GCM, &bytes).expect("a BLAKE3 hash is as long as an AES-256 key");
        bytes.zeroize();
        SegmentKey(LessSafeKey::new(unbound))
    }

    pub(crate) fn mac(&self) -> MacKey {
        MacKey(blake3::derive_key("lifeboat journal 1 manifest and index", &self.0))
    }
}

/// Seals and opens the records of one segment.
pub(crate) struct SegmentKey(LessSafeKey);

/// The record did not come from this place of this segment, or was changed.
#[derive(Debug)]
pub(crate) struct Unsealed;

fn nonce(position: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&position.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl SegmentKey {
    /// Seals `payload` in place; `position` must never have been used for other content in this segment.
    pub(crate) fn seal(
        &self,
        position: u64,
        header: &[u8],
        payload: &mut [u8],
    ) -> Result<[u8; TAG], Unsealed> {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(position), Aad::from(header), payload)
            .map_err(|_| Unsealed)?;
        tag.as_ref().try_into().map_err(|_| Unsealed)
    }

    /// Opens payload and tag into `out`, which is as long as the payload.
    pub(crate) fn open(
        &self,
        position: u64,
        header: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unsealed> {
        let (payload, tag) = sealed.split_at_checked(out.len()).ok_or(Unsealed)?;
        self.0
            .open_separate_gather(nonce(position), Aad::from(header), payload, tag, out)
            .map_err(|_| Unsealed)
    }
}

/// Authenticates the files that hold no content.
#[derive(Clone)]
pub(crate) struct MacKey([u8; 32]);

impl Drop for MacKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl MacKey {
    pub(crate) fn of(&self, parts: &[&[u8]]) -> [u8; MAC] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// Compares in constant time.
    pub(crate) fn verify(&self, parts: &[&[u8]], mac: &[u8]) -> bool {
        let Ok(mac) = <[u8; MAC]>::try_from(mac) else { return false };
        blake3::Hash::from_bytes(self.of(parts)) == blake3::Hash::from_bytes(mac)
    }
}
