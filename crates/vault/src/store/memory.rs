//! A store in memory whose failures are told to it: for tests and for the simulated world.
//!
//! It keeps every promise of [`Store`] unless a fault says otherwise. Each call has a number, counted from 1, so a test can
//! fail the first, the second, ... until a run comes through clean. What was put outlasts [`cut`](MemoryStore::cut), as
//! it outlasts a power cut in a real store; a call the cut meets did happen or did not.

use super::{Locked, ObjectInfo, Part, Put, Store};
use crate::error::StoreError;
use crate::id::ObjectName;
use bytes::Bytes;
use lifeboat_base::{Clock, Entropy, SeededEntropy, WallTime};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Which method was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Put,
    Get,
    Size,
    List,
    Delete,
    Lock,
}

/// One call, in the order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Counted from 1.
    pub number: u64,
    pub method: Method,
    /// The object, or the prefix of a listing.
    pub name: String,
}

/// What is to go wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing happened.
    Before,
    /// It happened, and its reply is lost.
    LostReply,
    /// Nothing happened, and no later call is answered until [`MemoryStore::restore`].
    CutBefore,
    /// It happened, the reply is lost, and no later call is answered until [`MemoryStore::restore`].
    CutAfter,
    /// It is refused for want of space.
    NoSpace,
    /// It is refused by policy.
    Denied,
}

type Hook = Arc<dyn Fn(&Call) + Send + Sync>;

struct Object {
    body: Bytes,
    locked_until: Option<WallTime>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<ObjectName, Object>,
    used: u64,
    room: Option<u64>,
    calls: u64,
    log: Option<Vec<Call>>,
    faults: BTreeMap<u64, Fault>,
    flaky: Option<(SeededEntropy, u16)>,
    cut: bool,
    unlisted: HashSet<ObjectName>,
    hide_fresh: bool,
    hook: Option<Hook>,
}

/// Objects in memory, with faults on demand.
pub struct MemoryStore {
    name: String,
    clock: Option<Arc<dyn Clock>>,
    state: Mutex<State>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new("memory")
    }
}

impl MemoryStore {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), clock: None, state: Mutex::default() }
    }

    /// One that can lock objects, by this clock.
    pub fn with_locks(name: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..Self::new(name) }
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Keeps a log of the calls from now on.
    pub fn keep_log(&self) {
        self.state.lock().log = Some(Vec::new());
    }

    /// The log so far; empty where none is kept.
    pub fn log(&self) -> Vec<Call> {
        self.state.lock().log.clone().unwrap_or_default()
    }

    /// Faults the call with this number (see [`calls`](Self::calls)).
    pub fn fail(&self, call: u64, fault: Fault) {
        self.state.lock().faults.insert(call, fault);
    }

    /// Faults so many of a thousand calls from now on, before or after they took effect, as the seed says. 0 ends it.
    pub fn flaky(&self, seed: u64, per_mille: u16) {
        self.state.lock().flaky = (per_mille > 0).then(|| (SeededEntropy::new(seed), per_mille));
    }

    /// No call is answered from now on.
    pub fn cut(&self) {
        self.state.lock().cut = true;
    }

    /// Ends a cut and forgets every fault that is still to come.
    pub fn restore(&self) {
        let mut state = self.state.lock();
        state.cut = false;
        state.faults.clear();
        state.flaky = None;
    }

    /// Refuses puts that would make it hold more than so many bytes; `None` for no limit.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.state.lock().room = bytes;
    }

    /// While set, listings miss what is made from now on: a store that breaks its promise.
    pub fn hide_fresh(&self, hide: bool) {
        let mut state = self.state.lock();
        state.hide_fresh = hide;
        state.unlisted.clear();
    }

    /// Calls `hook` with each call before anything happens, outside of all locks: it may block (a stalled upload) or use
    /// the store itself.
    pub fn on_call(&self, hook: impl Fn(&Call) + Send + Sync + 'static) {
        self.state.lock().hook = Some(Arc::new(hook));
    }

    pub fn no_hook(&self) {
        self.state.lock().hook = None;
    }

    /// Names of all objects, without a call.
    pub fn names(&self) -> Vec<ObjectName> {
        self.state.lock().objects.keys().cloned().collect()
    }

    /// Bytes it holds, without a call.
    pub fn used(&self) -> u64 {
        self.state.lock().used
    }

    /// An object's bytes, without a call.
    pub fn peek(&self, name: &ObjectName) -> Option<Bytes> {
        self.state.lock().objects.get(name).map(|o| o.body.clone())
    }

    /// Puts bytes in place of an object, whatever was there, without a call: what an intruder or rot does.
    pub fn overwrite(&self, name: &ObjectName, body: impl Into<Bytes>) {
        let body = body.into();
        let mut state = self.state.lock();
        state.used += body.len() as u64;
        if let Some(old) = state.objects.insert(name.clone(), Object { body, locked_until: None }) {
            state.used -= old.body.len() as u64;
        }
    }

    /// Flips one bit of an object, counted from its first byte's lowest. False where there is no such bit.
    pub fn damage(&self, name: &ObjectName, bit: u64) -> bool {
        let Some(body) = self.peek(name) else { return false };
        let mut body = body.to_vec();
        let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| body.get_mut(at)) else { return false };
        *byte ^= 1 << (bit % 8);
        self.overwrite(name, body);
        true
    }

    /// Keeps the first `len` bytes of an object.
    pub fn truncate(&self, name: &ObjectName, len: usize) -> bool {
        let Some(body) = self.peek(name) else { return false };
        self.overwrite(name, body.slice(..len.min(body.len())));
        true
    }

    /// Gives two objects each other's bytes. False where one is not there.
    pub fn swap(&self, a: &ObjectName, b: &ObjectName) -> bool {
        let (Some(of_a), Some(of_b)) = (self.peek(a), self.peek(b)) else { return false };
        self.overwrite(a, of_b);
        self.overwrite(b, of_a);
        true
    }

    /// Takes an object away, locked or not, without a call.
    pub fn remove(&self, name: &ObjectName) -> bool {
        let mut state = self.state.lock();
        let Some(old) = state.objects.remove(name) else { return false };
        state.used -= old.body.len() as u64;
        true
    }

    /// Another store with the same objects and no faults.
    pub fn fork(&self) -> Self {
        let state = self.state.lock();
        let object = |(name, o): (&ObjectName, &Object)| {
            (name.clone(), Object { body: o.body.clone(), locked_until: o.locked_until })
        };
        let objects = state.objects.iter().map(object).collect();
        let copy = State { objects, used: state.used, room: state.room, ..State::default() };
        Self { name: self.name.clone(), clock: self.clock.clone(), state: Mutex::new(copy) }
    }

    fn unreachable(&self, why: &str) -> StoreError {
        StoreError::Unreachable { store: self.name.clone(), why: why.into() }
    }

    /// Counts and logs the call, and says what is to go wrong with it.
    fn arrive(&self, method: Method, name: &str) -> Option<Fault> {
        let (call, hook) = {
            let mut state = self.state.lock();
            state.calls += 1;
            let call = Call { number: state.calls, method, name: name.to_string() };
            if let Some(log) = &mut state.log {
                log.push(call.clone());
            }
            (call, state.hook.clone())
        };
        if let Some(hook) = hook {
            hook(&call);
        }
        let mut state = self.state.lock();
        if state.cut {
            return Some(Fault::CutBefore);
        }
        if let Some(fault) = state.faults.remove(&call.number) {
            return Some(fault);
        }
        let (entropy, per_mille) = state.flaky.as_ref()?;
        let roll = entropy.next_u64();
        let fault = if roll & (1 << 40) == 0 { Fault::Before } else { Fault::LostReply };
        (roll % 1000 < u64::from(*per_mille)).then_some(fault)
    }

    /// Runs a call's effect as its fault allows.
    fn call<T>(
        &self,
        method: Method,
        name: &str,
        effect: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let fault = self.arrive(method, name);
        let mut state = self.state.lock();
        match fault {
            None => effect(&mut state),
            Some(Fault::Before) => Err(self.unreachable("a fault before the call")),
            Some(Fault::NoSpace) => Err(StoreError::NoSpace(self.name.clone())),
            Some(Fault::Denied) => {
                Err(StoreError::Denied { store: self.name.clone(), why: "a fault".into() })
            }
            Some(Fault::CutBefore) => {
                state.cut = true;
                Err(self.unreachable("it is cut off"))
            }
            Some(Fault::LostReply) => {
                effect(&mut state)?;
                Err(self.unreachable("its reply was lost"))
            }
            Some(Fault::CutAfter) => {
                state.cut = true;
                effect(&mut state)?;
                Err(self.unreachable("its reply was lost"))
            }
        }
    }
}

impl Store for MemoryStore {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn has_locks(&self) -> Result<bool, StoreError> {
        if self.state.lock().cut {
            return Err(self.unreachable("it is cut off"));
        }
        Ok(self.clock.is_some())
    }

    fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<Put, StoreError> {
        self.call(Method::Put, name.as_str(), |state| {
            if let Some(there) = state.objects.get(name) {
                return Ok(if there.body == body { Put::Created } else { Put::Exists });
            }
            let used = state.used + body.len() as u64;
            if state.room.is_some_and(|room| used > room) {
                return Err(StoreError::NoSpace(self.name.clone()));
            }
            state.used = used;
            if state.hide_fresh {
                state.unlisted.insert(name.clone());
            }
            state.objects.insert(name.clone(), Object { body, locked_until: None });
            Ok(Put::Created)
        })
    }

    fn get(&self, name: &ObjectName, part: Part) -> Result<Bytes, StoreError> {
        self.call(Method::Get, name.as_str(), |state| {
            let body = &state.objects.get(name).ok_or_else(|| StoreError::NotFound(name.clone()))?.body;
            let range = part.within(body.len() as u64);
            Ok(body.slice(range.start as usize..range.end as usize))
        })
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.call(Method::Size, name.as_str(), |state| {
            let object = state.objects.get(name).ok_or_else(|| StoreError::NotFound(name.clone()))?;
            Ok(object.body.len() as u64)
        })
    }

    fn list(
        &self,
        prefix: &str,
        found: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let listed = self.call(Method::List, prefix, |state| {
            let fits = |(name, _): &(&ObjectName, &Object)| {
                name.as_str().starts_with(prefix) && !state.unlisted.contains(*name)
            };
            let info = |(name, o): (&ObjectName, &Object)| ObjectInfo {
                name: name.clone(),
                size: o.body.len() as u64,
            };
            Ok(state.objects.iter().filter(fits).map(info).collect::<Vec<_>>())
        })?;
        // Outside of the lock: whoever is told may use the store.
        for info in listed {
            if found(info).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.call(Method::Delete, name.as_str(), |state| {
            let Some(object) = state.objects.get(name) else { return Ok(()) };
            if let (Some(until), Some(clock)) = (object.locked_until, &self.clock)
                && clock.wall() < until
            {
                return Err(StoreError::Locked { name: name.clone(), until: Some(until) });
            }
            state.used -= object.body.len() as u64;
            state.objects.remove(name);
            Ok(())
        })
    }

    fn lock(&self, name: &ObjectName, until: WallTime) -> Result<Locked, StoreError> {
        if self.clock.is_none() {
            return Err(StoreError::Denied { store: self.name.clone(), why: "it has no object lock".into() });
        }
        self.call(Method::Lock, name.as_str(), |state| {
            let object = state.objects.get_mut(name).ok_or_else(|| StoreError::NotFound(name.clone()))?;
            object.locked_until = object.locked_until.max(Some(until));
            Ok(Locked::Everywhere)
        })
    }
}

#[cfg(test)]
mod tests;
