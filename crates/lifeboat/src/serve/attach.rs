//! A new site from a vault and its recovery kit; and the look whether a place can hold a vault.
//!
//! Invariants: the vault is only read; nothing is made before kit, key and vault have been found to belong together;
//! what fails leaves the directory as it was. What the vault's catalogue says is taken over when the site is served.

use super::config::SiteConfig;
use super::config::vault::Place;
use super::{keys, state, vault};
use crate::args::vault::{AttachArgs, ProbeArgs};
use crate::commands::secrets::{kit_passphrase, read_secret};
use crate::compose;
use crate::failure::{Exit, Failure, Outcome};
use crate::out::{Out, Style};
use lifeboat_base::{Entropy, SystemEntropy};
use lifeboat_control::kit::{self, KitContent, KitError, KitPlace, KitSecret};
use std::fmt::Write;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Makes a site from a vault and its kit.
///
/// # Errors
/// When kit, passphrase and vault do not belong together, or the directory is in use.
pub async fn attach(args: AttachArgs, out: Out) -> Outcome {
    let text = read_kit(&args.kit)?;
    let secret = match &args.identity {
        Some(path) => KitSecret::Identity(read_secret(path)?),
        None => KitSecret::Passphrase(kit_passphrase(args.passphrase_file.as_deref(), false)?),
    };
    let kit = blocking(move || Ok(kit::open(&text, &secret)?)).await?;
    let config = SiteConfig::from_attach(&args, &kit.site)?;
    if config.vault.off {
        return Err(Failure::usage("there is nothing to attach").hint("name where the vault is"));
    }
    let key = keys::parse(kit.vault_key.as_bytes()).ok_or_else(|| {
        Failure::new(Exit::Corrupt, "the recovery kit is damaged: its key is not 64 hex digits")
    })?;
    let fresh = state::Fresh::claim(&args.dir)?;
    prove(&config, fresh.path(), &key, &kit).await?;
    let made = compose::attach(fresh.path(), &config, &kit, &key).await?;
    state::write_new(&fresh.path().join(state::CONFIG), config.to_text().as_bytes(), 0o644)?;
    fresh.keep();
    let elsewhere: Vec<&KitPlace> =
        kit.places.iter().filter(|p| p.location != config.vault.location).collect();
    let dir = args.dir.display().to_string();
    let (url, fingerprint) = (config.api_url(), made.fingerprint.to_string());
    let answer = serde_json::json!({
        "directory": dir, "url": url, "fingerprint": fingerprint, "token": made.token, "vault": kit.vault,
    });
    out.answer(&answer, |_, style| {
        format!(
            "{} is made in {dir} from the vault {}\n\n\
             start it:  lifeboat serve --dir {dir}\n\
             log in:    lifeboat login --url {url} --fingerprint {fingerprint} --token {}\n\
             then:      lifeboat status, lifeboat points SERVER, lifeboat drill SERVER\n\
             when this host's clock is right: lifeboat vault clock --accept\n\n\
             Servers, groups, agents and backup sets are read from the vault when it is served. All servers are stopped:\n\
             nothing is captured until `lifeboat resume SERVER`. Agents trust this site: it has the CA of the old one,\n\
             which must not run any more.\n{}",
            style.bold(&format!("Site {}", config.name)),
            kit.vault,
            made.token,
            other_places(&elsewhere)
        )
    })
}

/// The vault may have been kept elsewhere, too: that is a person's to say.
fn other_places(places: &[&KitPlace]) -> String {
    if places.is_empty() {
        return String::new();
    }
    let mut out = "\nWhen the kit was made the vault was kept in these places, too; what is still there can be added to \
                   site.toml\nas [[vault.copies]]:\n"
        .to_string();
    for p in places {
        let _ = writeln!(out, "  {}", crate::render::text::one_line(&p.location));
    }
    out
}

fn read_kit(path: &Path) -> Outcome<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path);
    file.and_then(|f| f.take(kit::MAX_KIT).read_to_string(&mut text)).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => {
            Failure::new(Exit::Corrupt, format!("{} is no recovery kit: it is not text", path.display()))
        }
        _ => Failure::io(format_args!("read {}", path.display()), &e),
    })?;
    Ok(text)
}

/// The vault is there, the key opens it, and it is the kit's.
async fn prove(config: &SiteConfig, dir: &Path, key: &keys::Key, kit: &KitContent) -> Outcome {
    let (places, dir, key) = (config.vault.clone(), dir.to_path_buf(), key.clone());
    let found = blocking(move || {
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        vault::open(&places, &dir, &key, &entropy)
    })
    .await?
    .to_string();
    if found != kit.vault {
        return Err(Failure::new(
            Exit::Refused,
            format!("the vault at {} is {found}, and the kit is for {}", config.vault.location, kit.vault),
        )
        .hint("name the place of the kit's own vault; the text on top of the kit says where it was"));
    }
    Ok(())
}

/// Finds out whether a place can hold a vault.
///
/// # Errors
/// When it cannot, with what is wrong and what to do.
pub async fn look(args: ProbeArgs, out: Out) -> Outcome {
    let place = Place::named(&args.location, &args.place)?;
    // Before anything is made there.
    place.check().map_err(|why| Failure::usage(format!("the place {why}")))?;
    let verdict = blocking(move || {
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        vault::try_place(&place, Path::new("/"), &entropy)
    })
    .await?;
    let answer = serde_json::json!({
        "store": verdict.store,
        "usable": verdict.usable,
        "text": verdict.text,
        "locks": verdict.locks,
        "steps": verdict.steps.iter().map(|s| serde_json::json!({"what": s.what, "wrong": s.wrong})).collect::<Vec<_>>(),
    });
    out.answer(&answer, |_, style| {
        let mut text = String::new();
        for step in &verdict.steps {
            let mark = mark(step.wrong.is_none(), style);
            let why = step.wrong.as_deref().map(|w| format!(": {w}")).unwrap_or_default();
            let _ = writeln!(text, "  {mark}  {}{why}", step.what);
        }
        if verdict.usable {
            let _ = write!(text, "{}", verdict.text);
        }
        text
    })?;
    match verdict.usable {
        true => Ok(()),
        false => Err(Failure::new(Exit::Refused, verdict.text)),
    }
}

fn mark(good: bool, style: Style) -> String {
    if good { style.green("ok") } else { style.red("NO") }
}

/// Runs what blocks on a thread that may.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Outcome<T> + Send + 'static) -> Outcome<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Failure::failed(format!("the work broke off: {e}")))?
}

impl From<KitError> for Failure {
    fn from(e: KitError) -> Self {
        let exit = match &e {
            KitError::Short | KitError::Recipient(_) => Exit::Usage,
            KitError::NoKit(_) => Exit::Corrupt,
            KitError::WrongSecret | KitError::Newer(_) => Exit::Refused,
            KitError::Make(_) => Exit::Failed,
        };
        let failure = Self::new(exit, e.to_string());
        match e {
            KitError::WrongSecret => {
                failure.hint("try again; a kit made for an age recipient opens with --identity FILE")
            }
            KitError::NoKit(_) => failure.hint("use the file that `lifeboat vault key kit` wrote, whole"),
            _ => failure,
        }
    }
}
