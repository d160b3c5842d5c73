//! A site's process: configuration, state directory, logs, signals, and the service manager.
//! What runs inside is composed in [`crate::compose`].

pub mod attach;
pub mod config;
pub mod keys;
pub mod listen;
pub mod logs;
pub mod rekey;
pub mod state;
pub mod vault;

use crate::args::{InitArgs, ServeArgs};
use crate::compose::{self, Parts};
use crate::failure::{Failure, Outcome};
use crate::out::Out;
use config::SiteConfig;
use sd_notify::NotifyState;
use state::StateDir;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Time allowed from the first signal to the end of the process.
pub const SHUTDOWN: Duration = Duration::from_secs(30);

/// Makes a site. All or nothing: a failure leaves the directory as it was.
///
/// # Errors
/// When the directory is in use, or cannot be written.
pub async fn init(args: InitArgs, out: Out) -> Outcome {
    let config = SiteConfig::from_init(&args)?;
    let fresh = state::Fresh::claim(&args.dir)?;
    let made = compose::init(fresh.path(), &config).await?;
    state::write_new(&fresh.path().join(state::CONFIG), config.to_text().as_bytes(), 0o644)?;
    fresh.keep();
    let url = config.api_url();
    let dir = args.dir.display().to_string();
    let fingerprint = made.fingerprint.to_string();
    let answer = serde_json::json!({
        "directory": dir, "url": url, "fingerprint": fingerprint, "token": made.token, "vault": made.vault,
    });
    out.answer(&answer, |_, style| {
        format!(
            "{} is made in {dir}\n\n\
             start it:  lifeboat serve --dir {dir}\n\
             log in:    lifeboat login --url {url} --fingerprint {fingerprint} --token {}\n\n\
             The token is the first administrator's and is shown only now. Keep {dir}/keys safe: without\n\
             it the recovery points cannot be read.\n\n{}",
            style.bold(&format!("Site {}", config.name)),
            made.token,
            vault_words(&made.vault)
        )
    })
}

/// What a person is told of the vault `init` made.
fn vault_words(found: &[String]) -> String {
    if found.is_empty() {
        return "There is no vault: points end with the journal.".into();
    }
    format!(
        "vault:     {}\n\
         Once it runs, make a recovery kit and keep it elsewhere: with it and the vault everything comes back after\n\
         this site is lost:  lifeboat vault key kit --out FILE",
        found.join("\n           ")
    )
}

/// Runs a site until it is asked to stop.
///
/// # Errors
/// When it cannot start, or did not stop cleanly.
pub fn run(args: &ServeArgs) -> Outcome {
    let config = SiteConfig::load(&args.dir)?;
    logs::start(args.log.as_deref().unwrap_or(&config.log.level))?;
    let dir = StateDir::lock(&args.dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::io("start the runtime", &e))?;
    let ended = runtime.block_on(serve(&dir, &config));
    // Threads of the data path that hang in a dead disk must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    drop(dir);
    ended
}

async fn serve(dir: &StateDir, config: &SiteConfig) -> Outcome {
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| Failure::io("listen for signals", &e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Failure::io("listen for signals", &e))?;
    // Both ports are taken before anything starts, so that a taken one changes nothing.
    let api = listen::bind("api", config.api.listen)?;
    let replication = listen::bind("replication", config.replication.listen)?;
    let addresses = (listen::address(&api), listen::address(&replication));
    let running = compose::start(Parts { dir: dir.path(), config, api, replication }).await?;
    tracing::info!(
        site = config.name,
        api = %addresses.0,
        replication = %addresses.1,
        fingerprint = %running.fingerprint(),
        "serving"
    );
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
    let watchdog = tokio::spawn(watchdog());
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        failure = running.failed() => {
            tracing::error!(failure, "a part of the site ended; stopping the rest");
            "failure"
        }
    };
    watchdog.abort();
    notify(&[NotifyState::Stopping]);
    tracing::info!(why, "stopping");
    let clean = tokio::select! {
        clean = tokio::time::timeout(SHUTDOWN, running.shutdown()) => clean,
        _ = interrupt.recv() => return Err(Failure::failed("stopped at once by a second signal")),
    };
    match clean {
        Ok(()) if why == "failure" => {
            Err(Failure::failed("a part of the site ended by itself; its log says why"))
        }
        Ok(()) => {
            tracing::info!("stopped");
            Ok(())
        }
        Err(_) => Err(Failure::failed(format!("did not stop within {} s", SHUTDOWN.as_secs()))
            .hint("nothing acknowledged is lost; the next start recovers what was open")),
    }
}

/// Tells the service manager; nobody listening is no error.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!(error = %e, "the service manager did not take a notification");
    }
}

/// Proves twice per period that the runtime still runs tasks.
async fn watchdog() {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let mut every = tokio::time::interval((period / 2).max(Duration::from_millis(100)));
    loop {
        every.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}
