//! Waiting for sessions, or ending them.
//!
//! Invariant: afterwards each session that was announced when the waiting began has put its snapshot in place, or never
//! will: there is no session object any more, or its place is taken. No clock is asked; how long to wait is the caller's.

use super::Prune;
use crate::error::{StoreError, VaultError};
use crate::id::{ObjectName, SnapshotId};
use crate::keys::read_bounded;
use crate::object::ObjectType;
use crate::snapshot::{Owner, SessionWire, Snapshot, session_object};
use crate::store::Put;
use crate::vault::MAX_OBJECT;
use lifeboat_base::WallTime;
use prost::Message;
use std::ops::ControlFlow;

/// A session that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub session: SnapshotId,
    pub owner: Owner,
    /// By the clock of who began it.
    pub begun: WallTime,
    pub writer: Writer,
    /// How often was asked about it already.
    pub asked: u32,
}

/// Who makes a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// This process: it is under way.
    Here,
    /// An earlier process with this local index, of which there is one at a time: it has ended.
    Gone,
    /// Somebody else, of whom nothing is known.
    Other,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Look again. Who answers so has waited.
    Wait,
    /// End it: it will not make its snapshot, and has to begin anew.
    Fence,
    /// End the prune instead; nothing is deleted.
    GiveUp,
}

struct Announced {
    waiting: Waiting,
    object: ObjectName,
    /// Where its snapshot would be.
    place: ObjectName,
}

impl Prune<'_> {
    /// Gives the session for whose sake the prune ends, if there is one.
    pub(super) fn outlast_sessions(
        &self,
        patience: &dyn Fn(&Waiting) -> Patience,
    ) -> Result<Option<Waiting>, VaultError> {
        let mut open = self.announced()?;
        let total = open.len() as u64;
        loop {
            let mut left = Vec::new();
            for session in open {
                if !self.is_over(&session)? {
                    left.push(session);
                }
            }
            open = left;
            self.watch("waiting for writers", total - open.len() as u64, total)?;
            if open.is_empty() {
                return Ok(None);
            }
            for session in &mut open {
                match patience(&session.waiting) {
                    Patience::Wait => session.waiting.asked += 1,
                    Patience::Fence => self.end(session)?,
                    Patience::GiveUp => return Ok(Some(session.waiting.clone())),
                }
            }
        }
    }

    fn announced(&self) -> Result<Vec<Announced>, VaultError> {
        let mut names = Vec::new();
        self.vault.store().list("sessions/", &mut |o| {
            names.push(o.name);
            ControlFlow::Continue(())
        })?;
        let mut open = Vec::new();
        for object in names {
            let id = object.as_str().strip_prefix("sessions/").and_then(SnapshotId::parse);
            let Some(id) = id else { continue };
            match self.read_session(id, object) {
                Ok(session) => open.extend(session),
                Err(e @ VaultError::Damaged { .. }) => {
                    return Err(VaultError::Refused {
                        why: format!(
                            "{e}. Whose session it is is not known, so nothing is deleted before 'lifeboat vault repair' has brought it back from another copy, or that object was removed by hand after all writers have ended"
                        ),
                        until: None,
                    });
                }
                Err(e) => return Err(e),
            }
        }
        Ok(open)
    }

    fn read_session(&self, id: SnapshotId, object: ObjectName) -> Result<Option<Announced>, VaultError> {
        let v = self.vault;
        if matches!(v.store().size(&object), Err(StoreError::NotFound(_))) {
            return Ok(None);
        }
        let sealed = match read_bounded(&**v.store(), &object, MAX_OBJECT) {
            Ok(sealed) => sealed,
            // It ended between the two questions.
            Err(_) if matches!(v.store().size(&object), Err(StoreError::NotFound(_))) => return Ok(None),
            Err(e) => return Err(e),
        };
        let damaged = || VaultError::damaged(&object, "it announces no session");
        let (ObjectType::Session, text) = v.open_bytes(&object, &sealed)? else { return Err(damaged()) };
        let wire = SessionWire::decode(text.as_slice()).map_err(|_| damaged())?;
        let owner = Owner::from_wire(wire.owner_kind, &wire.owner).ok_or_else(damaged)?;
        let place = Snapshot::object(&owner, &id, &v.keys().id)?;
        debug_assert_eq!(session_object(&id).ok().as_ref(), Some(&object));
        let writer = match v.shared.writing.lock().contains_key(&id) {
            true => Writer::Here,
            false if wire.writer == v.index().writer()? => Writer::Gone,
            false => Writer::Other,
        };
        let waiting = Waiting { session: id, owner, begun: WallTime(wire.begun), writer, asked: 0 };
        Ok(Some(Announced { waiting, object, place }))
    }

    fn is_over(&self, session: &Announced) -> Result<bool, VaultError> {
        let there = |name: &ObjectName| match self.vault.store().size(name) {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(e) => Err(e),
        };
        if !there(&session.object)? {
            return Ok(true);
        }
        if !there(&session.place)? {
            return Ok(false);
        }
        // It put its snapshot in place, or somebody ended it; what announced it was left behind.
        self.vault.store().delete(&session.object)?;
        Ok(true)
    }

    /// Puts a tombstone where its snapshot would be, unless that is there.
    fn end(&self, session: &Announced) -> Result<(), VaultError> {
        match self.vault.put_object(&session.place, ObjectType::Tombstone, &[])? {
            Put::Created => tracing::info!("the session {} was ended by a prune", session.waiting.session),
            Put::Exists => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
