//! Synchronous mode: a flush is answered when a point that holds everything before it is on stable storage at the site.
//!
//! Invariants:
//! - While the server is synchronous, no flush is answered with success before that (I2).
//! - Before the first copy is complete nothing is promised, and that is said. Once it has been synchronous it stays so over
//!   restarts of the agent: a flush then waits for the catching up.
//! - What happens when the site does not answer in time is the declared policy, never silence: *block* fails the flush,
//!   *degrade* lets it and all others go until the site has everything again, and tells since when.

use super::Stream;
use lifeboat_base::{Seq, WallTime};
use lifeboat_block::BlockError;
use lifeboat_replicate::message::{Flushes, SyncState};
use lifeboat_replicate::sender::{Passed, Phase, Sender, Ticket};
use parking_lot::MutexGuard;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A flush that waits longer than this is said to be blocked.
const BLOCKED: Duration = Duration::from_secs(1);

/// What is promised to whoever flushes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ConfirmPolicy {
    /// Nothing.
    #[default]
    Asynchronous,
    /// Flushes wait for the site.
    Synchronous {
        /// How long at most.
        limit: Duration,
        /// Then they go on without it. Else they fail.
        degrade: bool,
    },
}

/// How long the parts of one flush took. The source's part runs beside the other two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct FlushParts {
    source: Duration,
    encode: Duration,
    site: Duration,
    all: Duration,
}

/// When frames were made and acknowledged lately, by their last record.
#[derive(Debug, Default)]
pub(super) struct Lately {
    framed: VecDeque<(Seq, Duration)>,
    acked: VecDeque<(Seq, Duration)>,
}

/// Entries kept of each.
const LATELY: usize = 256;

impl Lately {
    fn note(list: &mut VecDeque<(Seq, Duration)>, seq: Seq, now: Duration) {
        if list.back().is_none_or(|b| b.0 < seq) {
            list.push_back((seq, now));
            if list.len() > LATELY {
                list.pop_front();
            }
        }
    }

    /// When `seq` was first among them.
    fn when(list: &VecDeque<(Seq, Duration)>, seq: Seq) -> Option<Duration> {
        list.iter().find(|e| e.0 >= seq).map(|e| e.1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotYet,
    Synchronous,
    Degraded(WallTime),
}

/// The promise, and how it is kept.
#[derive(Debug)]
pub(super) struct Confirm {
    policy: ConfirmPolicy,
    state: State,
    /// When the flushes that wait now began to, oldest first, by both clocks.
    waiting: Vec<(Duration, WallTime)>,
    sums: Flushes,
    /// The last degraded time that is over.
    degraded: (WallTime, WallTime),
    /// A barrier whose acknowledgement makes the server synchronous.
    proof: Option<Ticket>,
}

/// How the promise is kept, for the site to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmStatus {
    pub state: SyncState,
    /// Since when, where it is not as wanted.
    pub since: WallTime,
    /// `None` in asynchronous mode.
    pub flushes: Option<Flushes>,
    /// The last time flushes went on without the site, when it is over; zeros for never.
    pub degraded: (WallTime, WallTime),
}

impl Confirm {
    pub fn new(policy: ConfirmPolicy, armed: bool) -> Self {
        let state = if armed { State::Synchronous } else { State::NotYet };
        Self {
            policy,
            state,
            waiting: Vec::new(),
            sums: Flushes::default(),
            degraded: Default::default(),
            proof: None,
        }
    }

    fn add(&mut self, parts: &FlushParts) {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let s = &mut self.sums;
        s.count += 1;
        s.source += nanos(parts.source);
        s.encode += nanos(parts.encode);
        s.site += nanos(parts.site);
        s.longest = s.longest.max(nanos(parts.all));
    }
}

impl Stream {
    /// Flushes the source by `flush`, and in synchronous mode waits besides until everything captured before is in a durable
    /// point at the site; both go on at once.
    ///
    /// # Errors
    /// The source's; or when the site does not answer within the policy's limit and the policy is to block.
    pub fn confirm(&self, flush: impl FnOnce() -> Result<(), BlockError>) -> Result<(), BlockError> {
        let limit_and_policy = {
            let confirm = self.confirm.lock();
            match confirm.policy {
                ConfirmPolicy::Synchronous { limit, degrade } if confirm.state == State::Synchronous => {
                    Some((limit, degrade))
                }
                _ => None,
            }
        };
        let Some((limit, degrade)) = limit_and_policy else { return flush() };
        let begun = (self.clock.monotonic(), self.clock.wall());
        self.confirm.lock().waiting.push(begun);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let ticket = self.take_ticket();
        let flushed = flush();
        let source = self.clock.monotonic().saturating_sub(begun.0);
        let confirmed = match &flushed {
            Ok(()) => self.await_site(&mut self.sender.lock(), ticket, begun.0 + limit),
            Err(_) => None,
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut confirm = self.confirm.lock();
        if let Some(at) = confirm.waiting.iter().position(|w| *w == begun) {
            confirm.waiting.swap_remove(at);
        }
        flushed?;
        match confirmed {
            Some(ticket) => {
                confirm.add(&self.parts(ticket, begun.0, source));
                Ok(())
            }
            None if confirm.state != State::Synchronous => Ok(()),
            None if degrade && !self.sender.lock().is_on_branch() => {
                tracing::error!(
                    "the site did not confirm within {limit:?}: going on without it, as the policy says"
                );
                confirm.state = State::Degraded(self.clock.wall());
                confirm.proof = None;
                self.confirm_wake.notify_all();
                Ok(())
            }
            None => Err(BlockError::Io(io::Error::from_raw_os_error(libc::EIO))),
        }
    }

    fn parts(&self, ticket: Ticket, begun: Duration, source: Duration) -> FlushParts {
        let lately = self.lately.lock();
        let all = self.clock.monotonic().saturating_sub(begun);
        let framed = Lately::when(&lately.framed, ticket.seq()).unwrap_or(begun).max(begun);
        let acked = Lately::when(&lately.acked, ticket.seq()).unwrap_or(framed).max(framed);
        FlushParts { source, encode: framed - begun, site: acked - framed, all }
    }

    /// Another policy from now on.
    pub fn set_policy(&self, policy: ConfirmPolicy) {
        let mut confirm = self.confirm.lock();
        let was = std::mem::replace(&mut confirm.policy, policy);
        let synchronous = |p| p != ConfirmPolicy::Asynchronous;
        if synchronous(was) != synchronous(policy) {
            confirm.state = State::NotYet;
            drop(confirm);
            if let (false, Some(tracking)) = (synchronous(policy), &self.tracking)
                && let Err(e) = tracking.arm(false)
            {
                tracing::warn!("that this server is synchronous no more cannot be remembered: {e}");
            }
        }
        let _sender = self.sender.lock();
        self.confirm_wake.notify_all();
    }

    /// Waits for the site, until `deadline`; the ticket that passed.
    fn await_site(
        &self,
        sender: &mut MutexGuard<'_, Sender>,
        mut ticket: Option<Ticket>,
        deadline: Duration,
    ) -> Option<Ticket> {
        loop {
            if ticket.is_none() {
                ticket = sender.ticket(self.clock.wall());
                self.encoder_wake.notify_one();
            }
            let now = self.clock.monotonic();
            match ticket.map(|t| sender.passed(t)) {
                Some(Passed::Yes) => return ticket,
                Some(Passed::Lost) => {
                    ticket = None;
                    // Taken anew at once, or when the stream is live again.
                    if sender.is_live() {
                        continue;
                    }
                }
                Some(Passed::NotYet) | None => {}
            }
            // What a branch keeps is in no line that is recovered to: no promise can be kept there.
            let hopeless = sender.is_on_branch() || self.stopped();
            if now >= deadline || hopeless || self.confirm.lock().state != State::Synchronous {
                return None;
            }
            self.confirm_wake.wait_for(sender, deadline - now);
        }
    }

    /// A frame is ready, or the site has acknowledged: flushes that wait look again.
    pub(super) fn wake_confirms(&self, sender: &Sender) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            let now = self.clock.monotonic();
            let lately = &mut *self.lately.lock();
            Lately::note(&mut lately.framed, sender.last_framed(), now);
            Lately::note(&mut lately.acked, sender.durable(), now);
            self.confirm_wake.notify_all();
        }
    }

    /// A server that is wanted synchronous becomes so when the site has everything, and has shown it: by acknowledging a
    /// barrier that was cut for this.
    pub(super) fn promote(&self) {
        let proof = {
            let mut confirm = self.confirm.lock();
            if confirm.policy == ConfirmPolicy::Asynchronous || confirm.state == State::Synchronous {
                return;
            }
            confirm.proof.take()
        };
        let mut sender = self.sender.lock();
        let status = sender.status();
        let near = status.connected && status.phase == Phase::Live && status.spool_bytes == 0;
        let passed = proof.map(|t| sender.passed(t));
        if !near || passed != Some(Passed::Yes) {
            let next = match passed {
                Some(Passed::NotYet) => proof,
                _ if near => sender.fresh_ticket(self.clock.wall()),
                _ => None,
            };
            self.encoder_wake.notify_one();
            drop(sender);
            self.confirm.lock().proof = next;
            return;
        }
        drop(sender);
        if let Some(tracking) = &self.tracking
            && let Err(e) = tracking.arm(true)
        {
            tracing::warn!("that this server is synchronous cannot be remembered: {e}");
        }
        let mut confirm = self.confirm.lock();
        if let State::Degraded(since) = confirm.state {
            confirm.degraded = (since, self.clock.wall());
        }
        confirm.state = State::Synchronous;
        tracing::info!("flushes wait for the site from now on");
    }

    /// How the promise is kept now.
    pub fn confirm_status(&self) -> ConfirmStatus {
        let confirm = self.confirm.lock();
        let degraded = confirm.degraded;
        let asynchronous = SyncState::Asynchronous;
        let none = WallTime(0);
        if confirm.policy == ConfirmPolicy::Asynchronous {
            return ConfirmStatus { state: asynchronous, since: none, flushes: None, degraded };
        }
        let now = self.clock.monotonic();
        let oldest = confirm.waiting.iter().min_by_key(|w| w.0);
        let (state, since) = match (confirm.state, oldest) {
            (State::NotYet, _) => (SyncState::NotYet, none),
            (State::Degraded(since), _) => (SyncState::Degraded, since),
            (State::Synchronous, Some((at, since))) if now.saturating_sub(*at) > BLOCKED => {
                (SyncState::Blocked, *since)
            }
            (State::Synchronous, _) => (SyncState::Synchronous, none),
        };
        ConfirmStatus { state, since, flushes: Some(confirm.sums), degraded }
    }
}
