//! `mount.1tib`: how soon a huge, scattered disk answers, and in how much memory.

use crate::Options;
use crate::lifeboat::{NAME, Pair};
use crate::report::{Goal, Report, median};
use crate::system::peak_memory;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use lifeboat_base::{DiskId, Entropy as _, SeededEntropy, Seq, SystemClock, SystemEntropy};
use lifeboat_block::{BarrierKind, Body, Codec, Record};
use lifeboat_e2e::TestDir;
use lifeboat_journal::{Journal, JournalConfig, JournalKey};
use lifeboat_sim::{clock, oracle};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const DISK: u64 = 1 << 40;
const BLOCK: usize = 4096;
const MIB: f64 = 1048576.0;
/// Records between two barriers.
const BATCH: usize = 1024;

/// Runs it if it is wanted.
///
/// # Errors
/// When the journal cannot be made or the site does not serve it.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let dir = TestDir::within(&options.dir, "bench");
    let disk = dir.join("disk.img");
    File::create(&disk)?.set_len(DISK)?;
    let mut pair = Pair::start(dir.path());
    pair.protect(NAME, &disk);
    pair.wait_live(NAME)?;
    let id = pair.site.server(NAME)["id"].as_str().context("the server has no id")?.to_owned();
    pair.agent.process.terminate(Duration::from_secs(30));
    // A million writes through the splitter would measure the splitter; their records are put where serve keeps them.
    let Pair { site, .. } = &mut pair;
    let site = Arc::get_mut(site).context("the site is in use")?;
    site.process.terminate(Duration::from_secs(60));
    let written = scatter(&site.dir, &id, options.records)?;
    site.restart();

    let mut times = Vec::new();
    for run in 1..=options.runs {
        // Each from the disk, as after a restart of the site's host.
        drop_caches(&site.dir.join("servers").join(&id).join("journal"))?;
        let start = clock::elapsed();
        let (mount, disks) = site.mount(NAME, "latest");
        let target = oracle::open(&disks[0], None)?;
        let mut block = vec![0; BLOCK];
        target.read(written.0, &mut block)?;
        let took = (clock::elapsed() - start).as_secs_f64();
        if block[..] != written.1[..] {
            bail!("the mount does not hold what was written");
        }
        eprintln!("  mount.1tib run {run}: {took:.3} s");
        times.push(took);
        drop(target);
        site.ok(&["unmount", &mount]);
    }
    report.line("mount.1tib", median(&times), "s", Goal::AtMost(1.0));
    let peak = peak_memory(site.process.pid().as_raw())? as f64 / MIB;
    report.line("mount.1tib.memory", peak, "MiB", Goal::AtMost(300.0));
    Ok(())
}

/// Appends `records` writes at random places to a journal nobody has open; one of them, which none overwrites.
fn scatter(site: &Path, server: &str, records: usize) -> Result<(u64, Bytes)> {
    let dir = site.join("servers").join(server).join("journal");
    let hex = std::fs::read_to_string(site.join("keys/journal.key"))?;
    let key = JournalKey(unhex(hex.trim()).context("the journal's key")?);
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let (mut journal, _) = Journal::open(&dir, &key, JournalConfig::default(), clock, entropy)?;
    let random = SeededEntropy::new(1);
    let content: Vec<(Bytes, u32)> = (0..64)
        .map(|_| {
            let mut block = vec![0; BLOCK];
            random.fill(&mut block);
            let crc = crc32c::crc32c(&block);
            (block.into(), crc)
        })
        .collect();
    let (epoch, mut seq) = (journal.epoch(), journal.last_seq());
    let record = |seq: &mut Seq, body| {
        *seq = seq.next();
        Record { epoch, seq: *seq, time: lifeboat_base::Clock::wall(&SystemClock), body }
    };
    let mut last = (0, Bytes::new());
    for done in (0..records).step_by(BATCH) {
        let mut batch = Vec::with_capacity(BATCH + 1);
        for i in done..records.min(done + BATCH) {
            let offset = random.next_u64() % (DISK / BLOCK as u64) * BLOCK as u64;
            let (payload, crc) = content[i % content.len()].clone();
            last = (offset, payload.clone());
            let body =
                Body::Data { disk: DiskId(0), offset, len: BLOCK as u32, codec: Codec::Raw, crc, payload };
            batch.push(record(&mut seq, body));
        }
        batch.push(record(&mut seq, Body::Barrier { kind: BarrierKind::Crash }));
        journal.append(&batch)?;
        journal.commit()?;
    }
    journal.close()?;
    Ok(last)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    bytes.try_into().ok()
}

/// Lets go of what the page cache holds of a directory's files.
fn drop_caches(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let file = File::open(entry?.path())?;
        file.sync_data()?;
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    Ok(())
}
