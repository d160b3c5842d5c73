//! `vault.mount`: how soon a huge disk's point answers, and how fast random reads of a point are beside qcow2.

use super::data;
use super::own::Own;
use super::runs;
use crate::Options;
use crate::fio::{self, Job};
use crate::report::{Goal, Report, median};
use crate::system::unix_uri;
use crate::vault::archives::Archive as _;
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{DiskId, Entropy as _, SeededEntropy, SystemClock};
use lifeboat_block::BlockDevice;
use lifeboat_e2e::{Process, TestDir, wait_for};
use lifeboat_nbd::{Exports, Server, ServerSettings};
use lifeboat_sim::clock;
use lifeboat_vault::{DiskMap, DiskRoot, Kind, Owner};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const DISK: u64 = 1 << 40;
/// Chunks of it that have content, at random places.
const CHUNKS: u64 = 200_000;
/// Different contents among them.
const CONTENTS: u64 = 512;
/// The half of the Debian disk that has files.
const LIVELY: u64 = 2 << 30;

/// Runs both.
///
/// # Errors
/// When something cannot be made, or the wrong bytes come back.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    first_read(options, report)?;
    random_reads(options, report)
}

fn first_read(options: &Options, report: &mut Report) -> Result<()> {
    let dir = TestDir::within(&options.dir, "bench-vault");
    let mut own = Own::new(dir.path());
    own.init()?;
    let (map, at, expected) = huge(&own)?;
    let mut times = Vec::new();
    for _ in 0..runs(options) {
        let vault = own.open()?;
        drop_caches(&dir.join("vault"))?;
        let start = clock::elapsed();
        let device = vault.map_device(map);
        let mut block = vec![0; 4096];
        device.read(at, &mut block)?;
        times.push((clock::elapsed() - start).as_secs_f64());
        ensure!(block[..] == expected[..4096], "the point does not hold what was written");
    }
    report.line("vault.mount", median(&times), "s", Goal::AtMost(1.0));
    Ok(())
}

/// A point of a 1 TiB disk; where a chunk of it is, and what that holds.
fn huge(own: &Own) -> Result<(DiskMap, u64, Bytes)> {
    let vault = own.open()?;
    let random = SeededEntropy::new(5);
    let session = vault.begin(Owner::Set("huge".into()))?;
    let contents: Vec<Bytes> = (0..CONTENTS)
        .map(|_| {
            let mut content = vec![0; BLOCK];
            random.fill(&mut content);
            Bytes::from(content)
        })
        .collect();
    let ids = contents.iter().map(|c| session.put(Kind::Data, c.clone())).collect::<Result<Vec<_>, _>>()?;
    let mut places: Vec<u64> = (0..CHUNKS).map(|_| random.next_u64() % (DISK / BLOCK as u64)).collect();
    places.sort_unstable();
    places.dedup();
    let mut writer = session.map(None, DISK)?;
    for place in &places {
        writer.set(*place, ids[(place % CONTENTS) as usize])?;
    }
    let map = writer.finish()?;
    Own::commit(session, Some(DiskRoot { disk: DiskId(0), map, used: 0 }), None)?;
    let one = places[places.len() / 2];
    Ok((map, one * BLOCK as u64, contents[(one % CONTENTS) as usize].clone()))
}

/// As after a restart of the host: nothing of the vault is in memory.
fn drop_caches(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            drop_caches(&path)?;
        } else {
            let file = std::fs::File::open(&path)?;
            nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    }
    Ok(())
}

fn random_reads(options: &Options, report: &mut Report) -> Result<()> {
    let dir = TestDir::within(&options.dir, "bench-vault");
    let image = dir.join("disk.img");
    data::debian(&image)?;
    let mut own = Own::new(dir.path());
    own.init()?;
    own.back_up(&image, None)?;
    let qcow2 = dir.join("disk.qcow2");
    let made = Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(&image).arg(&qcow2).status()?;
    if !made.success() {
        bail!("qemu-img cannot make a qcow2");
    }
    std::fs::remove_file(&image)?;
    let job = Job {
        pattern: "randread",
        block: 4096,
        depth: 16,
        seconds: options.peer_seconds,
        size: LIVELY,
        rate: None,
        flush: None,
        offset: 0,
    };
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for run in 0..runs(options) {
        let socket = dir.join(&format!("qemu{run}.sock"));
        let mut command = Command::new("qemu-nbd");
        command.args(["--persistent", "--shared=16", "--read-only", "--format=qcow2", "--socket"]);
        let _qemu = Process::start("qemu-nbd", dir.path(), command.arg(&socket).arg(&qcow2));
        wait_for("qemu-nbd", Duration::from_secs(20), || socket.exists());
        theirs.push(fio::run(&unix_uri(&socket, ""), &job)?.iops);

        let vault = own.open()?;
        let newest = vault.snapshots().into_iter().next().context("no backup")?;
        let device: Arc<dyn BlockDevice> = Arc::new(vault.map_device(newest.body.disks[0].map));
        let socket = dir.join(&format!("own{run}.sock"));
        let exports = Exports::single(device);
        let _server =
            Server::listen_unix(&socket, exports, ServerSettings::default(), Arc::new(SystemClock))?;
        ours.push(fio::run(&unix_uri(&socket, ""), &job)?.iops);
        eprintln!("  vault.mount run {run}: qcow2 {:.0}, vault {:.0} reads a second", theirs[run], ours[run]);
    }
    report.line("peer.qemu-nbd.vault.mount.randread4k", median(&theirs), "iops", Goal::None);
    report.line("vault.mount.randread4k", median(&ours), "iops", Goal::AtLeast(0.3 * median(&theirs)));
    Ok(())
}
