//! Names and locks of a server's points, and what may be deleted.
//!
//! Invariant: what is locked or named is never deleted with its server; a point that is held is in the vault.

use super::tier::Tier;
use super::{SiteVault, TierError, vault_error};
use crate::{Site, errors};
use lifeboat_api::port::PortError;
use lifeboat_api::types::{ErrorCode, HoldRequest, PointInfo};
use lifeboat_base::limits::MAX_NAME;
use lifeboat_base::point::PointSpec;
use lifeboat_base::{PointId, ServerId};
use lifeboat_vault::{Hold, Owner, Snapshot, Vault};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest lock, in seconds: 100 years.
const MAX_LOCK: u64 = 36_525 * 86_400;
/// How often a point is begun anew that a pruner ended.
const ATTEMPTS: usize = 3;

pub(crate) fn tier_error(e: &TierError) -> PortError {
    match e {
        TierError::Vault(e) => vault_error(e),
        TierError::Point(e) => errors::point(e),
        TierError::Journal(e) => errors::journal(e),
        TierError::Content(_) => PortError::new(ErrorCode::Corrupt, e.to_string()),
    }
}

impl Site {
    /// See [`VaultPort::hold_point`](lifeboat_api::port::VaultPort::hold_point). Blocks.
    pub(crate) fn hold_point(
        &self,
        server: ServerId,
        point: PointId,
        request: &HoldRequest,
    ) -> Result<PointInfo, PortError> {
        let vault = self.vault.open()?;
        self.check_hold(&vault, server, point, request)?;
        let snapshot = match self.vault.snapshot_of(&vault, server, point) {
            Some(snapshot) => snapshot,
            None => self.keep_point(&vault, server, point)?,
        };
        let lock = request.lock_seconds.map(|s| self.vault.now().saturating_add(Duration::from_secs(s)));
        let change = |old: &Hold| Hold {
            name: if request.release { None } else { request.name.clone().or_else(|| old.name.clone()) },
            locked_until: lock.max(old.locked_until).max(snapshot.body.locked_until),
            ..Hold::default()
        };
        vault.change_hold(&snapshot.id, change).map_err(|e| vault_error(&e))?;
        self.find_point(server, &PointSpec::Id(point))
    }

    fn check_hold(
        &self,
        vault: &Vault,
        server: ServerId,
        point: PointId,
        request: &HoldRequest,
    ) -> Result<(), PortError> {
        let invalid = |text: String| Err(PortError::new(ErrorCode::Invalid, text));
        if request.name.is_some() && request.release {
            return invalid("a name is given or released, not both".into());
        }
        if request.lock_seconds.is_some_and(|s| s == 0 || s > MAX_LOCK) {
            return invalid(format!("a lock lasts 1 to {MAX_LOCK} seconds"));
        }
        let Some(name) = &request.name else { return Ok(()) };
        if name.is_empty() || name.len() > MAX_NAME {
            return invalid(format!("a name is 1 to {MAX_NAME} bytes long"));
        }
        let other = self.vault.named(vault, server, name).filter(|s| s.body.point != Some(point));
        match other.and_then(|s| s.body.point) {
            Some(other) => {
                Err(PortError::new(ErrorCode::Conflict, format!("point {other} has the name '{name}'"))
                    .hint("release it there first, or choose another name"))
            }
            None => Ok(()),
        }
    }

    /// Puts a point the journal has into the vault.
    fn keep_point(
        &self,
        vault: &Vault,
        server: ServerId,
        point: PointId,
    ) -> Result<Arc<Snapshot>, PortError> {
        let cell = self.cell_of(server)?;
        let spec = cell.spec.read().clone();
        let info = cell.reader.resolve(&PointSpec::Id(point)).map_err(|e| errors::point(&e))?;
        let _putting = cell.into_vault.read();
        if cell.going.load(Ordering::Acquire) {
            return Err(PortError::new(ErrorCode::NotFound, "this server is being deleted"));
        }
        let pace = self.tier_pace(&cell);
        let tier = Tier { vault, server, reader: &cell.reader, pace: &pace };
        let now = self.vault.now();
        let made = if self.vault.clock_report().is_some() { now } else { info.site_time.min(now) };
        for _ in 1..ATTEMPTS {
            match self.put_point(&tier, &spec, &info, made) {
                Err(TierError::Vault(lifeboat_vault::VaultError::Fenced(why))) => {
                    tracing::info!(server = spec.name, "{why}: the point is put into the vault again");
                }
                other => return other.map_err(|e| tier_error(&e)),
            }
        }
        self.put_point(&tier, &spec, &info, made).map_err(|e| tier_error(&e))
    }

    /// See [`VaultPort::may_forget`](lifeboat_api::port::VaultPort::may_forget).
    pub(crate) fn may_forget(&self, server: ServerId) -> Result<(), PortError> {
        let vault = self.vault.open()?;
        let now = self.vault.now();
        let all = vault.snapshots_of(&Owner::Server(server));
        let locked = all.iter().filter_map(|s| Some((vault.locked_until(s)?, s.body.point?)));
        if let Some((until, point)) = locked.filter(|(until, _)| *until > now).max() {
            let text = format!("point {point} of it is locked until {until}; nobody can delete it before");
            return Err(PortError::new(ErrorCode::Conflict, text));
        }
        let named = all.iter().find_map(|s| Some((vault.hold(&s.id).name?, s.body.point?)));
        if let Some((name, point)) = named {
            let text = format!("point {point} of it has the name '{name}'");
            return Err(PortError::new(ErrorCode::Conflict, text)
                .hint(format!("release it first: lifeboat hold SERVER {point} --release")));
        }
        Ok(())
    }

    /// Deletes all the vault keeps of a server. Blocks.
    ///
    /// # Errors
    /// What is locked or named, or that the vault cannot be asked; what went until then stays gone.
    pub(crate) fn forget_points(&self, server: ServerId) -> Result<(), PortError> {
        if !self.vault.is_set() {
            return Ok(());
        }
        self.vault.standing.lock().remove(&server);
        self.may_forget(server)?;
        let vault = self.vault.open()?;
        let now = self.vault.now();
        for owner in [Owner::Server(server), Owner::Base(server)] {
            for snapshot in vault.snapshots_of(&owner) {
                vault.forget(&snapshot.id, now).map_err(|e| vault_error(&e))?;
            }
        }
        Ok(())
    }
}

impl SiteVault {
    /// The point a person gave this name.
    pub(crate) fn named(&self, vault: &Vault, server: ServerId, name: &str) -> Option<Arc<Snapshot>> {
        let all = vault.snapshots_of(&Owner::Server(server));
        all.into_iter().find(|s| vault.hold(&s.id).name.as_deref() == Some(name))
    }
}
