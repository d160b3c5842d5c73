//! Reading all packs back, a little at a time.
//!
//! Invariants: packs are taken in the order of their ids, so a round begun is gone on with after a restart and reads every
//! pack that was there when it began; the caller keeps the position and the pace.

use super::{Bad, CheckReport, Found, judge, packs};
use crate::error::VaultError;
use crate::id::PackId;
use crate::index::PackInfo;
use crate::prune::{TreeFormat, Watch};
use crate::vault::Vault;
use std::collections::HashMap;
use std::time::Duration;

/// A scrub under way.
pub struct Scrub<'a> {
    vault: &'a Vault,
    /// Bytes a second.
    budget: u64,
    packs: Vec<PackInfo>,
    next: usize,
    bad: Vec<Bad>,
}

/// One step of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    /// Where to go on after a restart.
    pub position: PackId,
    /// Bytes read.
    pub bytes: u64,
    /// How long to wait before the next step, so that the budget is kept.
    pub wait: Duration,
    /// Share of the round that is done, 0 to 100.
    pub percent: u8,
    /// What is wrong with the pack, if anything is.
    pub finding: Option<String>,
}

impl<'a> Scrub<'a> {
    /// Goes on after `position`; `None` for a new round. `budget` is in bytes a second, 0 for no limit.
    ///
    /// # Errors
    /// `Index`.
    pub fn begin(vault: &'a Vault, position: Option<PackId>, budget: u64) -> Result<Self, VaultError> {
        let mut packs = vault.index().packs()?;
        packs.sort_by_key(|p| p.id);
        let next = position.map_or(0, |at| packs.partition_point(|p| p.id <= at));
        Ok(Self { vault, budget, packs, next, bad: Vec::new() })
    }

    /// Reads the next pack back; `None` at the end of the round.
    ///
    /// # Errors
    /// What keeps it from being read; asking again tries the same pack.
    pub fn step(&mut self) -> Result<Option<Scrubbed>, VaultError> {
        let Some(pack) = self.packs.get(self.next) else { return Ok(None) };
        let mut finding = None;
        // One that was pruned meanwhile is missed by nobody.
        let bytes = match self.vault.index().pack_by_id(&pack.id)? {
            None => 0,
            Some(_) => {
                if let Some(bad) = packs::read_back(self.vault, pack)? {
                    finding = Some(bad.what.clone());
                    self.vault.distrust(bad.loses().then_some(bad.pack).into_iter());
                    self.bad.push(bad);
                }
                pack.size
            }
        };
        self.next += 1;
        let nanos = (u128::from(bytes) * 1_000_000_000).checked_div(u128::from(self.budget));
        Ok(Some(Scrubbed {
            position: pack.id,
            bytes,
            wait: Duration::from_nanos(nanos.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)),
            percent: (self.next * 100 / self.packs.len().max(1)) as u8,
            finding,
        }))
    }

    /// What was found so far, with the snapshots it touches.
    ///
    /// # Errors
    /// What keeps it from finding out.
    pub fn findings(self, trees: &dyn TreeFormat, watch: Watch<'_>) -> Result<CheckReport, VaultError> {
        if self.bad.is_empty() {
            return Ok(CheckReport::default());
        }
        Ok(judge(self.vault, trees, watch, Found::default(), self.bad, HashMap::new())?.0)
    }
}
