//! Finds out at set-up whether a place can hold a vault: each promise of a store is tried once, on objects of its own.

use super::{Part, Put, Store};
use crate::error::StoreError;
use crate::id::{ObjectName, hex};
use bytes::Bytes;
use lifeboat_base::Entropy;
use std::ops::ControlFlow;

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub what: &'static str,
    /// Why it is not as it must be.
    pub wrong: Option<String>,
}

/// Whether a place can hold a vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What people call the place.
    pub store: String,
    pub usable: bool,
    /// One sentence for people: what it can, or what is wrong and what to do.
    pub text: String,
    /// In the order they were tried; ends with the first that failed.
    pub steps: Vec<Step>,
    /// Objects can be locked there against everybody.
    pub locks: bool,
}

/// What is found to be wrong: the store's own error, or an answer that breaks a promise.
type Wrong = String;

type Try = fn(&Probe) -> Result<(), Wrong>;

struct Probe<'a> {
    store: &'a dyn Store,
    name: ObjectName,
    first: Bytes,
    second: Bytes,
}

/// Writes, reads, lists and deletes a small object below `probe/`.
pub fn probe(store: &dyn Store, entropy: &dyn Entropy) -> Verdict {
    let mut random = [0; 16];
    entropy.fill(&mut random);
    let text = hex(&random);
    let Some(name) = ObjectName::new(format!("probe/{text}")) else {
        return Verdict::new(store, Vec::new());
    };
    let first = Bytes::from(format!("first {text}"));
    let probe = Probe { store, name, first, second: Bytes::from(format!("other {text}")) };
    let mut steps = Vec::new();
    let all: [(&'static str, Try); 7] = [
        ("write an object", |p| p.write()),
        ("read it back", |p| p.read()),
        ("be refused a second write of its name", |p| p.refused()),
        ("repeat the first write", |p| p.repeated()),
        ("read a part and the end of it", |p| p.parts()),
        ("find it in a listing", |p| p.listed()),
        ("delete it", |p| p.deleted()),
    ];
    for (what, step) in all {
        let wrong = step(&probe).err();
        let failed = wrong.is_some();
        steps.push(Step { what, wrong });
        if failed {
            // Whatever became of it.
            let _ = store.delete(&probe.name);
            break;
        }
    }
    Verdict::new(store, steps)
}

impl Verdict {
    fn new(store: &dyn Store, steps: Vec<Step>) -> Self {
        let name = store.describe();
        let wrong = steps.iter().find_map(|s| s.wrong.as_ref().map(|why| (s.what, why)));
        let usable = wrong.is_none() && !steps.is_empty();
        let locks = usable && store.has_locks().unwrap_or(false);
        let text = match wrong {
            Some((what, why)) => format!("{name} cannot hold a vault: it must let Lifeboat {what}: {why}"),
            None if locks => format!("{name} can hold a vault, and locks objects against everybody"),
            None => format!("{name} can hold a vault; it has no locks of its own"),
        };
        Self { store: name, usable, text, steps, locks }
    }
}

fn told(e: StoreError) -> Wrong {
    e.to_string()
}

impl Probe<'_> {
    fn write(&self) -> Result<(), Wrong> {
        match self.store.put_new(&self.name, self.first.clone()).map_err(told)? {
            Put::Created => Ok(()),
            Put::Exists => Err("it says that a new name is taken".into()),
        }
    }

    fn read(&self) -> Result<(), Wrong> {
        self.holds_first("it gives back other bytes than were written")
    }

    fn holds_first(&self, otherwise: &str) -> Result<(), Wrong> {
        let there = self.store.get(&self.name, Part::All).map_err(told)?;
        if there == self.first { Ok(()) } else { Err(otherwise.into()) }
    }

    fn refused(&self) -> Result<(), Wrong> {
        let put = self.store.put_new(&self.name, self.second.clone()).map_err(told)?;
        if put == Put::Created {
            return Err("it accepts a second write of one name; take a service with conditional writes \
                        (If-None-Match), or a directory"
                .into());
        }
        self.holds_first("it refuses a second write of one name and does it all the same")
    }

    fn repeated(&self) -> Result<(), Wrong> {
        match self.store.put_new(&self.name, self.first.clone()).map_err(told)? {
            Put::Created => Ok(()),
            Put::Exists => Err("it takes a repeated write for somebody else's".into()),
        }
    }

    fn parts(&self) -> Result<(), Wrong> {
        let part = |part: Part| {
            let range = part.within(self.first.len() as u64);
            let there = self.store.get(&self.name, part).map_err(told)?;
            if there == self.first.slice(range.start as usize..range.end as usize) {
                return Ok(());
            }
            Err(format!("asked for {part:?} it gives other bytes"))
        };
        part(Part::Range { offset: 3, len: 5 })?;
        part(Part::Range { offset: 20, len: 1000 })?;
        part(Part::Tail(7))?;
        let size = self.store.size(&self.name).map_err(told)?;
        if size == self.first.len() as u64 { Ok(()) } else { Err(format!("it says it has {size} bytes")) }
    }

    fn is_listed(&self) -> Result<bool, Wrong> {
        let mut is_there = false;
        let mut found = |o: super::ObjectInfo| {
            is_there |= o.name == self.name && o.size == self.first.len() as u64;
            ControlFlow::Continue(())
        };
        self.store.list(self.name.as_str(), &mut found).map_err(told)?;
        Ok(is_there)
    }

    fn listed(&self) -> Result<(), Wrong> {
        if self.is_listed()? { Ok(()) } else { Err("it does not list what was just written".into()) }
    }

    fn deleted(&self) -> Result<(), Wrong> {
        self.store.delete(&self.name).map_err(told)?;
        match self.store.get(&self.name, Part::All) {
            Err(StoreError::NotFound(_)) => {}
            Err(e) => return Err(told(e)),
            Ok(_) => return Err("it still gives what was deleted".into()),
        }
        if self.is_listed()? { Err("it still lists what was deleted".into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
