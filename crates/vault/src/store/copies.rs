//! Several stores as one: each object is in all of them, as far as they answer.
//!
//! A quorum `q` of the `n` copies, more than half, makes an object. Invariants:
//! - **One winner.** [`Put::Created`] means that `q` copies held these bytes at one time. A copy gives a name once, and two sets
//!   of more than half of the copies share one; so of two writers of one name at most one is told so, whatever is away.
//!   Something is taken from a copy again only where other bytes have their quorum already (see [`decide`]).
//! - **Small objects decide, large ones do not.** The names that decide something (slots, epochs, keys) are of small objects:
//!   these are offered to the copies in order, so that writers meet at the first, and read from as many as agree. A pack has
//!   a name nobody else uses: it goes to all copies at once and is read from the fastest; its seals prove it.
//! - **A deletion reaches every copy or fails**: what is gone from one copy and back in another's listing would otherwise be
//!   found after what it needs is gone. So nothing is pruned while a copy is away; nobody else waits for it.
//! - "Not there" is said where at most `n - q` copies could not be asked: any other copy of an object that was
//!   made would have shown it.
//!
//! A copy that failed is *away* until a look at it, made in the background, succeeds: nobody waits for it meanwhile.
//! What it misses is brought by [`repair`](Store::repair). Writes to copies beyond the quorum go on after the caller was
//! answered, so many bytes of them and no more.

mod copy;
mod decide;
mod mend;

use super::{Health, Locked, Mended, ObjectInfo, Part, Put, RepairStep, Repaired, Store};
use crate::error::StoreError;
use crate::id::ObjectName;
use bytes::Bytes;
use copy::Copy;
use lifeboat_base::{Clock, WallTime, limits};
use parking_lot::RwLock;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Larger objects are not compared among copies when they are read, and decide nothing, in bytes.
const SMALL: usize = 256 * limits::KIB;

/// The next copy is asked, too, when one has not answered for so long, at least and at most.
const HEDGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long copies may take to agree with one that has answered.
const AGREEING: Duration = Duration::from_secs(1);

/// How long the last copies are waited for when the others have answered: a copy may hang without refusing.
const LATE: Duration = Duration::from_secs(10);

/// How long a read is waited for that only one copy can answer any more.
const GIVE_UP: Duration = Duration::from_secs(300);

/// The same for what has to reach every copy.
const EVERY: Duration = Duration::from_secs(60);

/// The same for listing everything there is.
const SURVEY: Duration = Duration::from_secs(1800);

/// What one copy answered, by its number.
type Answered<T> = (usize, Result<T, StoreError>);

/// Copies of one vault.
pub struct Copies {
    copies: Vec<Arc<Copy>>,
    quorum: usize,
    /// Held for writing while an object is brought to copies, for reading while one is deleted: neither undoes the other.
    mending: RwLock<()>,
    /// [`LATE`], but for tests.
    late: Duration,
}

impl Copies {
    /// The order of the stores is part of what they agree on: it must be the same for everybody.
    ///
    /// # Errors
    /// A quorum of not more than half of the copies, or of more than there are.
    pub fn new(
        stores: Vec<Arc<dyn Store>>,
        quorum: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let n = stores.len();
        if quorum * 2 <= n || quorum > n {
            let why = format!(
                "a quorum of {quorum} of {n} copies cannot decide anything: more than half of them, so {} to {n}",
                n / 2 + 1
            );
            return Err(StoreError::Broken { store: "copies".into(), why });
        }
        let copies = stores.into_iter().map(|s| Arc::new(Copy::new(s, clock.clone()))).collect();
        Ok(Self { copies, quorum, mending: RwLock::new(()), late: LATE })
    }

    /// Waits until no write is under way that nobody waits for.
    pub fn settle(&self) {
        for copy in &self.copies {
            copy.wait_idle();
        }
    }

    /// Copies that may be missing while everything that was made still shows.
    fn spare(&self) -> usize {
        self.copies.len() - self.quorum
    }

    /// Calls a copy in a thread of its own. The answer comes, whatever it is.
    fn ask<T: Send + 'static>(
        &self,
        n: usize,
        to: &Sender<Answered<T>>,
        call: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) {
        let (copy, answer) = (self.copies[n].clone(), to.clone());
        if copy.is_full() {
            let _ = to.send((n, Err(copy.away_error())));
            return;
        }
        let asked = move || {
            // Who asked may have had enough answers and gone.
            let _ = answer.send((n, copy.call(call)));
        };
        if let Err(e) = std::thread::Builder::new().name("vault-copy".into()).spawn(asked) {
            let why = format!("no thread to ask it with: {e}");
            let _ = to.send((n, Err(StoreError::Unreachable { store: self.copies[n].describe(), why })));
        }
    }

    /// As [`ask`](Self::ask); how long it takes counts for who is asked first.
    fn ask_timed<T: Send + 'static>(
        &self,
        n: usize,
        to: &Sender<Answered<T>>,
        call: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) {
        let copy = self.copies[n].clone();
        self.ask(n, to, move |store| copy.timed(|| call(store)));
    }

    /// Asks all copies that are not away at once. When all but the spare ones have answered, the last are waited for
    /// so long. One that is away, or did not answer in time, answers so.
    fn ask_all<T: Send + 'static>(
        &self,
        late: Duration,
        call: impl Fn(&dyn Store) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Vec<Result<T, StoreError>> {
        let (to, from) = channel();
        let mut answers: Vec<Option<Result<T, StoreError>>> = self.copies.iter().map(|_| None).collect();
        let (mut open, mut got) = (0, 0);
        for (n, copy) in self.copies.iter().enumerate() {
            if !copy.is_away() {
                self.ask(n, &to, call.clone());
                open += 1;
            }
        }
        drop(to);
        while open > 0 {
            let longest = if got >= self.quorum { late } else { late.max(EVERY) };
            let Some((n, answer)) = wait(&from, longest) else { break };
            got += usize::from(answer.is_ok());
            answers[n] = Some(answer);
            open -= 1;
        }
        let told = answers.into_iter().zip(&self.copies);
        told.map(|(answer, copy)| answer.unwrap_or_else(|| Err(copy.away_error()))).collect()
    }

    /// Copies that are not away, the fastest first.
    fn fastest(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.copies.len()).filter(|n| !self.copies[*n].is_away()).collect();
        order.sort_by_key(|n| self.copies[*n].latency());
        order
    }

    /// The first answer of the copies, the fastest first; the next is asked where one says no or takes long. Returns which
    /// copy it was.
    fn first<T: Send + 'static>(
        &self,
        name: &ObjectName,
        call: impl Fn(&dyn Store) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<(usize, T), StoreError> {
        let order = self.fastest();
        let mut failed: Option<StoreError> = None;
        let mut absent = 0;
        let (to, from) = channel();
        let (mut next, mut open) = (0, 0);
        while next < order.len() || open > 0 {
            let is_asking = next < order.len();
            let hedge = if is_asking {
                self.ask_timed(order[next], &to, call.clone());
                (next, open) = (next + 1, open + 1);
                self.copies[order[next - 1]].latency().saturating_mul(3).clamp(HEDGE.0, HEDGE.1)
            } else if absent > 0 && self.copies.len() - absent <= self.spare() {
                // Enough say that it is not there. The last one may know better only where it lacks a deletion.
                self.late
            } else {
                GIVE_UP
            };
            match wait(&from, hedge) {
                Some((n, Ok(answer))) => return Ok((n, answer)),
                Some((_, Err(StoreError::NotFound(_)))) => (absent, open) = (absent + 1, open - 1),
                Some((_, Err(e))) => {
                    failed.get_or_insert(e);
                    open -= 1;
                }
                None if !is_asking => break,
                // It is asked later next time.
                None => self.copies[order[next - 1]].was_late(hedge),
            }
        }
        Err(self.none(name, absent, failed))
    }

    /// What it means that no copy gave an object.
    fn none(&self, name: &ObjectName, absent: usize, failed: Option<StoreError>) -> StoreError {
        let unasked = self.copies.len() - absent;
        if absent > 0 && unasked <= self.spare() {
            return StoreError::NotFound(name.clone());
        }
        failed.unwrap_or_else(|| self.too_few(absent))
    }

    fn too_few(&self, there: usize) -> StoreError {
        let away: Vec<String> = self.copies.iter().filter_map(|c| c.error()).collect();
        let why = format!(
            "{there} of {} copies answer, {} must: {}",
            self.copies.len(),
            self.quorum,
            away.join("; ")
        );
        StoreError::Unreachable { store: self.describe(), why }
    }

    /// What the copies hold in whole under a name, asked all at once; an error for those that did not say.
    fn values(&self, name: &ObjectName) -> Vec<Result<Option<Bytes>, StoreError>> {
        let asked = name.clone();
        self.ask_all(self.late.max(LATE), move |store| match store.get(&asked, Part::All) {
            Ok(body) => Ok(Some(body)),
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        })
    }

    /// What the copies agree a small object is, where copy `n` says it is `body`.
    fn agreed(&self, name: &ObjectName, part: Part, n: usize, body: Bytes) -> Bytes {
        let mut held: Vec<(usize, Bytes)> = vec![(n, body.clone())];
        let (to, from) = channel();
        for other in self.fastest().into_iter().filter(|other| *other != n) {
            let name = name.clone();
            self.ask(other, &to, move |store| store.get(&name, part));
        }
        drop(to);
        loop {
            if let Some(agreed) = most(&held, self.quorum) {
                return agreed;
            }
            match wait(&from, AGREEING) {
                Some((other, Ok(body))) => held.push((other, body)),
                Some((_, Err(_))) => {}
                None => break,
            }
        }
        // Not decided, or most copies are away or damaged: the first copy's, which is what will win.
        held.sort_by_key(|(n, _)| *n);
        held.swap_remove(0).1
    }
}

/// The next answer; `None` when it takes longer, or no further one comes.
fn wait<T>(from: &Receiver<Answered<T>>, longest: Duration) -> Option<Answered<T>> {
    from.recv_timeout(longest).ok()
}

/// The bytes that at least `quorum` of these are.
fn most(held: &[(usize, Bytes)], quorum: usize) -> Option<Bytes> {
    let same = |body: &Bytes| held.iter().filter(|(_, other)| other == body).count();
    held.iter().map(|(_, body)| body).find(|body| same(body) >= quorum).cloned()
}

impl Store for Copies {
    fn describe(&self) -> String {
        let names: Vec<String> = self.copies.iter().map(|c| c.describe()).collect();
        format!("{} copies ({})", names.len(), names.join(", "))
    }

    fn has_locks(&self) -> Result<bool, StoreError> {
        let mut unknown = None;
        for answer in self.ask_all(EVERY, |store| store.has_locks()) {
            match answer {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(e) => unknown = Some(e),
            }
        }
        unknown.map_or(Ok(false), Err)
    }

    fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<Put, StoreError> {
        self.decide(name, body)
    }

    fn get(&self, name: &ObjectName, part: Part) -> Result<Bytes, StoreError> {
        let asked = name.clone();
        let (n, body) = self.first(name, move |store| store.get(&asked, part))?;
        // A bounded read of something shorter is a read of all of it.
        let is_whole = match part {
            Part::All => true,
            Part::Range { offset, len } => offset == 0 && (body.len() as u64) < len,
            Part::Tail(len) => (body.len() as u64) < len,
        };
        if is_whole && body.len() < SMALL {
            return Ok(self.agreed(name, part, n, body));
        }
        Ok(body)
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        let asked = name.clone();
        self.first(name, move |store| store.size(&asked)).map(|(_, size)| size)
    }

    fn list(
        &self,
        prefix: &str,
        found: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let asked = prefix.to_string();
        let answers = self.ask_all(self.late, move |store| listed(store, &asked));
        let unasked = answers.iter().filter(|a| a.is_err()).count();
        if unasked > self.spare() {
            return Err(self.too_few(self.copies.len() - unasked));
        }
        let mut seen = HashSet::new();
        for object in answers.into_iter().flatten().flatten() {
            if seen.insert(object.name.clone()) && found(object).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let _held = self.mending.read();
        if let Some(away) = self.copies.iter().find(|c| c.is_away()) {
            return Err(away.away_error());
        }
        for copy in &self.copies {
            copy.wait_for(name)?;
        }
        let asked = name.clone();
        self.ask_all(EVERY, move |store| store.delete(&asked)).into_iter().collect()
    }

    fn lock(&self, name: &ObjectName, until: WallTime) -> Result<Locked, StoreError> {
        let asked = name.clone();
        let lock = move |store: &dyn Store| match store.has_locks()? {
            true => store.lock(&asked, until).map(|_| true),
            false => Ok(false),
        };
        let (mut locked, mut failed) = (false, None);
        for answer in self.ask_all(EVERY, lock) {
            match answer {
                Ok(is_locked) => locked |= is_locked,
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            Some(e) if locked => Ok(Locked::Partly(e)),
            Some(e) => Err(e),
            None if locked => Ok(Locked::Everywhere),
            None => {
                Err(StoreError::Denied { store: self.describe(), why: "no copy has object locks".into() })
            }
        }
    }

    fn reap(&self) -> Result<u64, StoreError> {
        self.ask_all(EVERY, |store| store.reap()).into_iter().filter(Result::is_ok).sum()
    }

    fn copies(&self) -> usize {
        self.copies.len()
    }

    fn get_copy(&self, copy: usize, name: &ObjectName, part: Part) -> Result<Bytes, StoreError> {
        match self.copies.get(copy) {
            Some(copy) => copy.call(|store| store.get(name, part)),
            None => Err(StoreError::NotFound(name.clone())),
        }
    }

    fn mend(
        &self,
        name: &ObjectName,
        good: &dyn Fn(&ObjectName, &Bytes) -> bool,
    ) -> Result<Mended, StoreError> {
        self.mend_one(name, good)
    }

    fn repair(
        &self,
        good: &dyn Fn(&ObjectName, &Bytes) -> bool,
        step: &mut dyn FnMut(RepairStep) -> ControlFlow<()>,
    ) -> Result<Repaired, StoreError> {
        self.repair_all(good, step)
    }

    fn whole(&self) -> Result<(), StoreError> {
        self.survey()?;
        match self.copies.iter().find(|c| c.lacking() > 0) {
            None => Ok(()),
            Some(copy) => Err(StoreError::Broken {
                store: copy.describe(),
                why: format!("this copy lacks {} objects: run `lifeboat vault repair` first", copy.lacking()),
            }),
        }
    }

    fn health(&self) -> Vec<Health> {
        let (to, from) = channel();
        for n in 0..self.copies.len() {
            self.ask(n, &to, |store| {
                store
                    .list("vault", &mut |_| ControlFlow::Break(()))
                    .map(|()| store.has_locks().unwrap_or(false))
            });
        }
        drop(to);
        let mut health: Vec<Health> = self.copies.iter().map(|c| c.health(None)).collect();
        for _ in 0..self.copies.len() {
            let Some((n, answer)) = wait(&from, self.late) else { break };
            health[n] = self.copies[n].health(Some(answer.unwrap_or(false)));
        }
        health
    }
}

/// A listing as one.
fn listed(store: &dyn Store, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
    let mut all = Vec::new();
    store.list(prefix, &mut |object| {
        all.push(object);
        ControlFlow::Continue(())
    })?;
    Ok(all)
}

#[cfg(test)]
mod tests;
