//! A vault with many chunks: how long it takes to look at it, and how much memory.
//!
//! ```text
//! scale build DIR CHUNKS      makes one: real packs, maps and snapshots of chunks that are only a few bytes long
//! scale measure DIR           opens it as a restarted site does, checks it, plans a prune, counts its use
//! scale reindex DIR           makes the local index anew, as a new site does
//! ```
//! Run the steps as processes of their own: memory is that of the whole process, at its highest.

use lifeboat_base::limits::BLOCK;
use lifeboat_base::{
    Clock, DiskId, Epoch, PointId, Secret, SeededEntropy, Seq, ServerId, SystemClock, SystemEntropy,
};
use lifeboat_vault::check::Check;
use lifeboat_vault::prune::{Keeping, NoTrees, Prune, Special, Thrift};
use lifeboat_vault::retention::Policy;
use lifeboat_vault::store::DirStore;
use lifeboat_vault::usage::usage;
use lifeboat_vault::{
    ChunkId, DiskMap, DiskRoot, Kind, Owner, Settings, SnapshotBody, Stats, Vault, VaultError, VaultOptions,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Chunks of one server's disk: 32 GiB of content.
const SERVER: u64 = 500_000;
/// Points of each server, each with a hundredth of its chunks changed.
const POINTS: u64 = 5;
const SITE_KEY: Secret = Secret([1; 32]);

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["build", dir, chunks] => build(Path::new(dir), chunks.parse()?),
        ["measure", dir] => measure(Path::new(dir)),
        ["reindex", dir] => reindex(Path::new(dir)),
        _ => Err("usage: scale build DIR CHUNKS | measure DIR | reindex DIR".into()),
    }
}

fn open(dir: &Path) -> Result<Vault, Failed> {
    // A pack of 512 chunks, as one of real content has.
    let settings = Settings { pack_bytes: 5000, ..Settings::default() };
    let options = VaultOptions {
        store: Arc::new(DirStore::open(dir.join("vault"))?),
        site_keys: vec![SITE_KEY],
        index: Some(dir.join("index.redb")),
        settings,
    };
    Ok(Vault::open(options, Arc::new(SystemClock), Arc::new(SystemEntropy))?)
}

fn build(dir: &Path, chunks: u64) -> Result<(), Failed> {
    std::fs::create_dir_all(dir)?;
    let store = DirStore::create(dir.join("vault"))?;
    Vault::create(&store, &SITE_KEY, &SystemClock, &SystemEntropy)?;
    let vault = open(dir)?;
    let changed = SERVER / 100;
    let each = SERVER + (POINTS - 1) * changed;
    for server in 0..chunks.div_ceil(each) {
        let mut base = None;
        for point in 0..POINTS {
            base = Some(make_point(&vault, server, point, base, changed)?);
        }
        eprint!("\rserver {}: {} entries", server + 1, vault.index().chunk_count()?);
    }
    eprintln!();
    Ok(())
}

/// Makes a point; all of the disk for the first one, some of it for others.
fn make_point(
    vault: &Vault,
    server: u64,
    point: u64,
    base: Option<DiskMap>,
    changed: u64,
) -> Result<DiskMap, VaultError> {
    let owner = Owner::Server(ServerId::random(&SeededEntropy::new(server)));
    let session = vault.begin(owner)?;
    let mut map = session.map(base, SERVER * BLOCK as u64)?;
    let step = if point == 0 { 1 } else { SERVER / changed };
    for n in (0..SERVER).step_by(step as usize) {
        let content = [server, point, n].map(u64::to_le_bytes).concat();
        map.set(n, session.put(Kind::Data, content.into())?)?;
    }
    let map = map.finish()?;
    let now = SystemClock.wall();
    // As if one were made each hour, ending now.
    let made = now.saturating_sub(Duration::from_secs((POINTS - point) * 3600));
    let used = SERVER * BLOCK as u64;
    session.commit(SnapshotBody {
        point: Some(PointId { epoch: Epoch(1), seq: Seq(point + 1) }),
        consistency: 0,
        source_time: made,
        site_time: made,
        disks: vec![DiskRoot { disk: DiskId(0), map, used }],
        tree: None,
        details: Vec::new(),
        stats: Stats::default(),
        locked_until: None,
    })?;
    Ok(map)
}

/// Of each server one point goes.
struct Rules;

impl Keeping for Rules {
    fn policy(&self, _: &Owner) -> Option<Policy> {
        Some(Policy::hbr24())
    }

    fn special(&self, snapshot: &lifeboat_vault::Snapshot) -> Special {
        match snapshot.body.point {
            Some(p) if p.seq.0 == 2 => Special::Forget("the second one".into()),
            _ => Special::No,
        }
    }
}

/// Does it, and says how long it took and what memory was highest until then.
fn timed<T>(what: &str, f: impl FnOnce() -> Result<T, Failed>) -> Result<T, Failed> {
    let begun = SystemClock.monotonic();
    let done = f()?;
    let took = SystemClock.monotonic().saturating_sub(begun);
    println!("{what:10} {:7.1} s   highest memory {:4} MB", took.as_secs_f64(), highest_memory()?);
    Ok(done)
}

fn highest_memory() -> Result<u64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("the kernel does not say")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? / 1000)
}

fn measure(dir: &Path) -> Result<(), Failed> {
    let vault = timed("open", || open(dir))?;
    timed("refresh", || Ok(vault.refresh(&|_, _| {})?))?;
    let check = Check {
        vault: &vault,
        trees: &NoTrees,
        site_keys: &[SITE_KEY],
        read_percent: 0,
        watch: &|_, _, _| true,
    };
    let report = timed("check", || Ok(check.run()?))?;
    println!(
        "{} snapshots, {} packs, {} chunks, {} findings",
        report.snapshots,
        report.packs,
        report.chunks,
        report.findings.len()
    );
    let prune = Prune {
        vault: &vault,
        keeping: &Rules,
        trees: &NoTrees,
        now: SystemClock.wall(),
        thrift: Thrift { small: 0, ..Thrift::default() },
        watch: &|_, _, _| true,
    };
    let plan = timed("prune plan", || Ok(prune.plan()?))?;
    println!(
        "{} snapshots go, {} stay; {} packs go, {} are repacked",
        plan.forget.len(),
        plan.staying,
        plan.packs_deleted,
        plan.packs_repacked
    );
    let used = timed("usage", || Ok(usage(&vault, &NoTrees, true, &|_, _, _| true)?))?;
    println!("{} owners, {} bytes stored", used.owners.len(), used.total.stored);
    let some = ChunkId(*blake3::hash(b"nothing has this").as_bytes());
    assert!(!vault.has(&some)?);
    Ok(())
}

fn reindex(dir: &Path) -> Result<(), Failed> {
    let vault = open(dir)?;
    let done = timed("reindex", || Ok(vault.reindex(&|_, _| {})?))?;
    println!("{} packs, {} entries", done.packs_added, vault.index().chunk_count()?);
    Ok(())
}
