//! One copy: whether it answers, how fast, and what it is being written.

use crate::error::StoreError;
use crate::id::ObjectName;
use crate::store::{Health, Store};
use lifeboat_base::{Clock, limits};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// How often a copy that is away is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long a copy may end no call before it counts as away, and how long its writes are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls of one copy under way; each has a thread. One that takes no more is away.
const MOST_OPEN: usize = 64;

#[derive(Debug, Default)]
struct State {
    /// Why it is away.
    away: Option<String>,
    /// When it was last looked at while away, by the monotonic clock.
    looked: Duration,
    looking: bool,
    /// Calls under way, and when one last began alone or ended.
    open: usize,
    moved: Duration,
    /// Of its answers lately.
    latency: Duration,
    /// Objects it is known to lack.
    lacking: u64,
    /// Names being written, and how many times each, and their bytes.
    writing: HashMap<ObjectName, usize>,
    writing_bytes: u64,
}

pub(super) struct Copy {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// A write ended, or it went away.
    changed: Condvar,
}

impl Copy {
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, state: Mutex::default(), changed: Condvar::new() }
    }

    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    pub fn describe(&self) -> String {
        self.store.describe()
    }

    pub fn latency(&self) -> Duration {
        self.state.lock().latency
    }

    pub fn lacking(&self) -> u64 {
        self.state.lock().lacking
    }

    pub fn set_lacking(&self, lacking: u64) {
        self.state.lock().lacking = lacking;
    }

    pub fn is_writing(&self, name: &ObjectName) -> bool {
        self.state.lock().writing.contains_key(name)
    }

    /// It could not be given an object.
    pub fn lacks_one_more(&self) {
        self.state.lock().lacking += 1;
    }

    pub fn error(&self) -> Option<String> {
        self.state.lock().away.clone()
    }

    pub fn away_error(&self) -> StoreError {
        let why = self.error().unwrap_or_else(|| "it is not asked".into());
        StoreError::Unreachable { store: self.describe(), why: format!("this copy is away: {why}") }
    }

    /// Calls it, and remembers how that went.
    pub fn call<T>(&self, call: impl FnOnce(&dyn Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.call_begins();
        let answer = call(self.store());
        let mut state = self.state.lock();
        (state.open, state.moved) = (state.open - 1, self.clock.monotonic());
        match &answer {
            Err(e @ (StoreError::Unreachable { .. } | StoreError::Denied { .. })) => {
                if state.away.replace(e.to_string()).is_none() {
                    tracing::warn!(copy = %self.describe(), error = %e, "a copy of the vault is away");
                    state.looked = self.clock.monotonic();
                }
                self.changed.notify_all();
            }
            // It answers, whatever it says.
            Ok(_)
            | Err(
                StoreError::NotFound(_)
                | StoreError::NoSpace(_)
                | StoreError::Locked { .. }
                | StoreError::Broken { .. },
            ) => {
                if state.away.take().is_some() {
                    tracing::info!(copy = %self.describe(), "a copy of the vault is back");
                }
            }
        }
        answer
    }

    fn call_begins(&self) {
        let mut state = self.state.lock();
        if state.open == 0 {
            state.moved = self.clock.monotonic();
        }
        state.open += 1;
    }

    /// It takes no more calls.
    pub fn is_full(&self) -> bool {
        self.state.lock().open >= MOST_OPEN
    }

    /// It had not answered after so long.
    pub fn was_late(&self, after: Duration) {
        let mut state = self.state.lock();
        state.latency = state.latency.max(after);
    }

    /// Runs a call and remembers how long it took.
    pub fn timed<T>(&self, call: impl FnOnce() -> T) -> T {
        let begun = self.clock.monotonic();
        let answer = call();
        let took = self.clock.monotonic().saturating_sub(begun);
        let mut state = self.state.lock();
        state.latency = (state.latency * 7 + took) / 8;
        answer
    }

    /// Whether it is away. Now and then that makes a look at it begin, for which nobody waits.
    pub fn is_away(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        let now = self.clock.monotonic();
        if state.away.is_none() {
            let hangs = state.open > 0 && now.saturating_sub(state.moved) >= PATIENCE;
            if !hangs && state.open < MOST_OPEN {
                return false;
            }
            state.away = Some(format!("it ends none of {} calls", state.open));
            state.looked = now;
            self.changed.notify_all();
        }
        if state.looking || now.saturating_sub(state.looked) < LOOK_EVERY {
            return true;
        }
        (state.looked, state.looking) = (now, true);
        let copy = self.clone();
        let look = move || {
            let _ = copy.call(|store| store.list("vault", &mut |_| ControlFlow::Break(())));
            copy.state.lock().looking = false;
        };
        if std::thread::Builder::new().name("vault-copy".into()).spawn(look).is_err() {
            state.looking = false;
        }
        true
    }

    /// Notes that a write begins; waits while too many bytes are under way. False where it went away meanwhile.
    pub fn begin_write(&self, name: &ObjectName, bytes: usize) -> bool {
        let mut state = self.state.lock();
        let bytes = bytes as u64;
        while state.writing_bytes > 0 && state.writing_bytes + bytes > limits::COPY_BACKLOG {
            if state.away.is_some() {
                return false;
            }
            if self.changed.wait_for(&mut state, PATIENCE).timed_out() {
                state.away = Some(format!("its writes do not end within {} s", PATIENCE.as_secs()));
                return false;
            }
        }
        state.writing_bytes += bytes;
        *state.writing.entry(name.clone()).or_default() += 1;
        true
    }

    pub fn end_write(&self, name: &ObjectName, bytes: usize) {
        let mut state = self.state.lock();
        state.writing_bytes -= bytes as u64;
        if let Some(times) = state.writing.get_mut(name) {
            *times -= 1;
            if *times == 0 {
                state.writing.remove(name);
            }
        }
        self.changed.notify_all();
    }

    pub fn wait_idle(&self) {
        let mut state = self.state.lock();
        while !state.writing.is_empty() {
            self.changed.wait(&mut state);
        }
    }

    /// Waits until a name is not being written: what would be deleted now would be there again.
    pub fn wait_for(&self, name: &ObjectName) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        while state.writing.contains_key(name) {
            if self.changed.wait_for(&mut state, PATIENCE).timed_out() {
                let why = format!("{name} is still being written there");
                return Err(StoreError::Unreachable { store: self.describe(), why });
            }
        }
        Ok(())
    }

    /// `answered`, with whether it locks, or has not within the time there was.
    pub fn health(&self, answered: Option<bool>) -> Health {
        let state = self.state.lock();
        let silent = answered.is_none().then(|| "it does not answer in time".to_string());
        let error = state.away.clone().or(silent);
        Health {
            store: self.store.describe(),
            reachable: error.is_none(),
            error,
            lacking: state.lacking,
            locks: answered.unwrap_or(false),
        }
    }
}
