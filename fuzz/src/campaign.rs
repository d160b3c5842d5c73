//! Running targets: one input, a stored corpus, a number of mutations.

use crate::{Target, bound, mutate::Mutator};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use std::{fs, io};

/// Longest time one input may take.
const HANG: Duration = Duration::from_secs(60);

static PANICS: AtomicU64 = AtomicU64::new(0);
static LAST: Mutex<String> = Mutex::new(String::new());
static HOOK: Once = Once::new();

/// An input that broke a promise.
#[derive(Debug)]
pub struct Broken {
    pub input: Vec<u8>,
    pub why: String,
}

/// Runs one input.
///
/// # Errors
/// What promise was broken.
pub fn try_one(target: &Target, input: &[u8]) -> Result<(), String> {
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            *LAST.lock() = info.to_string();
        }));
    });
    let before = PANICS.load(Ordering::Relaxed);
    let ended = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if ended.is_err() || PANICS.load(Ordering::Relaxed) != before {
        return Err(LAST.lock().clone());
    }
    bound::broken().map_or(Ok(()), |n| Err(format!("an allocation of {n} bytes")))
}

/// Where a target's inputs are stored.
pub fn corpus_dir(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The stored inputs of a target, in order of name.
///
/// # Errors
/// What reading reports.
pub fn corpus(target: &Target) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(corpus_dir(target))?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.sort();
    paths.into_iter().map(|p| fs::read(&p).map(|bytes| (p, bytes))).collect()
}

/// Keeps an input, named by its content; returns where.
///
/// # Errors
/// What writing reports.
pub fn keep(dir: &Path, prefix: &str, input: &[u8]) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let path = dir.join(format!("{prefix}-{}", &blake3::hash(input).to_hex()[..12]));
    fs::write(&path, input)?;
    Ok(path)
}

/// Tries `inputs` mutations of the corpus, or until `over` says so; returns how many were tried.
///
/// # Errors
/// The first input that breaks a promise; one that does not end is among them, and its thread is left behind.
pub fn mutations(
    target: Target,
    corpus: Vec<Vec<u8>>,
    seed: u64,
    inputs: u64,
    over: impl Fn() -> bool + Send + 'static,
) -> Result<u64, Broken> {
    static NOW: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mutator = Mutator::new(seed);
        for n in 0..inputs {
            if over() {
                return tell.send(Some(Ok(n)));
            }
            let input = mutator.make(&corpus);
            if n % 256 == 0 {
                tell.send(None)?;
            }
            NOW.lock().clone_from(&input);
            if let Err(why) = try_one(&target, &input) {
                return tell.send(Some(Err(Broken { input, why })));
            }
        }
        tell.send(Some(Ok(inputs)))
    });
    loop {
        match told.recv_timeout(HANG) {
            Ok(Some(done)) => return done,
            Ok(None) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(Broken { input: NOW.lock().clone(), why: format!("no end within {HANG:?}") });
            }
        }
    }
}
