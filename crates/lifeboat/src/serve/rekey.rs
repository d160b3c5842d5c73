//! `lifeboat vault key replace`: a new key of the site for its vault, and the end of the old one.
//!
//! Invariant: whenever it is cut off, one of the keys in the directory opens the vault, and running it again goes on.

use super::config::SiteConfig;
use super::config::vault::Vault as VaultConfig;
use super::{keys, state, vault};
use crate::args::vault::ReplaceArgs;
use crate::failure::{Failure, Outcome};
use crate::out::{Out, confirm};
use crate::serve::attach::blocking;
use lifeboat_base::{Entropy, Secret, SystemClock, SystemEntropy};
use std::path::Path;
use std::sync::Arc;

/// What came of it.
struct Replaced {
    vault: String,
    generation: u32,
    /// Why what the old key opens is still there.
    left: Option<String>,
}

/// Replaces the key.
///
/// # Errors
/// When the site runs, or the vault cannot be reached; then the old key is good, and asking again goes on.
pub async fn replace(args: ReplaceArgs, out: Out) -> Outcome {
    let dir = state::StateDir::lock(&args.dir)?;
    let config = SiteConfig::load(dir.path())?;
    if config.vault.off {
        return Err(Failure::usage("this site has no vault"));
    }
    if !args.yes {
        confirm("All recovery kits made until now will open nothing any more.", "replace")?;
    }
    let at = dir.path().to_path_buf();
    let done = blocking(move || {
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        replace_in(&config.vault, &at, &entropy)
    })
    .await?;
    let answer = serde_json::json!({
        "vault": done.vault, "key_generation": done.generation, "left": done.left,
    });
    out.answer(&answer, |_, _| {
        let left = match &done.left {
            Some(why) => format!(
                "\nThe old key still opens a list of keys that could not be deleted ({why}):\n\
                 run this again when it can."
            ),
            None => String::new(),
        };
        format!(
            "the vault {} opens with a new key only, and new content is sealed with key generation {}.\n\
             Make a new recovery kit and destroy the old ones: lifeboat vault key kit --out FILE\n\
             Who had the old key and a copy of the vault can read what was in that copy.{left}",
            done.vault, done.generation
        )
    })
}

fn replace_in(config: &VaultConfig, dir: &Path, entropy: &Arc<dyn Entropy>) -> Outcome<Replaced> {
    let old = keys::load_vault(dir)?;
    let new = match keys::next_vault(dir)? {
        Some(begun) => begun,
        None => keys::begin_next(dir, &**entropy)?,
    };
    let site_keys = vec![Secret(*new), Secret(*old)];
    let options = vault::options(config, dir, site_keys, entropy)?;
    let open = lifeboat_vault::Vault::open(options, Arc::new(SystemClock), Arc::clone(entropy))?;
    let generation = open.rotate_key(&Secret(*new))?;
    keys::finish_next(dir)?;
    // The new key is in force: whatever goes wrong from here on, the old kits open nothing, and people have to be told.
    let left = open.drop_old_keys().err().map(|e| e.to_string());
    Ok(Replaced { vault: open.id().to_string(), generation, left })
}

#[cfg(test)]
mod tests;
