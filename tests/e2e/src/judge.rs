//! The oracle over a splitter: its load, and its verdict on points.

use crate::site::{Agent, Site};
use crate::tool::run;
use lifeboat_sim::clock;
use lifeboat_sim::oracle::{self, FileSink, History, Order, Report, Require, Settings, Target};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Writes to the exports of a server's disks until the settings say stop, or `over` does.
///
/// # Panics
/// When the exports cannot be opened, or the workload itself fails.
pub fn work(
    agent: &Agent,
    name: &str,
    disks: usize,
    ledger: &Path,
    settings: &Settings,
    over: &AtomicBool,
) -> Report {
    let targets: Vec<Arc<dyn Target>> = (0..disks)
        .map(|i| oracle::open(&format!("nbd-unix:{}:disk{i}", agent.export(name).display()), None).unwrap())
        .collect();
    let (sink, history) = FileSink::open(ledger).unwrap();
    oracle::write(&targets, &sink, history.as_ref(), settings, over).unwrap()
}

/// A load that goes on beside the test.
#[derive(Debug)]
pub struct Load {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Report>>,
}

impl Load {
    /// Starts it on the one disk of server `name`; it goes on for ten minutes at most.
    ///
    /// # Panics
    /// When the export cannot be opened.
    pub fn start(agent: &Agent, name: &str, ledger: &Path, settings: Settings) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let settings = Settings { time: Duration::from_secs(600), ..settings };
        let target = format!("nbd-unix:{}:disk0", agent.export(name).display());
        let target = oracle::open(&target, None).unwrap();
        let (sink, history) = FileSink::open(ledger).unwrap();
        let thread = {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                oracle::write(&[target], &sink, history.as_ref(), &settings, &over).unwrap()
            })
        };
        Self { over, thread: Some(thread) }
    }

    /// As [`Load::start`], and it begins again whenever the export has gone and come back, as a machine would.
    ///
    /// # Panics
    /// When the ledger cannot be kept.
    pub fn lasting(agent: &Agent, name: &str, ledger: &Path, settings: Settings) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let settings = Settings { time: Duration::from_secs(3600), ..settings };
        let (name, ledger) =
            (format!("nbd-unix:{}:disk0", agent.export(name).display()), ledger.to_path_buf());
        let thread = {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                let mut all = Report::default();
                while !over.load(Ordering::SeqCst) {
                    let Ok(target) = oracle::open(&name, None) else {
                        clock::pace(Duration::from_millis(20));
                        continue;
                    };
                    let (sink, history) = FileSink::open(&ledger).unwrap();
                    // The export may go again before anything was written to it.
                    let Ok(report) = oracle::write(&[target], &sink, history.as_ref(), &settings, &over)
                    else {
                        continue;
                    };
                    all.operations += report.operations;
                    all.failed += report.failed;
                }
                all
            })
        };
        Self { over, thread: Some(thread) }
    }

    /// Whether it still writes.
    pub fn runs(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Ends it; what is in flight completes first.
    ///
    /// # Panics
    /// When the workload failed.
    pub fn stop(mut self) -> Report {
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// Judges a point by the oracle.
///
/// # Panics
/// When it is not what the ledger allows.
pub fn judge(site: &Site, name: &str, point: &str, ledger: &Path, require: Require) {
    let (id, sockets) = site.mount(name, point);
    judge_mounted(&format!("{name} at {point}"), &sockets, ledger, require);
    site.ok(&["unmount", &id]);
}

/// Judges disks that are mounted.
///
/// # Panics
/// When they are not what the ledger allows.
pub fn judge_mounted(what: &str, sockets: &[String], ledger: &Path, require: Require) {
    let images: Vec<Arc<dyn Target>> = sockets.iter().map(|s| oracle::open(s, None).unwrap()).collect();
    let history = History::open(ledger, None).unwrap();
    let verdict = oracle::check(&images, &history, require, Order::Prefix).unwrap();
    assert!(verdict.ok(), "{what}: {verdict}");
}

/// Judges the newest point, which must hold everything, and `others` more from all over the window.
///
/// # Panics
/// When one of them is not what the ledger allows.
pub fn judge_several(site: &Site, name: &str, ledger: &Path, others: usize) {
    judge(site, name, "latest", ledger, Require::All);
    let points = site.json(&["points", name, "--limit", &others.to_string()]);
    for p in points.as_array().unwrap() {
        judge(site, name, p["id"].as_str().unwrap(), ledger, Require::Nothing);
    }
}

/// Compares the newest point with the source's files, byte by byte, by an independent program.
///
/// # Panics
/// When they differ.
pub fn compare(site: &Site, name: &str, paths: &[PathBuf]) {
    let (id, sockets) = site.mount(name, "latest");
    for (path, socket) in paths.iter().zip(&sockets) {
        let uri = format!("nbd+unix:///?socket={}", socket.strip_prefix("nbd-unix:").unwrap());
        run(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(path).arg(uri));
    }
    site.ok(&["unmount", &id]);
}
