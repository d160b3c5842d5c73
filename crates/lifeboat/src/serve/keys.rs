//! The keys of this site: what seals its journals, and what opens its vault.
//!
//! ```text
//! DIR/keys/               0700
//! DIR/keys/journal.key    0600   64 hex digits (32 bytes), line end
//! DIR/keys/vault.key      0600   the same; the vault's own keys are wrapped with it
//! DIR/keys/vault.key.new         while a vault is being made for a site that had none
//! DIR/keys/vault.key.next        while it is being replaced
//! ```
//!
//! Invariant: a key is made once and never written again; without it what it seals cannot be read.

use super::state::write_new;
use crate::failure::{Exit, Failure, Outcome};
use lifeboat_base::Entropy;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const DIR: &str = "keys";
const JOURNAL: &str = "journal.key";
const VAULT: &str = "vault.key";
const VAULT_NEW: &str = "vault.key.new";
const VAULT_NEXT: &str = "vault.key.next";

const JOURNAL_LOST: &str =
    "restore it from a backup of the state directory; without it the recovery points cannot be read";
const VAULT_LOST: &str = "restore it from a backup of the state directory, or make a new site with the recovery kit: \
                          lifeboat vault attach LOCATION --kit FILE --dir DIR";

/// 32 secret bytes.
pub type Key = Zeroizing<[u8; 32]>;

/// Makes the keys. The directory must have none. `vault`: the vault's, where there is one already.
///
/// # Errors
/// When they cannot be written.
pub fn create(site: &Path, vault: Option<&Key>, entropy: &dyn Entropy) -> Outcome {
    let dir = site.join(DIR);
    DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .map_err(|e| Failure::io(format_args!("make {}", dir.display()), &e))?;
    write_key(&dir.join(JOURNAL), &random(entropy))?;
    match vault {
        Some(key) => write_key(&dir.join(VAULT), key),
        None => write_key(&dir.join(VAULT), &random(entropy)),
    }
}

fn random(entropy: &dyn Entropy) -> Key {
    let mut key: Key = Zeroizing::new([0; 32]);
    entropy.fill(&mut *key);
    key
}

/// 64 hexadecimal digits.
pub fn to_hex(key: &Key) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in key.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text
}

fn write_key(path: &Path, key: &Key) -> Outcome {
    let mut text = to_hex(key);
    text.push('\n');
    write_new(path, text.as_bytes(), 0o600)
}

/// Reads the journals' key.
///
/// # Errors
/// When it is missing, damaged, or readable by others.
pub fn load(site: &Path) -> Outcome<Key> {
    read(&site.join(DIR).join(JOURNAL), JOURNAL_LOST)
}

/// Reads the vault's key.
///
/// # Errors
/// When it is missing, damaged, or readable by others.
pub fn load_vault(site: &Path) -> Outcome<Key> {
    read(&site.join(DIR).join(VAULT), VAULT_LOST)
}

pub fn has_vault(site: &Path) -> bool {
    site.join(DIR).join(VAULT).symlink_metadata().is_ok()
}

/// The key of a vault whose making was cut off.
///
/// # Errors
/// When it is damaged.
pub fn begun_vault(site: &Path) -> Outcome<Option<Key>> {
    read_if_there(&site.join(DIR).join(VAULT_NEW))
}

/// The key that is to come in place of the vault's, where replacing it was cut off. Either may be the one that opens it.
///
/// # Errors
/// When it is damaged.
pub fn next_vault(site: &Path) -> Outcome<Option<Key>> {
    read_if_there(&site.join(DIR).join(VAULT_NEXT))
}

fn read_if_there(path: &Path) -> Outcome<Option<Key>> {
    match path.symlink_metadata() {
        Ok(_) => read(path, VAULT_LOST).map(Some),
        Err(_) => Ok(None),
    }
}

/// Makes the key of a vault that is to be made now.
///
/// # Errors
/// When it cannot be written.
pub fn begin_vault(site: &Path, entropy: &dyn Entropy) -> Outcome<Key> {
    let key = random(entropy);
    write_key(&site.join(DIR).join(VAULT_NEW), &key)?;
    Ok(key)
}

/// Makes the key that is to come in place of the vault's.
///
/// # Errors
/// When it cannot be written.
pub fn begin_next(site: &Path, entropy: &dyn Entropy) -> Outcome<Key> {
    let key = random(entropy);
    write_key(&site.join(DIR).join(VAULT_NEXT), &key)?;
    Ok(key)
}

/// The next key opens the vault: it takes the place of the one before, which is gone then.
///
/// # Errors
/// When it cannot be renamed.
pub fn finish_next(site: &Path) -> Outcome {
    rename(site, VAULT_NEXT)
}

/// The vault is made: its key gets its name.
///
/// # Errors
/// When it cannot be renamed.
pub fn finish_vault(site: &Path) -> Outcome {
    rename(site, VAULT_NEW)
}

fn rename(site: &Path, from: &str) -> Outcome {
    let dir: PathBuf = site.join(DIR);
    fs::rename(dir.join(from), dir.join(VAULT))
        .and_then(|()| File::open(&dir)?.sync_all())
        .map_err(|e| Failure::io(format_args!("name the key {}", dir.join(VAULT).display()), &e))
}

fn read(path: &Path, lost: &str) -> Outcome<Key> {
    let meta = fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::new(Exit::Corrupt, format!("the key {} is missing", path.display())).hint(lost)
        }
        _ => Failure::io(format_args!("read {}", path.display()), &e),
    })?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(Failure::new(Exit::Refused, format!("the key {} can be read by others", path.display()))
            .hint(format!("take that away: chmod 600 {}", path.display())));
    }
    if meta.len() > 128 {
        return Err(Failure::new(Exit::Corrupt, format!("the key {} is damaged", path.display())).hint(lost));
    }
    let text = fs::read(path)
        .map(Zeroizing::new)
        .map_err(|e| Failure::io(format_args!("read {}", path.display()), &e))?;
    parse(&text).ok_or_else(|| {
        Failure::new(Exit::Corrupt, format!("the key {} is damaged: it is not 64 hex digits", path.display()))
            .hint(lost)
    })
}

/// A key from its 64 hexadecimal digits.
pub fn parse(text: &[u8]) -> Option<Key> {
    let digits = text.trim_ascii();
    let mut key: Key = Zeroizing::new([0; 32]);
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
        create(site.path(), None, &SeededEntropy::new(1)).unwrap();
        let mut expected = [0; 32];
        SeededEntropy::new(1).fill(&mut expected);
        assert_eq!(*load(site.path()).unwrap(), expected);
        assert!(create(site.path(), None, &SeededEntropy::new(2)).is_err());
        assert_eq!(*load(site.path()).unwrap(), expected);
        assert_ne!(*load_vault(site.path()).unwrap(), expected, "each has its own");
    }

    #[test]
    fn a_key_that_is_given_is_kept_and_comes_back_as_it_is_written_down() {
        let site = tempfile::tempdir().unwrap();
        let key: Key = Zeroizing::new([0xa7; 32]);
        create(site.path(), Some(&key), &SeededEntropy::new(1)).unwrap();
        assert_eq!(load_vault(site.path()).unwrap(), key);
        assert_eq!(parse(to_hex(&key).as_bytes()).unwrap(), key);
    }

    #[test]
    fn a_vault_being_made_has_its_key_under_another_name_until_it_is_there() {
        let site = tempfile::tempdir().unwrap();
        fs::create_dir(site.path().join(DIR)).unwrap();
        assert!(begun_vault(site.path()).unwrap().is_none());
        let key = begin_vault(site.path(), &SeededEntropy::new(3)).unwrap();
        assert!(!has_vault(site.path()));
        assert_eq!(begun_vault(site.path()).unwrap().unwrap(), key);
        finish_vault(site.path()).unwrap();
        assert_eq!(load_vault(site.path()).unwrap(), key);
        assert!(begun_vault(site.path()).unwrap().is_none());
    }

    #[test]
    fn a_missing_damaged_or_open_key_is_refused() {
        let site = tempfile::tempdir().unwrap();
        assert_eq!(load(site.path()).unwrap_err().exit, Exit::Corrupt);
        create(site.path(), None, &SeededEntropy::new(1)).unwrap();
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
