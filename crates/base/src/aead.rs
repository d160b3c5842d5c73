//! Sealing: AES-256-GCM under keys derived with BLAKE3.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fmt;
use zeroize::Zeroize;

/// Bytes a sealed text is longer than the text.
pub const TAG: usize = 16;

/// 32 secret bytes; wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl Secret {
    pub fn random(entropy: &dyn crate::Entropy) -> Self {
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes);
        Self(bytes)
    }

    /// A key for one purpose: `context` is a constant of the program, unique to the purpose.
    #[must_use]
    pub fn derive(&self, context: &'static str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0);
        for part in parts {
            // Lengths keep two lists of parts from meaning the same bytes.
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Self(hasher.finalize().into())
    }

    /// The key that seals.
    ///
    /// # Panics
    /// Never: the length is right by type.
    pub fn aead(&self) -> AeadKey {
        let key = UnboundKey::new(&AES_256_GCM, &self.0).expect("32 bytes are an AES-256 key");
        AeadKey(LessSafeKey::new(key))
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The text was sealed with another key, in another place, or was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seal is broken")]
pub struct BrokenSeal;

/// Seals and opens. A nonce is used once for each key; who derives a key for each object counts from 0.
pub struct AeadKey(LessSafeKey);

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl AeadKey {
    /// Seals `text[from..]` in place and adds the tag at its end.
    ///
    /// # Panics
    /// When there are more than 64 GiB to seal, which nothing here has.
    pub fn seal(&self, number: u64, aad: &[u8], text: &mut Vec<u8>, from: usize) {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(number), Aad::from(aad), &mut text[from..])
            .expect("AES-GCM seals anything shorter than 64 GiB");
        text.extend_from_slice(tag.as_ref());
    }

    /// Opens text and tag in place; gives the text.
    ///
    /// # Errors
    /// Then `sealed` holds no meaning.
    pub fn open<'a>(
        &self,
        number: u64,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], BrokenSeal> {
        self.0.open_in_place(nonce(number), Aad::from(aad), sealed).map_err(|_| BrokenSeal)
    }

    /// Opens text and tag into `out`, which is [`TAG`] bytes shorter.
    ///
    /// # Errors
    /// Then `out` holds no meaning.
    pub fn open_into(
        &self,
        number: u64,
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), BrokenSeal> {
        let (text, tag) = sealed.split_at_checked(out.len()).ok_or(BrokenSeal)?;
        self.0.open_separate_gather(nonce(number), Aad::from(aad), text, tag, out).map_err(|_| BrokenSeal)
    }
}

#[cfg(test)]
mod tests;
