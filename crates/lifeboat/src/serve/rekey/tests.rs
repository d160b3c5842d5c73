#![allow(clippy::unwrap_used)]

use super::*;
use lifeboat_base::SeededEntropy;
use lifeboat_vault::Vault;

struct Site {
    dir: tempfile::TempDir,
    config: VaultConfig,
    entropy: Arc<dyn Entropy>,
}

fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let config = VaultConfig::default();
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
    keys::create(dir.path(), None, &*entropy).unwrap();
    let key = keys::load_vault(dir.path()).unwrap();
    vault::create(&config, dir.path(), &key, &SystemClock, &entropy).unwrap();
    Site { dir, config, entropy }
}

impl Site {
    fn open(&self, key: &keys::Key) -> Outcome<Vault> {
        let keys = vec![Secret(**key)];
        let options = vault::options(&self.config, self.dir.path(), keys, &self.entropy)?;
        Ok(Vault::open(options, Arc::new(SystemClock), Arc::clone(&self.entropy))?)
    }

    fn key(&self) -> keys::Key {
        keys::load_vault(self.dir.path()).unwrap()
    }
}

/// Row 30: after a leak the old key opens nothing any more, and what was sealed stays readable.
#[test]
fn a_replaced_key_opens_nothing_any_more() {
    let site = site();
    let old = site.key();
    let id = site.open(&old).unwrap().id().to_string();
    let done = replace_in(&site.config, site.dir.path(), &site.entropy).unwrap();
    assert_eq!((done.vault, done.generation, done.left), (id, 2, None));
    assert_ne!(site.key(), old);
    assert_eq!(site.open(&site.key()).unwrap().keys().generation(), 2);
    assert!(site.open(&old).is_err());
    assert!(keys::next_vault(site.dir.path()).unwrap().is_none());
}

/// Row 30: cut off at each step, one of the keys opens the vault, the site can be served, and the next try ends it.
#[test]
fn a_replacement_that_was_cut_off_goes_on() {
    for step in 0..3 {
        let site = site();
        let old = site.key();
        let next = keys::begin_next(site.dir.path(), &*site.entropy).unwrap();
        if step > 0 {
            site.open(&old).unwrap().rotate_key(&Secret(*next)).unwrap();
        }
        if step > 1 {
            keys::finish_next(site.dir.path()).unwrap();
        }
        let settings = vault::settings(&site.config, site.dir.path(), &site.entropy).unwrap().unwrap();
        let options = lifeboat_vault::VaultOptions {
            store: settings.store,
            site_keys: settings.site_keys,
            index: None,
            settings: settings.settings,
        };
        Vault::open(options, Arc::new(SystemClock), Arc::clone(&site.entropy)).unwrap();
        replace_in(&site.config, site.dir.path(), &site.entropy).unwrap();
        assert!(site.open(&old).is_err(), "step {step}");
        assert!(site.open(&site.key()).is_ok(), "step {step}");
    }
}

/// The new key is in force though what the old one opens could not be deleted everywhere: that is told as what is left,
/// not as a failure.
#[test]
fn a_copy_that_is_away_keeps_a_key_from_nothing_but_its_old_list() {
    let mut site = site();
    let other = |n: &str| {
        let place = crate::args::vault::PlaceArgs::default();
        super::super::config::vault::Place::new(&format!("copy-{n}"), &place)
    };
    std::fs::remove_dir_all(site.dir.path().join(&site.config.location)).unwrap();
    site.config.copies = vec![other("b"), other("c")];
    let key = site.key();
    vault::create(&site.config, site.dir.path(), &key, &SystemClock, &site.entropy).unwrap();
    let copy = site.dir.path().join("copy-c");
    std::fs::rename(&copy, site.dir.path().join("away")).unwrap();
    let done = replace_in(&site.config, site.dir.path(), &site.entropy).unwrap();
    assert!(done.left.is_some());
    assert!(site.open(&key).is_err(), "the old key opens nothing");
    assert!(site.open(&site.key()).is_ok());
}
