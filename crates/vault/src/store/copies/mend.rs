//! Brings copies what they lack, and takes away what is damaged where another copy is good.

use super::{Copies, SMALL, SURVEY, listed, most};
use crate::error::StoreError;
use crate::id::ObjectName;
use crate::store::{Mended, Put, RepairStep, Repaired};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Objects that a copy seems to lack and that are asked for again before that is believed.
const ASK_AGAIN: usize = 256;

/// What the copies say an object's size is; `None` where one lacks it.
type Sizes = Vec<Option<u64>>;

impl Copies {
    /// Every object of every copy, with its size in each. Notes what each lacks.
    ///
    /// # Errors
    /// When one copy does not answer: what it lacks is not known.
    pub(super) fn survey(&self) -> Result<BTreeMap<ObjectName, Sizes>, StoreError> {
        let mut all: BTreeMap<ObjectName, Sizes> = BTreeMap::new();
        let n = self.copies.len();
        for (copy, answer) in self.ask_all(SURVEY, |store| listed(store, "")).into_iter().enumerate() {
            for object in answer? {
                all.entry(object.name).or_insert_with(|| vec![None; n])[copy] = Some(object.size);
            }
        }
        for (n, copy) in self.copies.iter().enumerate() {
            let lacking: Vec<_> = all.iter().filter(|(_, sizes)| sizes[n].is_none()).collect();
            let counted = match lacking.len() {
                // What came or went between the listings is not lacking.
                few if few <= ASK_AGAIN => {
                    lacking.into_iter().filter(|(name, sizes)| self.is_lacking(name, sizes, n)).count()
                }
                many => many,
            };
            copy.set_lacking(counted as u64);
        }
        Ok(all)
    }

    /// Whether copy `n` lacks an object that another has, and nobody is bringing it there.
    fn is_lacking(&self, name: &ObjectName, sizes: &Sizes, n: usize) -> bool {
        let there = |copy: usize| match self.copies[copy].call(|store| store.size(name)) {
            Ok(_) => Some(true),
            Err(StoreError::NotFound(_)) => Some(false),
            Err(_) => None,
        };
        let had = sizes.iter().position(Option::is_some);
        !self.copies[n].is_writing(name)
            && there(n) != Some(true)
            && had.is_some_and(|m| there(m) != Some(false))
    }

    pub(super) fn mend_one(
        &self,
        name: &ObjectName,
        good: &dyn Fn(&ObjectName, &Bytes) -> bool,
    ) -> Result<Mended, StoreError> {
        let _held = self.mending.write();
        let values = self.values(name);
        let unasked = values.iter().filter(|v| v.is_err()).count() as u32;
        let (mut sound, mut bad, mut free) = (Vec::new(), Vec::new(), Vec::new());
        for (n, value) in values.into_iter().enumerate() {
            match value {
                Ok(Some(body)) if good(name, &body) => sound.push((n, body)),
                Ok(Some(_)) => bad.push(n),
                Ok(None) => free.push(n),
                Err(_) => {}
            }
        }
        let mut mended = Mended { good: sound.len() as u32, mended: 0, left: unasked, bytes: 0 };
        let won = most(&sound, self.quorum);
        // Sound and different: small ones are of writers of one name, of whom nobody won, and nobody can where no copy
        // has nothing. Large ones have one writer: whoever says they are sound did not look at all of them.
        let is_small = sound.iter().all(|(_, body)| body.len() < SMALL);
        let may_take = won.is_some() || (unasked == 0 && free.is_empty() && is_small);
        let Some(best) = won.clone().or_else(|| sound.first().map(|(_, body)| body.clone())) else {
            mended.left += bad.len() as u32;
            return Ok(mended);
        };
        let others: Vec<usize> = sound.iter().filter(|(_, b)| *b != best).map(|(n, _)| *n).collect();
        if !is_small && won.is_none() && !others.is_empty() {
            mended.left += (bad.len() + free.len()) as u32;
            return Ok(mended);
        }
        mended.good -= others.len() as u32;
        let replaced = bad.into_iter().chain(others.into_iter().filter(|_| may_take));
        let steps: Vec<(usize, bool)> =
            free.into_iter().map(|n| (n, false)).chain(replaced.map(|n| (n, true))).collect();
        for (n, is_there) in steps {
            match self.bring(n, name, &best, is_there) {
                Ok(()) => mended.mended += 1,
                Err(e) => {
                    tracing::warn!(copy = %self.copies[n].describe(), object = %name, error = %e, "not mended");
                    mended.left += 1;
                }
            }
        }
        mended.bytes = u64::from(mended.mended) * best.len() as u64;
        Ok(mended)
    }

    fn bring(&self, n: usize, name: &ObjectName, body: &Bytes, is_there: bool) -> Result<(), StoreError> {
        let copy = &self.copies[n];
        if is_there {
            copy.call(|store| store.delete(name))?;
        }
        match copy.call(|store| store.put_new(name, body.clone()))? {
            Put::Created => Ok(()),
            Put::Exists => Err(StoreError::Broken {
                store: copy.describe(),
                why: format!("{name} was written meanwhile"),
            }),
        }
    }

    /// Mends every object that a copy lacks, that differs in size, or that is small and may differ.
    pub(super) fn repair_all(
        &self,
        good: &dyn Fn(&ObjectName, &Bytes) -> bool,
        step: &mut dyn FnMut(RepairStep) -> ControlFlow<()>,
    ) -> Result<Repaired, StoreError> {
        let all = self.survey()?;
        let todo: Vec<&ObjectName> =
            all.iter().filter(|(_, sizes)| is_doubtful(sizes)).map(|(n, _)| n).collect();
        let mut repaired = Repaired::default();
        for (n, name) in todo.iter().enumerate() {
            let mended = self.mend_one(name, good)?;
            repaired.copied += u64::from(mended.mended);
            repaired.bytes += mended.bytes;
            if mended.left > 0 {
                repaired.left.push((*name).clone());
            }
            let done = RepairStep { done: n as u64 + 1, total: todo.len() as u64, bytes: repaired.bytes };
            if step(done).is_break() {
                return Ok(repaired);
            }
        }
        self.survey()?;
        Ok(repaired)
    }
}

fn is_doubtful(sizes: &Sizes) -> bool {
    let first = sizes.first().copied().flatten();
    first.is_none_or(|size| size < SMALL as u64) || sizes.iter().any(|size| *size != first)
}
