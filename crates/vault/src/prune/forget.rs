//! Deleting a snapshot.
//!
//! Invariants: a snapshot that is locked or named is not deleted. Who deletes takes the snapshot's next hold first, by a
//! conditional put, and who names or locks takes the next hold, too: exactly one of them is first. What was begun is
//! finished by the next prune.

use crate::error::{StoreError, VaultError};
use crate::id::{ObjectName, SnapshotId};
use crate::object::ObjectType;
use crate::snapshot::{Hold, Snapshot, session_object};
use crate::store::Put;
use crate::vault::Vault;
use lifeboat_base::WallTime;
use std::ops::ControlFlow;

/// Tries to be first, against who names and releases all the time.
const TRIES: usize = 64;

impl Vault {
    /// Deletes a snapshot; one that is not there is no error. The space it took is freed by the next prune. `now` is the
    /// guarded time.
    ///
    /// # Errors
    /// `Refused`, with the date, for one that is locked; for one that is named; what the store says, and then it may be
    /// deleted or not.
    pub fn forget(&self, id: &SnapshotId, now: WallTime) -> Result<(), VaultError> {
        self.forget_unless(id, now, &|_| None)
    }

    /// As [`forget`](Self::forget), unless there is a reason to keep it once everybody sees that it is being deleted: who
    /// looks whether it is, after making known that it is used, is never crossed. Then the next prune goes on.
    pub(super) fn forget_unless(
        &self,
        id: &SnapshotId,
        now: WallTime,
        kept: &dyn Fn(&Snapshot) -> Option<String>,
    ) -> Result<(), VaultError> {
        let Some(snapshot) = self.snapshot(id) else { return Ok(()) };
        let refuse = || kept(&snapshot).map_or(Ok(()), |why| Err(VaultError::Refused { why, until: None }));
        if !self.hold(id).forgotten {
            refuse()?;
        }
        self.begin_to_forget(&snapshot, now)?;
        refuse()?;
        self.remove_snapshot(&snapshot)
    }

    fn begin_to_forget(&self, snapshot: &Snapshot, now: WallTime) -> Result<(), VaultError> {
        for _ in 0..TRIES {
            let (number, hold) = self.newest_hold(&snapshot.id)?;
            if hold.forgotten {
                return Ok(());
            }
            let locked = hold.locked_until.max(snapshot.body.locked_until);
            if let Some(until) = locked.filter(|&until| until > now) {
                return Err(VaultError::Refused {
                    why: format!("it is locked until {until}; nobody can delete it before"),
                    until: Some(until),
                });
            }
            if let Some(name) = &hold.name {
                return Err(VaultError::Refused {
                    why: format!("it is named '{name}'; release the name first"),
                    until: None,
                });
            }
            let mark = Hold { forgotten: true, ..Hold::default() };
            let name = Hold::object(&snapshot.id, number + 1)?;
            if self.put_object(&name, ObjectType::Hold, &mark.encode()?)? == Put::Created {
                self.shared.index.put_texts(&[(name.as_str().to_string(), mark.encode()?)])?;
                self.shared.state.write().note_hold(snapshot.id, number + 1, mark);
                return Ok(());
            }
        }
        Err(VaultError::Refused {
            why: "it is being named and released all the time; try again".into(),
            until: None,
        })
    }

    /// The newest hold as it is in the store now.
    fn newest_hold(&self, id: &SnapshotId) -> Result<(u32, Hold), VaultError> {
        let Some((number, name)) = self.holds_in_store(id)?.pop() else { return Ok((0, Hold::default())) };
        let text = self.open_object(&name, ObjectType::Hold)?;
        let hold = Hold::decode(&text).map_err(|why| VaultError::damaged(&name, why))?;
        Ok((number, hold))
    }

    /// All hold objects of a snapshot, by number.
    fn holds_in_store(&self, id: &SnapshotId) -> Result<Vec<(u32, ObjectName)>, VaultError> {
        let mut holds = Vec::new();
        self.shared.store.list(&format!("holds/{id}/"), &mut |o| {
            if let Some((_, number)) = Hold::of_object(&o.name) {
                holds.push((number, o.name));
            }
            ControlFlow::Continue(())
        })?;
        holds.sort();
        Ok(holds)
    }

    fn remove_snapshot(&self, snapshot: &Snapshot) -> Result<(), VaultError> {
        let s = &*self.shared;
        let name = Snapshot::object(&snapshot.owner, &snapshot.id, &s.keys.read().0.id)?;
        s.store.delete(&session_object(&snapshot.id)?)?;
        s.store.delete(&name).map_err(|e| match e {
            StoreError::Locked { until, .. } => {
                let date = until.map(|t| format!(" until {t}")).unwrap_or_default();
                VaultError::Refused { why: format!("{} keeps it locked{date}", s.store.describe()), until }
            }
            e => e.into(),
        })?;
        s.index.remove_text(name.as_str())?;
        s.state.write().snapshots.remove(&snapshot.id);
        self.remove_holds(&snapshot.id)
    }

    /// The mark of deletion goes last: as long as it is there, nobody can name or lock.
    pub(super) fn remove_holds(&self, id: &SnapshotId) -> Result<(), VaultError> {
        let s = &*self.shared;
        for (_, name) in self.holds_in_store(id)? {
            s.store.delete(&name)?;
            s.index.remove_text(name.as_str())?;
        }
        s.state.write().holds.remove(id);
        Ok(())
    }
}
