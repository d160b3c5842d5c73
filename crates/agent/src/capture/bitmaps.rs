//! QEMU's dirty bitmaps as the tracking of a mirrored machine: they note every write while QEMU lives, whether or not an
//! agent is there.
//!
//! Invariants:
//! - Each disk has at least one bitmap of ours that records, from before the agent's tracking log names it until after
//!   it names a later one. So the bitmaps from the named one on cover all that is not surely at the site.
//! - A bitmap goes only when a later one has recorded since before a barrier that is durable at the site, and not at
//!   the first such barrier but at the next: a write may be at the machine's disk a moment before it is here.
//!
//! Names are `lifeboat-dirty-N`; numbers only grow.

use super::mirror::MachineDisk;
use crate::stream::Stream;
use crate::tracking::Tracking;
use lifeboat_base::DiskId;
use lifeboat_base::limits::BLOCK;
use lifeboat_block::ExtentKind;
use lifeboat_nbd::client::{Client, ClientSettings};
use lifeboat_qmp::{NbdExport, Qmp, QmpError};
use lifeboat_replicate::sender::{Passed, Suspects, Ticket};
use std::path::Path;
use std::sync::Arc;

pub const NAME: &str = "lifeboat-dirty-";
/// Most bitmaps of ours looked at on one disk.
const MOST: usize = 16;
/// Most ranges taken over; more become one.
const MOST_RANGES: usize = 1 << 20;

fn name(n: u64) -> String {
    format!("{NAME}{n}")
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix(NAME)?.parse().ok()
}

/// The bitmaps of one attached machine.
pub struct Bitmaps {
    tracking: Arc<Tracking>,
    /// The newest, and the one before it.
    previous: u64,
    newest: u64,
    /// A barrier behind the making of the newest.
    ticket: Option<Ticket>,
}

/// Numbers of our bitmaps on a node, and whether the newest records.
fn on_node(qmp: &Qmp, node: &str) -> Result<Vec<(u64, bool)>, QmpError> {
    let nodes = qmp.query_named_block_nodes()?;
    let mut found: Vec<(u64, bool)> = nodes
        .iter()
        .filter(|n| n.node_name == node)
        .flat_map(|n| &n.bitmaps)
        .filter(|b| !b.inconsistent)
        .filter_map(|b| Some((number(&b.name)?, b.recording)))
        .collect();
    found.sort_unstable();
    Ok(found)
}

impl Bitmaps {
    /// Makes new bitmaps and reads what the earlier ones have noted since number `base`. Every write is captured already,
    /// so that nothing falls between. `socket` is where QEMU serves NBD.
    ///
    /// # Errors
    /// When QEMU does not do it; the machine is compared as a whole then.
    pub fn take_over(
        qmp: &Qmp,
        socket: &Path,
        disks: &[MachineDisk],
        tracking: &Arc<Tracking>,
        found: &Suspects,
        base: u64,
    ) -> Result<(Self, Suspects), String> {
        let text = |e: QmpError| e.to_string();
        let known: Vec<_> =
            disks.iter().map(|d| on_node(qmp, d.node())).collect::<Result<_, _>>().map_err(text)?;
        // Every disk has the one that tracking names, and its newest has not stopped.
        let whole = |k: &Vec<(u64, bool)>| {
            k.iter().any(|b| b.0 == base) && k.last().is_some_and(|b| b.1) && k.len() <= MOST
        };
        let covered = base != 0 && matches!(found, Suspects::Only { .. }) && known.iter().all(whole);
        let newest = known.iter().flatten().map(|b| b.0).max().unwrap_or(0).max(base) + 1;
        for disk in disks {
            qmp.bitmap_add(disk.node(), &name(newest), BLOCK as u32).map_err(text)?;
        }
        let bitmaps = Self { tracking: Arc::clone(tracking), previous: newest, newest, ticket: None };
        let suspects = match found {
            Suspects::Only { floor, .. } if covered => {
                let ranges = read_all(qmp, socket, disks, &known, base)?;
                Suspects::Only { ranges, floor: *floor }
            }
            _ => {
                // None is named before everything is at the site.
                bitmaps.remove_below(qmp, disks, newest);
                Suspects::All
            }
        };
        Ok((bitmaps, suspects))
    }

    /// One round of upkeep; call it every few seconds.
    pub fn rotate(&mut self, qmp: &Qmp, disks: &[MachineDisk], stream: &Stream) {
        if self.tracking.broken().is_some() {
            return;
        }
        // Before the ticket is judged: what makes all suspect after that makes the judgement worthless.
        let restarts = self.tracking.restarts();
        let status = match self.ticket {
            Some(t) => stream.with_sender(|s| s.passed(t)),
            None => Passed::Lost,
        };
        match status {
            Passed::NotYet => return,
            Passed::Yes => {
                let floor = stream.with_sender(|s| s.durable());
                if self.tracking.keep_base(self.previous, floor, restarts).is_ok() {
                    self.remove_below(qmp, disks, self.previous);
                    self.add(qmp, disks);
                }
            }
            Passed::Lost => {}
        }
        self.ticket = stream.take_ticket();
    }

    fn add(&mut self, qmp: &Qmp, disks: &[MachineDisk]) {
        let next = name(self.newest + 1);
        let made = disks.iter().try_for_each(|d| qmp.bitmap_add(d.node(), &next, BLOCK as u32));
        if let Err(e) = made {
            tracing::debug!("a dirty bitmap could not be made: {e}");
            disks.iter().for_each(|d| drop(qmp.bitmap_remove(d.node(), &next)));
            return;
        }
        self.previous = self.newest;
        self.newest += 1;
    }

    fn remove_below(&self, qmp: &Qmp, disks: &[MachineDisk], base: u64) {
        for disk in disks {
            for (n, _) in on_node(qmp, disk.node()).unwrap_or_default() {
                if n < base
                    && let Err(e) = qmp.bitmap_remove(disk.node(), &name(n))
                {
                    tracing::debug!("a dirty bitmap could not be removed: {e}");
                }
            }
        }
    }
}

/// Removes every bitmap of ours from the machine.
pub fn remove_all(qmp: &Qmp) {
    for node in qmp.query_named_block_nodes().unwrap_or_default() {
        for bitmap in node.bitmaps.iter().filter(|b| number(&b.name).is_some()) {
            if let Err(e) = qmp.bitmap_remove(&node.node_name, &bitmap.name) {
                tracing::debug!("a dirty bitmap could not be removed: {e}");
            }
        }
    }
}

/// What the bitmaps from `base` on have noted.
fn read_all(
    qmp: &Qmp,
    socket: &Path,
    disks: &[MachineDisk],
    known: &[Vec<(u64, bool)>],
    base: u64,
) -> Result<Vec<(DiskId, u64, u64)>, String> {
    let mut ranges = Vec::new();
    for (i, (disk, known)) in disks.iter().zip(known).enumerate() {
        let names: Vec<String> = known.iter().filter(|b| b.0 >= base).map(|b| name(b.0)).collect();
        for name in &names {
            qmp.bitmap_disable(disk.node(), name).map_err(|e| e.to_string())?;
        }
        let id = format!("lifeboat-dirty-export-{i}");
        let export = NbdExport { id: &id, node: disk.node(), name: &id, writable: false, bitmaps: &names };
        qmp.block_export_add(&export).map_err(|e| e.to_string())?;
        let read = names.iter().try_for_each(|name| read_one(socket, &id, name, i, disk.size, &mut ranges));
        if let Err(e) = qmp.block_export_del(&id, true) {
            tracing::debug!("the bitmaps' export stays: {e}");
        }
        read?;
    }
    Ok(ranges)
}

fn read_one(
    socket: &Path,
    export: &str,
    bitmap: &str,
    disk: usize,
    size: u64,
    ranges: &mut Vec<(DiskId, u64, u64)>,
) -> Result<(), String> {
    let settings = ClientSettings { bitmap: Some(bitmap.to_owned()), ..ClientSettings::default() };
    let client = Client::connect_unix(socket, export, &settings).map_err(|e| e.to_string())?;
    if !client.knows_holes() {
        return Err(format!("QEMU does not show its dirty bitmap {bitmap}"));
    }
    let disk = DiskId(disk as u16);
    let mut at = 0;
    while at < size {
        let before = at;
        for extent in client.block_status(at, size - at).map_err(|e| e.to_string())? {
            if extent.kind == ExtentKind::Data {
                if ranges.len() >= MOST_RANGES {
                    return Err("its dirty bitmap is in too many pieces".into());
                }
                ranges.push((disk, at, extent.len));
            }
            at += extent.len;
        }
        if at == before {
            return Err("QEMU does not tell all of its dirty bitmap".into());
        }
    }
    Ok(())
}
