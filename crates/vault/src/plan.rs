//! What a pruner announces before it deletes anything.
//!
//! Invariants: `prune/NNNNNNNN` is put once, by the pruner that has epoch N from then on; `prune/NNNNNNNN.plan` lists the
//! packs it may delete. A session that begins sees every plan there is, and makes no snapshot that relies on a pack in
//! one. Sealed objects (see `object`), the texts are protobuf messages.

use crate::error::{StoreError, VaultError};
use crate::id::{ObjectName, PackId};
use crate::object::ObjectType;
use crate::refresh::Refreshed;
use crate::store::Put;
use crate::vault::Vault;
use prost::Message;
use std::ops::ControlFlow;

/// Looks at plans that change while they are looked at.
const TRIES: usize = 16;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PlanWire {
    /// Ids of packs, 16 bytes each, one after the other.
    #[prost(bytes = "vec", tag = "1")]
    pub condemned: Vec<u8>,
}

/// The object by which a pruner takes an epoch.
pub(crate) fn epoch_object(epoch: u32) -> Result<ObjectName, VaultError> {
    ObjectName::new(format!("prune/{epoch:08}")).ok_or_else(|| VaultError::Invalid(format!("epoch {epoch}")))
}

/// The object that says what it is going to delete.
pub(crate) fn plan_object(epoch: u32) -> Result<ObjectName, VaultError> {
    ObjectName::new(format!("prune/{epoch:08}.plan"))
        .ok_or_else(|| VaultError::Invalid(format!("epoch {epoch}")))
}

/// Of which epoch the plan with this name is; `None` for anything else.
pub(crate) fn epoch_of(name: &ObjectName) -> Option<u32> {
    name.as_str().strip_prefix("prune/")?.strip_suffix(".plan")?.parse().ok()
}

pub(crate) fn encode_plan(condemned: &[PackId]) -> Vec<u8> {
    PlanWire { condemned: condemned.iter().flat_map(|p| p.0).collect() }.encode_to_vec()
}

pub(crate) fn decode_plan(text: &[u8]) -> Result<Vec<PackId>, &'static str> {
    let plan = PlanWire::decode(text).map_err(|_| "it is no plan")?;
    let (ids, rest) = plan.condemned.as_chunks::<16>();
    if rest.is_empty() {
        Ok(ids.iter().map(|id| PackId(*id)).collect())
    } else {
        Err("its list is cut short")
    }
}

/// What there is under `prune/`.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    /// The newest epoch anybody took.
    pub newest: u32,
    /// Epochs taken.
    claims: Vec<u32>,
    /// Epochs whose plans were published.
    plans: Vec<u32>,
}

impl Plans {
    /// The newest plan; 0 without any.
    pub fn newest_plan(&self) -> u32 {
        self.plans.iter().copied().max().unwrap_or(0)
    }

    /// All objects of epochs before this one.
    pub fn before(&self, epoch: u32) -> Vec<ObjectName> {
        let claims = self.claims.iter().filter(|&&e| e < epoch).map(|&e| epoch_object(e));
        let plans = self.plans.iter().filter(|&&e| e < epoch).map(|&e| plan_object(e));
        claims.chain(plans).filter_map(Result::ok).collect()
    }
}

impl Vault {
    pub(crate) fn list_plans(&self) -> Result<Plans, VaultError> {
        let mut found = Plans::default();
        self.shared.store.list("prune/", &mut |o| {
            let rest = o.name.as_str().strip_prefix("prune/").unwrap_or_default();
            let (number, list) = match rest.strip_suffix(".plan") {
                Some(number) => (number, &mut found.plans),
                None => (rest, &mut found.claims),
            };
            if let Ok(epoch) = number.parse::<u32>() {
                list.push(epoch);
                found.newest = found.newest.max(epoch);
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Looks at what pruners have announced. Afterwards no condemned pack counts as there. Gives the newest plan's epoch.
    ///
    /// # Errors
    /// `Damaged` for a plan that cannot be read; what the store says.
    pub(crate) fn see_pruner(&self) -> Result<u32, VaultError> {
        self.see_pruner_past(&mut Err)
    }

    /// As [`see_pruner`](Self::see_pruner); `damaged` says whether to go on past a plan that cannot be read. Who does may
    /// read what there is, and neither write nor delete: what that plan condemned counts as there.
    ///
    /// # Errors
    /// What `damaged` and the store say.
    pub(crate) fn see_pruner_past(
        &self,
        damaged: &mut dyn FnMut(VaultError) -> Result<(), VaultError>,
    ) -> Result<u32, VaultError> {
        for _ in 0..TRIES {
            let found = self.list_plans()?;
            if self.read_plans(&found, damaged)? {
                let newest = found.newest_plan();
                let mut state = self.shared.state.write();
                state.prune_epoch = state.prune_epoch.max(newest);
                return Ok(newest);
            }
        }
        Err(VaultError::Fenced("prunes follow each other too fast to be followed; try again".into()))
    }

    /// False when one was superseded meanwhile: what of it is still to go is in a newer one.
    fn read_plans(
        &self,
        found: &Plans,
        damaged: &mut dyn FnMut(VaultError) -> Result<(), VaultError>,
    ) -> Result<bool, VaultError> {
        for &epoch in &found.plans {
            let name = plan_object(epoch)?;
            if self.shared.state.read().plans.contains_key(&epoch) {
                continue;
            }
            let read = self.open_object(&name, ObjectType::Plan);
            let read =
                read.and_then(|text| decode_plan(&text).map_err(|why| VaultError::damaged(&name, why)));
            let packs = match read {
                Ok(packs) => packs,
                Err(_) if matches!(self.shared.store.size(&name), Err(StoreError::NotFound(_))) => {
                    return Ok(false);
                }
                Err(VaultError::Damaged { object, why }) => {
                    let why = format!("{why}; nothing goes into the vault before 'lifeboat vault repair'");
                    damaged(VaultError::Damaged { object, why })?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let mut state = self.shared.state.write();
            state.condemned.extend(packs.iter().copied());
            state.plans.insert(epoch, packs);
        }
        Ok(true)
    }

    /// Puts a plan that is damaged in place anew, as it was read before. Where it never was, it is taken away, and its
    /// pruner's epoch is over: what that had condemned and not deleted is judged again by the next prune. Whether there was
    /// anything to do.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn replace_plan(&self, name: &ObjectName) -> Result<bool, VaultError> {
        let Some(epoch) = epoch_of(name).filter(|_| self.shared.store.size(name).is_ok()) else {
            return Ok(false);
        };
        let known = self.shared.state.read().plans.get(&epoch).cloned();
        if known.is_none() {
            self.next_epoch()?;
        }
        self.shared.store.delete(name)?;
        if let Some(packs) = known {
            self.put_object(name, ObjectType::Plan, &encode_plan(&packs))?;
        }
        Ok(true)
    }

    /// Takes the next pruner's epoch; whoever has an earlier one deletes nothing more.
    ///
    /// # Errors
    /// `Fenced` where others take them all the time; what the store says.
    pub(crate) fn next_epoch(&self) -> Result<u32, VaultError> {
        for _ in 0..TRIES {
            let epoch = self.list_plans()?.newest + 1;
            // Sealed with a salt of its own, so no two pruners put the same bytes.
            if self.put_object(&epoch_object(epoch)?, ObjectType::Epoch, &[])? == Put::Created {
                return Ok(epoch);
            }
        }
        Err(VaultError::Fenced("others take the pruner's epoch all the time".into()))
    }

    /// What a session does once it is announced: sees the plans, and where packs may have gone by a plan that is not there
    /// any more, looks which packs are.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn catch_up_with_pruners(&self) -> Result<u32, VaultError> {
        let newest = self.see_pruner()?;
        if newest > self.shared.state.read().refreshed {
            self.refresh_packs(&|_, _| {}, &mut Refreshed::default())?;
            self.refreshed_at(newest);
        }
        Ok(newest)
    }

    /// Packs were listed after the plans up to this one had been seen.
    pub(crate) fn refreshed_at(&self, epoch: u32) {
        let mut state = self.shared.state.write();
        state.refreshed = state.refreshed.max(epoch);
    }

    /// The plan of `epoch` was carried out but for what is `left`, and took over what plans before it were going to delete.
    /// Plans of later epochs stand: their pruners may be at it, and sessions under way here have been seen by none of them.
    pub(crate) fn plan_is_done(&self, epoch: u32, left: Vec<PackId>) {
        let mut state = self.shared.state.write();
        state.plans.retain(|&other, _| other > epoch);
        state.plans.insert(epoch, left);
        state.condemned = state.plans.values().flatten().chain(&state.distrusted).copied().collect();
    }

    /// What only these packs have does not count as there any more: sessions store it again, and the next prune empties
    /// them.
    pub(crate) fn distrust(&self, packs: impl Iterator<Item = PackId>) {
        let mut state = self.shared.state.write();
        for pack in packs {
            state.distrusted.insert(pack);
            state.condemned.insert(pack);
        }
    }
}
