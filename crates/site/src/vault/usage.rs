//! What the vault takes, by owner and by point.

use super::vault_error;
use crate::Site;
use crate::backup::Trees;
use lifeboat_api::port::PortError;
use lifeboat_api::types::{VaultPointUsage, VaultUsage, VaultUsageRow};
use lifeboat_vault::usage::{UsageRow, usage};
use lifeboat_vault::{Owner, Snapshot};

impl Site {
    fn owner_label(&self, owner: &Owner) -> String {
        let name = |id| self.specs.read().get(id).map_or_else(|| id.to_string(), |s| s.name.clone());
        match owner {
            Owner::Server(id) => name(id),
            Owner::Base(id) => format!("{} (journal)", name(id)),
            Owner::Set(set) => format!("backups of {set}"),
        }
    }

    fn usage_row(&self, row: &UsageRow) -> VaultUsageRow {
        let point = |s: &Snapshot| s.body.point.map_or_else(|| s.id.to_string(), |p| p.to_string());
        VaultUsageRow {
            owner: row.owner.as_ref().map_or_else(|| "all".into(), |o| self.owner_label(o)),
            points: row.snapshots,
            logical_bytes: row.logical,
            unique_bytes: row.unique,
            stored_bytes: row.stored,
            own_bytes: row.own,
            by_point: row
                .by_snapshot
                .iter()
                .map(|u| VaultPointUsage {
                    point: point(&u.snapshot),
                    logical_bytes: u.logical,
                    own_bytes: u.own,
                })
                .collect(),
        }
    }

    /// See [`VaultPort::usage`](lifeboat_api::port::VaultPort::usage). Blocks, as long as reading all maps takes.
    pub(crate) fn usage(&self, by_point: bool) -> Result<VaultUsage, PortError> {
        let vault = self.vault.open()?;
        let stop = self.shutdown.subscribe();
        let u = usage(&vault, &Trees, by_point, &|_, _, _| !*stop.borrow()).map_err(|e| vault_error(&e))?;
        Ok(VaultUsage {
            total: self.usage_row(&u.total),
            owners: u.owners.iter().map(|row| self.usage_row(row)).collect(),
            dedup_ratio: u.dedup_ratio(),
            compression_ratio: u.compression_ratio(),
            reclaimable_bytes: u.unreferenced,
        })
    }
}
