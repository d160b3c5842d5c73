//! The key that seals this site's journals.
//!
//! ```text
//! DIR/keys/            0700
//! DIR/keys/journal.key 0600   64 hex digits (32 bytes), line end
//! ```
//!
//! Invariant: the key is made once and never written again; without it the journals cannot be read.

use super::state::write_new;
use crate::failure::{Exit, Failure, Outcome};
use lifeboat_base::Entropy;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use zeroize::Zeroizing;

const DIR: &str = "keys";
const JOURNAL: &str = "journal.key";

/// The journals' sealing key.
pub type JournalKey = Zeroizing<[u8; 32]>;

/// Makes the key. The directory must not have one.
///
/// # Errors
/// When it cannot be written.
pub fn create(site: &Path, entropy: &dyn Entropy) -> Outcome {
    let dir = site.join(DIR);
    DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .map_err(|e| Failure::io(format_args!("make {}", dir.display()), &e))?;
    let mut key: JournalKey = Zeroizing::new([0; 32]);
    entropy.fill(&mut *key);
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in key.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
    write_new(&dir.join(JOURNAL), text.as_bytes(), 0o600)
}

/// Reads the key.
///
/// # Errors
/// When it is missing, damaged, or readable by others.
pub fn load(site: &Path) -> Outcome<JournalKey> {
    let path = site.join(DIR).join(JOURNAL);
    let backup =
        "restore it from a backup of the state directory; without it the recovery points cannot be read";
    let meta = fs::metadata(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::new(Exit::Corrupt, format!("the key {} is missing", path.display())).hint(backup)
        }
        _ => Failure::io(format_args!("read {}", path.display()), &e),
    })?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(Failure::new(Exit::Refused, format!("the key {} can be read by others", path.display()))
            .hint(format!("take that away: chmod 600 {}", path.display())));
    }
    if meta.len() > 128 {
        return Err(
            Failure::new(Exit::Corrupt, format!("the key {} is damaged", path.display())).hint(backup)
        );
    }
    let text = fs::read(&path)
        .map(Zeroizing::new)
        .map_err(|e| Failure::io(format_args!("read {}", path.display()), &e))?;
    parse(&text).ok_or_else(|| {
        Failure::new(Exit::Corrupt, format!("the key {} is damaged: it is not 64 hex digits", path.display()))
            .hint(backup)
    })
}

fn parse(text: &[u8]) -> Option<JournalKey> {
    let digits = text.trim_ascii();
    let mut key: JournalKey = Zeroizing::new([0; 32]);
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |c: u8| (c as char).to_digit(16);
        *byte = u8::try_from(nibble(pair[0])? * 16 + nibble(pair[1])?).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_base::SeededEntropy;

    #[test]
    fn the_key_is_private_comes_back_and_is_not_replaced() {
        let site = tempfile::tempdir().unwrap();
        create(site.path(), &SeededEntropy::new(1)).unwrap();
        let mut expected = [0; 32];
        SeededEntropy::new(1).fill(&mut expected);
        assert_eq!(*load(site.path()).unwrap(), expected);
        assert!(create(site.path(), &SeededEntropy::new(2)).is_err());
        assert_eq!(*load(site.path()).unwrap(), expected);
    }

    #[test]
    fn a_missing_damaged_or_open_key_is_refused() {
        let site = tempfile::tempdir().unwrap();
        assert_eq!(load(site.path()).unwrap_err().exit, Exit::Corrupt);
        create(site.path(), &SeededEntropy::new(1)).unwrap();
        let path = site.path().join(DIR).join(JOURNAL);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(load(site.path()).unwrap_err().hint.unwrap().contains("chmod 600"));
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        for bad in ["", "zz", &"g".repeat(64), &"a".repeat(63), &"a".repeat(200)] {
            fs::write(&path, bad).unwrap();
            assert_eq!(load(site.path()).unwrap_err().exit, Exit::Corrupt, "{bad}");
        }
    }
}
