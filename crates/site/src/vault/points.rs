//! Points of the journal and of the vault as one list.
//!
//! Invariants: a point is named once, wherever it is; one that is in both opens from the journal, which has it nearest;
//! a point only the vault has stays there as long as it is mounted.

use super::{SiteVault, policy, vault_error};
use crate::port::point_info;
use crate::{Site, errors};
use lifeboat_api::port::PortError;
use lifeboat_api::types::{ErrorCode, PointInfo, PointKind, RetentionSpec, VaultHold};
use lifeboat_base::point::PointSpec;
use lifeboat_base::{DiskId, PointId, ServerId, WallTime};
use lifeboat_block::BlockDevice;
use lifeboat_journal::{PointError, PointQuery};
use lifeboat_vault::retention::{Candidate, Policy, Verdict, decide};
use lifeboat_vault::{Owner, Snapshot, Vault};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Disks of a point, each with its number.
pub(crate) type Disks = Vec<(u16, Arc<dyn BlockDevice>)>;

impl SiteVault {
    /// What retention makes of an owner's snapshots.
    pub(crate) fn verdicts(
        &self,
        vault: &Vault,
        owner: &Owner,
        policy: &Policy,
    ) -> Vec<(Arc<Snapshot>, Verdict)> {
        let all = vault.snapshots_of(owner);
        let candidate = |s: &Arc<Snapshot>| Candidate {
            id: s.id,
            order: s.body.point.map_or((0, 0), |p| (u64::from(p.epoch.0), p.seq.0)),
            made: s.body.site_time,
            name: vault.hold(&s.id).name,
            locked_until: vault.locked_until(s),
        };
        let candidates: Vec<Candidate> = all.iter().map(candidate).collect();
        let verdicts = decide(policy, &candidates, self.now());
        all.into_iter().zip(verdicts).collect()
    }

    /// What is kept of a snapshot, in the API's words.
    pub(crate) fn hold_info(&self, vault: &Vault, s: &Snapshot, verdict: &Verdict) -> VaultHold {
        VaultHold {
            snapshot: s.id.to_string(),
            name: vault.hold(&s.id).name,
            keep_until: verdict.until(),
            locked_until: vault.locked_until(s).filter(|until| *until > self.now()),
            added_bytes: s.body.stats.added,
        }
    }

    /// A server's points in the vault, newest first. None while it is not open.
    pub(crate) fn points(&self, server: ServerId, retention: Option<&RetentionSpec>) -> Vec<PointInfo> {
        let Ok(vault) = self.open() else { return Vec::new() };
        let policy = retention.and_then(|r| policy(r).ok()).unwrap_or_default();
        let mut points: Vec<PointInfo> = self
            .verdicts(&vault, &Owner::Server(server), &policy)
            .iter()
            .filter_map(|(s, verdict)| {
                let hold = self.hold_info(&vault, s, verdict);
                Some(PointInfo {
                    id: s.body.point?,
                    time: s.body.source_time,
                    received: s.body.site_time,
                    kind: match s.body.consistency {
                        1 => PointKind::Filesystem,
                        2 => PointKind::Application,
                        _ => PointKind::Crash,
                    },
                    bytes_since: s.body.stats.new,
                    journal: false,
                    vault: Some(hold),
                })
            })
            .collect();
        let held = |p: &PointInfo| p.vault.as_ref().map(|v| (v.name.is_some(), v.locked_until));
        points.sort_by_key(|p| std::cmp::Reverse((p.id, held(p))));
        // Put there twice, by two sites or after an answer that was lost: the one that somebody holds counts.
        points.dedup_by_key(|p| p.id);
        points
    }

    /// The snapshot of a point.
    pub(crate) fn snapshot_of(
        &self,
        vault: &Vault,
        server: ServerId,
        point: PointId,
    ) -> Option<Arc<Snapshot>> {
        let all = vault.snapshots_of(&Owner::Server(server));
        let held = |s: &Arc<Snapshot>| (vault.hold(&s.id).name.is_some(), vault.locked_until(s));
        all.into_iter().filter(|s| s.body.point == Some(point)).max_by_key(held)
    }
}

impl Site {
    fn vault_points(&self, server: ServerId) -> Vec<PointInfo> {
        let retention = self.specs.read().get(&server).map(|s| s.retention.clone());
        self.vault.points(server, retention.as_ref())
    }

    /// The moment a bound of a listing means.
    fn moment(&self, server: ServerId, text: &str) -> Result<WallTime, PortError> {
        Ok(match self.spec_of(text)? {
            PointSpec::At(t) => t,
            other => self.find_point(server, &other)?.time,
        })
    }

    /// See [`SitePort::points`](lifeboat_api::port::SitePort::points). Blocks.
    pub(crate) fn list_points(
        &self,
        server: ServerId,
        (from, to): (Option<&str>, Option<&str>),
        limit: usize,
    ) -> Result<Vec<PointInfo>, PortError> {
        let from = from.map(|t| self.moment(server, t)).transpose()?;
        let to = to.map(|t| self.moment(server, t)).transpose()?;
        let mut kept = self.vault_points(server);
        let cell = match self.cell_of(server) {
            Ok(cell) => Some(cell),
            Err(_) if !kept.is_empty() => None,
            Err(e) => return Err(e),
        };
        kept.retain(|p| from.is_none_or(|f| p.time >= f) && to.is_none_or(|t| p.time <= t));
        // Half of the list at least is for the journal, whose points are many.
        if cell.is_some() && kept.len() > limit / 2 {
            let (all, most) = (kept.len(), limit / 2);
            let mut n = 0;
            kept.retain(|_| {
                n += 1;
                n * most / all > (n - 1) * most / all
            });
        }
        let mut all: BTreeMap<PointId, PointInfo> = BTreeMap::new();
        if let Some(cell) = cell {
            let limit = limit.saturating_sub(kept.len());
            let points = cell.reader.points(&PointQuery { from, to, limit, sampled: true });
            all.extend(points.iter().map(|p| (p.id, point_info(p))));
            for p in &mut kept {
                p.journal = cell.reader.resolve(&PointSpec::Id(p.id)).is_ok();
            }
        }
        for p in kept {
            let bytes = all.get(&p.id).map(|known| known.bytes_since);
            all.insert(p.id, PointInfo { bytes_since: bytes.unwrap_or(p.bytes_since), ..p });
        }
        Ok(all.into_values().rev().take(limit).collect())
    }

    /// Finds the point that is meant, wherever it is.
    pub(crate) fn find_point(&self, server: ServerId, spec: &PointSpec) -> Result<PointInfo, PortError> {
        let kept = self.vault_points(server);
        let vaulted = match spec {
            PointSpec::Latest => kept.first(),
            PointSpec::Id(id) => kept.iter().find(|p| p.id == *id),
            PointSpec::At(time) => kept.iter().find(|p| p.time <= *time),
        };
        let journal = match self.cell_of(server) {
            Ok(cell) => cell.reader.resolve(spec).map_err(|e| self.no_point(&e, &kept)),
            Err(e) => Err(e),
        };
        match (journal, vaulted) {
            (Ok(p), Some(v)) if v.id == p.id => Ok(PointInfo { vault: v.vault.clone(), ..point_info(&p) }),
            (Ok(p), Some(v)) if v.id > p.id => Ok(v.clone()),
            (Ok(p), _) => {
                let vault = kept.iter().find(|v| v.id == p.id).and_then(|v| v.vault.clone());
                Ok(PointInfo { vault, ..point_info(&p) })
            }
            (Err(_), Some(v)) => Ok(v.clone()),
            (Err(e), None) => Err(e),
        }
    }

    /// The oldest point there is; `journal`: the journal's.
    pub(crate) fn oldest_point(
        &self,
        server: ServerId,
        journal: Option<&lifeboat_journal::PointInfo>,
    ) -> Option<PointInfo> {
        let kept = self.vault_points(server).pop();
        match (journal, kept) {
            (Some(j), Some(v)) if v.id < j.id => Some(v),
            (Some(j), _) => Some(point_info(j)),
            (None, v) => v,
        }
    }

    /// The point a person gave this name.
    pub(crate) fn named_point(&self, server: ServerId, name: &str) -> Option<PointInfo> {
        let kept = self.vault_points(server);
        let mut named =
            kept.into_iter().find(|p| p.vault.as_ref().is_some_and(|v| v.name.as_deref() == Some(name)))?;
        named.journal = self.cell(server).is_some_and(|c| c.reader.resolve(&PointSpec::Id(named.id)).is_ok());
        Some(named)
    }

    /// Why there is no such point; what the vault has is told, too.
    fn no_point(&self, e: &PointError, kept: &[PointInfo]) -> PortError {
        let error = errors::point(e);
        if self.vault.is_set()
            && let Err(away) = self.vault.open()
        {
            return error.hint(format!("points in the vault cannot be told now: {away}"));
        }
        match (e, kept.last()) {
            (PointError::BeforeWindow { .. }, Some(oldest)) => {
                PortError::new(ErrorCode::NotFound, format!("the oldest recovery point is {}", oldest.id))
                    .hint("choose that one or a later point: lifeboat points")
            }
            _ => error,
        }
    }

    /// The disks of a point, read-only, from the journal or from the vault. Blocks.
    ///
    /// # Errors
    /// Where it is nowhere, and why it cannot be read now.
    pub fn open_disks(&self, server: ServerId, point: PointId) -> Result<Disks, PortError> {
        let cell = self.cell_of(server);
        let nearest = match &cell {
            Ok(cell) if cell.reader.resolve(&PointSpec::Id(point)).is_ok() => {
                let open = |d: &lifeboat_journal::DiskInfo| {
                    let device = cell.reader.open_point(point, d.disk).map_err(|e| errors::point(&e))?;
                    device.ready().map_err(|e| unreadable(&e))?;
                    Ok((d.disk.0, Arc::new(device) as Arc<dyn BlockDevice>))
                };
                let disks = cell.reader.disks_at(point).map_err(|e| errors::point(&e))?;
                disks.iter().map(open).collect::<Result<Disks, PortError>>()
            }
            Ok(cell) => {
                let why = cell
                    .reader
                    .resolve(&PointSpec::Id(point))
                    .err()
                    .unwrap_or(PointError::Unknown { id: point });
                Err(errors::point(&why))
            }
            Err(e) => Err(e.clone()),
        };
        // Damage in the journal takes nothing from what is in the vault.
        let failed = match nearest {
            Ok(disks) => return Ok(disks),
            Err(e) => e,
        };
        let Ok(vault) = self.vault.open() else { return Err(failed) };
        let Some(snapshot) = self.vault.snapshot_of(&vault, server, point) else { return Err(failed) };
        let open = |d: &lifeboat_vault::DiskRoot| {
            let device = self.vault.disk_of(snapshot.id, d.disk).map_err(|e| vault_error(&e))?;
            Ok((d.disk.0, device as Arc<dyn BlockDevice>))
        };
        snapshot.body.disks.iter().map(open).collect()
    }

    /// One disk of a point.
    ///
    /// # Errors
    /// As [`open_disks`](Self::open_disks).
    pub fn open_disk(
        &self,
        server: ServerId,
        point: PointId,
        disk: DiskId,
    ) -> Result<Arc<dyn BlockDevice>, PortError> {
        let disks = self.open_disks(server, point)?;
        let found = disks.into_iter().find(|(n, _)| *n == disk.0);
        found.map(|(_, device)| device).ok_or_else(|| errors::point(&PointError::UnknownDisk { disk }))
    }
}

/// A point's disk that cannot be read, in the API's words.
pub(crate) fn unreadable(e: &lifeboat_block::BlockError) -> PortError {
    let code = match e {
        lifeboat_block::BlockError::Corrupt(_) => ErrorCode::Corrupt,
        _ => ErrorCode::Unavailable,
    };
    PortError::new(code, format!("the point cannot be read now: {e}")).hint("see 'lifeboat vault status'")
}
