//! What a seed decides before the world begins: how large it is, how busy, and which faults it knows.

use super::chance::{MS, Rng, SEC};
use super::fault::Fault;
use lifeboat_base::limits::{AGENT_UNACKED, BLOCK};
use lifeboat_journal::JournalConfig;
use std::time::Duration;

/// Which promises a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Faults until the end; nothing wrong may ever be seen (I1 to I4, I6).
    Safety,
    /// Faults stop; then everything must get well by itself (I5).
    Liveness,
    /// Stored bytes rot: a point reads right or says that it cannot (I3). What was acknowledged may be lost.
    Rot,
}

/// A protected server.
pub struct ServerPlan {
    pub site: usize,
    /// Bytes.
    pub disks: Vec<u64>,
    /// Writes go on while the agent is away, unseen.
    pub mirror: bool,
    /// Flushes wait for the site.
    pub synchronous: bool,
    /// Mean time between operations of the guest.
    pub gap: u64,
    /// Largest write, in bytes.
    pub largest: u64,
    /// Percent of writes that do not compress.
    pub noise: u64,
    pub queue_limit: usize,
    /// Bytes of frames in memory.
    pub unacked: usize,
    /// Bytes; 0 for no spool.
    pub spool_limit: u64,
    /// Source and copy are compared now and then.
    pub verify: bool,
    pub latency: u64,
    /// Bytes a second; 0 for no limit.
    pub bandwidth: u64,
}

pub struct Plan {
    pub aim: Aim,
    pub sites: usize,
    pub servers: Vec<ServerPlan>,
    pub journal: JournalConfig,
    /// Journals stand on a vault.
    pub vault: bool,
    /// How long faults go on.
    pub busy: u64,
    pub faults: Vec<Fault>,
    /// Mean time between faults.
    pub fault_gap: u64,
    /// The site's shell looks at epochs too, not the journal's worker alone.
    pub shell_checks: bool,
}

impl Plan {
    pub fn new(seed: u64, rng: &mut Rng) -> Self {
        let aim = match seed % 8 {
            7 => Aim::Rot,
            n if n % 2 == 0 => Aim::Safety,
            _ => Aim::Liveness,
        };
        let sites = 1 + usize::from(rng.percent(25));
        let count = [1, 1, 1, 2, 2, 3][rng.below(6) as usize];
        let servers = (0..count).map(|i| ServerPlan::new(i % sites, rng)).collect();
        let journal = JournalConfig {
            segment_bytes: 1 << rng.between(14, 20),
            segment_records: rng.between(16, 2000) as u32,
            window: Duration::from_secs(rng.between(5, 60)),
            window_bytes: if rng.percent(50) { 1 << 40 } else { 1 << rng.between(18, 23) },
        };
        // Few kinds in one run, so that each has time to show what it does.
        let mut faults: Vec<Fault> = Fault::ALL.iter().copied().filter(|_| rng.percent(30)).collect();
        faults.retain(|f| *f != Fault::Rot);
        if rng.percent(40) && !faults.contains(&Fault::Unseen) {
            faults.push(Fault::Unseen);
        }
        if aim == Aim::Rot {
            faults.push(Fault::Rot);
        }
        let busy = rng.between(8, 30) * SEC;
        Self {
            aim,
            sites,
            servers,
            journal,
            vault: rng.percent(50),
            busy,
            faults,
            fault_gap: rng.between(300, 4000) * MS,
            shell_checks: rng.percent(50),
        }
    }
}

impl ServerPlan {
    fn new(site: usize, rng: &mut Rng) -> Self {
        let disks = (0..[1, 1, 1, 2, 3][rng.below(5) as usize]).map(|_| {
            let blocks = if rng.percent(6) { rng.between(64, 100) } else { rng.between(1, 10) };
            // Not all disks end with a block.
            let odd = if rng.percent(50) { 0 } else { 512 * rng.between(1, 127) };
            blocks * BLOCK as u64 + odd
        });
        Self {
            site,
            disks: disks.collect(),
            mirror: rng.percent(40),
            synchronous: rng.percent(30),
            gap: [2, 5, 20, 50, 200][rng.below(5) as usize] * MS,
            largest: [4096, 16384, 65536, 131_072, 640 * 1024][rng.below(5) as usize],
            noise: rng.below(60),
            queue_limit: 1 << rng.between(17, 22),
            unacked: if rng.percent(60) { 1 << rng.between(14, 19) } else { AGENT_UNACKED },
            spool_limit: if rng.percent(60) { 1 << rng.between(16, 23) } else { 0 },
            verify: rng.percent(50),
            latency: [MS / 10, MS, 10 * MS, 80 * MS][rng.below(4) as usize],
            bandwidth: if rng.percent(70) { 0 } else { rng.between(100, 4000) * 1000 },
        }
    }
}
