//! Which site the commands speak to: flags and environment first, then what `login` remembered.

use crate::args::Global;
use crate::failure::{Failure, Outcome};
use lifeboat_api::tls::{Fingerprint, TlsError};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// `cli.toml`: one remembered site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Everything needed to speak to a site.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub url: String,
    pub fingerprint: Fingerprint,
    pub token: String,
}

const HOW: &str =
    "lifeboat login --url https://HOST:8443 --fingerprint HEX --token TOKEN (init printed all three)";

/// `$XDG_CONFIG_HOME/lifeboat/cli.toml`, or `~/.config/lifeboat/cli.toml`.
///
/// # Errors
/// When neither variable is set.
pub fn path() -> Outcome<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CONFIG_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".config")))
        .map(|base| base.join("lifeboat").join("cli.toml"))
        .ok_or_else(|| {
            Failure::usage("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for cli.toml")
        })
}

/// Reads the remembered site; empty when there is none.
///
/// # Errors
/// When the file cannot be read or is not what `login` writes.
pub fn load(path: &Path) -> Outcome<Profile> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Profile::default()),
        Err(e) => return Err(Failure::io(format_args!("read {}", path.display()), &e)),
    };
    toml::from_str(&text).map_err(|e| {
        Failure::usage(format!("{} is damaged: {}", path.display(), e.message()))
            .hint(format!("remove it and log in again: {HOW}"))
    })
}

/// Writes the remembered site, readable by its owner only.
///
/// # Errors
/// When the directory or file cannot be written.
pub fn save(path: &Path, profile: &Profile) -> Outcome {
    let text =
        toml::to_string(profile).map_err(|e| Failure::failed(format!("cannot write the profile: {e}")))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("toml.new");
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| Failure::io(format_args!("write {}", path.display()), &e))
}

/// What the flags, the environment and `profile` say together.
///
/// # Errors
/// When one of the three is missing, or the fingerprint has an impossible form.
pub fn endpoint(global: &Global, profile: Profile) -> Outcome<Endpoint> {
    let pick = |flag: &Option<String>, kept: Option<String>, what: &str| {
        flag.clone()
            .filter(|v| !v.is_empty())
            .or(kept)
            .ok_or_else(|| Failure::usage(format!("no {what} is known")).hint(format!("log in once: {HOW}")))
    };
    // A token belongs to the site it was given for: it is not sent to another one named by flag.
    let same_site = global.url.is_none() || global.url == profile.url;
    let url = pick(&global.url, profile.url, "site")?;
    let fingerprint =
        pick(&global.fingerprint, profile.fingerprint.filter(|_| same_site), "fingerprint of the site")?;
    let token = pick(&global.token, profile.token.filter(|_| same_site), "token for the site")?;
    let fingerprint = fingerprint
        .parse()
        .map_err(|e: TlsError| Failure::usage(format!("the value of --fingerprint is {e}")))?;
    Ok(Endpoint { url, fingerprint, token })
}

#[cfg(test)]
mod tests;
