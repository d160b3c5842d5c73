//! Where the vault's objects are: one flat space of names, each written once.
//!
//! Invariants every store keeps:
//! - an object is seen whole or not at all; once [`put_new`](Store::put_new) returned it outlasts a power cut;
//! - of two writers of one name exactly one is told [`Put::Created`]. A writer whose answer was lost and who asks again
//!   with the same bytes is told `Created`, too;
//! - nothing is ever changed; only [`delete`](Store::delete) ends an object.

pub mod copies;
pub mod dir;
pub mod memory;
pub mod probe;
pub mod s3;

pub use copies::Copies;
pub use dir::DirStore;
pub use memory::MemoryStore;
pub use s3::S3Store;

use crate::error::StoreError;
use crate::id::ObjectName;
use bytes::Bytes;
use lifeboat_base::WallTime;
use std::ops::{ControlFlow, Range};

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object holds these bytes.
    Created,
    /// The name was taken, by other bytes. Nothing was changed.
    Exists,
}

/// Which bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    All,
    Range {
        offset: u64,
        len: u64,
    },
    /// The last so many bytes, or all where it is shorter.
    Tail(u64),
}

impl Part {
    /// Which bytes of an object of `size` bytes that is.
    pub fn within(self, size: u64) -> Range<u64> {
        match self {
            Self::All => 0..size,
            Self::Range { offset, len } => offset.min(size)..offset.saturating_add(len).min(size),
            Self::Tail(len) => size.saturating_sub(len)..size,
        }
    }
}

/// An object, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub name: ObjectName,
    /// In bytes.
    pub size: u64,
}

/// Where an object is locked.
#[derive(Debug, Clone)]
pub enum Locked {
    /// In every copy that has locks.
    Everywhere,
    /// In some of them; why not in the others.
    Partly(StoreError),
}

/// How a copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What people call it.
    pub store: String,
    pub reachable: bool,
    /// Why not.
    pub error: Option<String>,
    /// Objects it lacks, as far as known.
    pub lacking: u64,
    /// Objects can be locked there.
    pub locks: bool,
}

/// What became of the copies of one object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mended {
    /// Were good.
    pub good: u32,
    /// Are good now, and were not.
    pub mended: u32,
    /// Are not, or did not answer.
    pub left: u32,
    /// Written for it.
    pub bytes: u64,
}

/// How far a repair of the copies is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairStep {
    /// Objects.
    pub done: u64,
    pub total: u64,
    /// Written so far.
    pub bytes: u64,
}

/// What a repair of the copies did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Objects written to a copy.
    pub copied: u64,
    pub bytes: u64,
    /// Objects not every copy has, still.
    pub left: Vec<ObjectName>,
}

/// A place for objects. Calls block and may be made from many threads at once.
pub trait Store: Send + Sync {
    /// What people call it, without secrets.
    fn describe(&self) -> String;

    /// Whether objects can be locked against everybody (S3 Object Lock): of several copies, in at least one.
    ///
    /// # Errors
    /// It cannot be told now: the store does not answer, or does not allow the question.
    fn has_locks(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Makes an object.
    ///
    /// # Errors
    /// Afterwards it is there whole, or not at all.
    fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<Put, StoreError>;

    /// Bytes of an object. A range that ends beyond the object is cut there.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and what the store reports.
    fn get(&self, name: &ObjectName, part: Part) -> Result<Bytes, StoreError>;

    /// In bytes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and what the store reports.
    fn size(&self, name: &ObjectName) -> Result<u64, StoreError>;

    /// Gives every object whose name begins with `prefix` to `found`, in no order, until it breaks. Objects made or
    /// deleted meanwhile may or may not be among them; every other one is, once.
    ///
    /// # Errors
    /// What the store reports.
    fn list(
        &self,
        prefix: &str,
        found: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Deletes an object; one that is not there is no error.
    ///
    /// # Errors
    /// [`StoreError::Locked`] and what the store reports.
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError>;

    /// Locks an object against deletion by anybody until `until`, in every copy that has locks; never makes a lock shorter.
    ///
    /// # Errors
    /// It is locked nowhere: [`StoreError::Denied`] where there are no [locks](Self::has_locks).
    fn lock(&self, _name: &ObjectName, _until: WallTime) -> Result<Locked, StoreError> {
        Err(StoreError::Denied { store: self.describe(), why: "it has no object lock".into() })
    }

    /// Takes away what interrupted writes left behind, and says how many. Never touches an object, or a write that
    /// may still be under way.
    ///
    /// # Errors
    /// What the store reports.
    fn reap(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// How many copies of each object there are.
    fn copies(&self) -> usize {
        1
    }

    /// As [`get`](Self::get), of one copy, counted from 0: for who finds that what he got is damaged.
    ///
    /// # Errors
    /// As `get`.
    fn get_copy(&self, _copy: usize, name: &ObjectName, part: Part) -> Result<Bytes, StoreError> {
        self.get(name, part)
    }

    /// Makes all copies of an object what one is that `good` accepts: those that lack it or that are not good get it.
    ///
    /// # Errors
    /// What the store reports. A copy that cannot be mended is counted, and no error.
    fn mend(
        &self,
        name: &ObjectName,
        good: &dyn Fn(&ObjectName, &Bytes) -> bool,
    ) -> Result<Mended, StoreError> {
        let is_good = match self.get(name, Part::All) {
            Ok(body) => good(name, &body),
            Err(StoreError::NotFound(_)) => false,
            Err(e) => return Err(e),
        };
        Ok(Mended { good: u32::from(is_good), left: u32::from(!is_good), ..Mended::default() })
    }

    /// Brings every copy the objects it lacks, after `good` accepted them. Tells each `step`, until that breaks.
    ///
    /// # Errors
    /// Where a copy does not answer.
    fn repair(
        &self,
        _good: &dyn Fn(&ObjectName, &Bytes) -> bool,
        _step: &mut dyn FnMut(RepairStep) -> ControlFlow<()>,
    ) -> Result<Repaired, StoreError> {
        Ok(Repaired::default())
    }

    /// Whether every object that was ever made and not deleted shows now in listings, and can be deleted: who is about to
    /// delete what nothing refers to must know.
    ///
    /// # Errors
    /// Why not, and what to do.
    fn whole(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Of each copy, asked now.
    fn health(&self) -> Vec<Health> {
        let error = self.list("vault", &mut |_| ControlFlow::Break(())).err().map(|e| e.to_string());
        let locks = error.is_none() && self.has_locks().unwrap_or(false);
        vec![Health { store: self.describe(), reachable: error.is_none(), error, lacking: 0, locks }]
    }
}

#[cfg(test)]
mod tests;
