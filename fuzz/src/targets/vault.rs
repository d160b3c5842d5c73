//! What the seals of a vault hold: from a writer with a bug, or somebody who has the keys.
//!
//! Input: which decoder u8, then its text.

use lifeboat_vault::fuzzing::{DECODERS, decode};

/// What each decoder takes.
pub fn seeds() -> Vec<Vec<u8>> {
    lifeboat_vault::fuzzing::seeds()
}

/// No decoder dies or takes much memory; what it takes, it writes and reads as the same.
pub fn text(data: &[u8]) {
    if let Some((which, text)) = data.split_first() {
        decode(which % DECODERS, text);
    }
}
