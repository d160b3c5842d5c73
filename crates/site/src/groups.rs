//! One barrier at one moment in several servers of several agents.
//!
//! Invariants:
//! - no cut is asked for before every member has said that its writes are held, and none while any has not;
//! - a group point is told only when every member cut while it was still held, and the barrier of each is in its
//!   journal, on stable storage, with the number and time its agent named;
//! - whatever happens, no member's writes are held longer than the limit its agent was given.
//!
//! ```text
//!  hold ──> every agent ──> all held? ──no──> abandon, to all: no point
//!                              │ yes
//!                             cut ──> every agent ──> all cut while held, all durable here? ──no──> no point
//!                                                        │ yes
//!                                                     the group's point
//! ```
//! Why the barriers are one moment: say a write at member A depends on one at member B that had completed. If B's is behind
//! B's barrier, it completed after B was cut, for nothing completes between hold and cut. B was cut after all were
//! held, so A's write began while A was held or later, and what begins during a hold is behind the cut. So A's is behind A's
//! barrier too: no member's point holds the effect of something that another's lacks.
//!
//! The agents keep time: a hold that ended before its cut came makes the agent say so, and then nothing counts. This side
//! needs no clock that agrees with theirs.

use crate::server::ServerCell;
use crate::sessions::AgentLink;
use crate::{Site, errors};
use lifeboat_api::port::{GroupCut, PortError};
use lifeboat_api::types::ErrorCode;
use lifeboat_base::limits::{MAX_GROUP, MAX_HOLD, MAX_TEXT};
use lifeboat_base::{Epoch, PointId, Seq, ServerId, WallTime};
use lifeboat_replicate::message::{Cut, CutResult, Hold, ServerCut, control};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long an agent may take to say that it has cut.
const CUT: Duration = Duration::from_secs(5);
/// How long the barriers may take to be durable here.
const DURABLE: Duration = Duration::from_secs(10);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A server of the group.
#[derive(Clone)]
pub(crate) struct Member {
    pub server: ServerId,
    pub name: String,
    pub epoch: Epoch,
}

/// One agent with those of the group's servers that are its own.
pub(crate) struct Party {
    pub link: Arc<AgentLink>,
    pub members: Vec<Member>,
}

impl Party {
    fn names(&self) -> String {
        self.members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// What one agent cut.
type Cuts = Vec<(Member, ServerCut)>;

fn trouble(text: impl Into<String>) -> PortError {
    PortError::new(ErrorCode::Unavailable, text).hint("no group point was made; the next attempt may succeed")
}

fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT / 8).collect()
}

/// Both halves, with every agent at once. `fresh` gives numbers that were never given before.
pub(crate) async fn cut_together(
    parties: Vec<Party>,
    hold: Duration,
    barrier: u64,
    fresh: impl Fn() -> u64,
) -> Result<Cuts, PortError> {
    let parties: Vec<Arc<Party>> = parties.into_iter().map(Arc::new).collect();
    let limit_ms = u32::try_from(hold.as_millis()).unwrap_or(u32::MAX);
    let mut holds = JoinSet::new();
    for party in &parties {
        let (party, id) = (Arc::clone(party), fresh());
        let servers = party.members.iter().map(|m| m.server.as_bytes().to_vec()).collect();
        let request = Hold { barrier, servers, limit_ms };
        holds.spawn(async move { held(&party, id, request, hold).await });
    }
    let mut failure = None;
    while let Some(done) = holds.join_next().await {
        if let Err(e) = done.unwrap_or_else(|e| Err(trouble(format!("an internal task died: {e}")))) {
            failure = Some(e);
            break;
        }
    }
    if let Some(e) = failure {
        // Nobody waits for a limit: those that hold let go, those that are about to are told as well.
        for party in &parties {
            let cut = control::Body::Cut(Cut { barrier, abandon: true });
            party.link.tell(fresh(), cut);
        }
        return Err(e);
    }
    let mut cuts = JoinSet::new();
    for party in &parties {
        let (party, id) = (Arc::clone(party), fresh());
        cuts.spawn(async move { cut(&party, id, barrier).await });
    }
    let mut all = Vec::new();
    let mut failure = None;
    while let Some(done) = cuts.join_next().await {
        match done.unwrap_or_else(|e| Err(trouble(format!("an internal task died: {e}")))) {
            Ok(cut) => all.extend(cut),
            Err(e) => drop(failure.get_or_insert(e)),
        }
    }
    failure.map_or(Ok(all), Err)
}

async fn held(party: &Party, id: u64, request: Hold, hold: Duration) -> Result<(), PortError> {
    match party.link.ask(id, control::Body::Hold(request), hold).await {
        Some(control::Body::HoldResult(r)) if r.error.is_empty() => Ok(()),
        Some(control::Body::HoldResult(r)) => {
            Err(trouble(format!("{} cannot be held: {}", party.names(), short(&r.error))))
        }
        Some(_) => Err(trouble(format!("the agent of {} answered something else", party.names()))),
        None => Err(trouble(format!(
            "the agent of {} did not hold its writes within {} ms",
            party.names(),
            hold.as_millis()
        ))),
    }
}

async fn cut(party: &Party, id: u64, barrier: u64) -> Result<Cuts, PortError> {
    let request = control::Body::Cut(Cut { barrier, abandon: false });
    let result: CutResult = match party.link.ask(id, request, CUT).await {
        Some(control::Body::CutResult(r)) => r,
        Some(_) => return Err(trouble(format!("the agent of {} answered something else", party.names()))),
        None => return Err(trouble(format!("the agent of {} did not say that it cut", party.names()))),
    };
    if !result.error.is_empty() {
        return Err(trouble(format!("{} were not cut together: {}", party.names(), short(&result.error))));
    }
    let fits = result.cuts.len() == party.members.len()
        && result.cuts.iter().zip(&party.members).all(|(c, m)| c.server == m.server.as_bytes());
    if !fits {
        return Err(trouble(format!(
            "the agent of {} cut other servers than it was asked to",
            party.names()
        )));
    }
    Ok(party.members.iter().cloned().zip(result.cuts).collect())
}

/// Waits until the barrier is a point of the journal.
async fn durable(cell: &ServerCell, member: &Member, cut: &ServerCut) -> Result<PointId, PortError> {
    let seq = Seq(cut.seq);
    let wait = async {
        while cell.reader.durable_seq() < seq {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(DURABLE, wait).await.is_err() {
        return Err(trouble(format!("the barrier of {} did not arrive within {DURABLE:?}", member.name)));
    }
    let before = Seq(cut.seq.saturating_sub(1));
    let point = cell
        .reader
        .point_after(before)
        .filter(|p| p.id == PointId { epoch: member.epoch, seq } && p.source_time == WallTime(cut.time));
    point.map(|p| p.id).ok_or_else(|| {
        trouble(format!(
            "{} could not keep its barrier: more was written than its agent's memory holds",
            member.name
        ))
    })
}

impl Site {
    /// See [`SitePort::group_barrier`](lifeboat_api::port::SitePort::group_barrier).
    pub(crate) async fn cut_group(
        &self,
        servers: &[ServerId],
        hold: Duration,
    ) -> Result<GroupCut, PortError> {
        let invalid = |text: String| Err(PortError::new(ErrorCode::Invalid, text));
        if servers.is_empty() || servers.len() > MAX_GROUP {
            return invalid(format!("a group has 1 to {MAX_GROUP} servers"));
        }
        if servers.iter().collect::<HashSet<_>>().len() != servers.len() {
            return invalid("a server is named twice".into());
        }
        if hold.is_zero() || hold > MAX_HOLD {
            return invalid(format!("writes may be held for up to {MAX_HOLD:?}"));
        }
        // One at a time: two at once could each hold what the other waits for.
        let _alone = self.cutting.lock().await;
        let mut cells = BTreeMap::new();
        let mut parties: BTreeMap<_, Party> = BTreeMap::new();
        for server in servers {
            let cell = self.cell_of(*server)?;
            let (member, agent) = {
                let spec = cell.spec.read();
                (Member { server: *server, name: spec.name.clone(), epoch: spec.epoch }, spec.agent)
            };
            let link = self.sessions.agents.lock().get(&agent).cloned();
            let Some(link) = link else {
                return Err(trouble(format!("the agent of {} is not connected", member.name)));
            };
            let live = {
                let m = cell.measured.lock();
                m.live && m.session.is_some()
            };
            if !live {
                return Err(trouble(format!("{} is not live: it is still catching up", member.name)));
            }
            cells.insert(member.server, cell);
            parties.entry(agent).or_insert_with(|| Party { link, members: Vec::new() }).members.push(member);
        }
        let parties = parties.into_values().collect();
        let barrier = self.entropy.next_u64();
        let cuts = cut_together(parties, hold, barrier, || self.sessions.next_id()).await?;
        let mut points = BTreeMap::new();
        let mut longest = Duration::ZERO;
        for (member, cut) in &cuts {
            let cell = cells.get(&member.server).ok_or_else(|| errors::internal("a member was lost"))?;
            points.insert(member.server, durable(cell, member, cut).await?);
            longest = longest.max(Duration::from_micros(cut.held_us));
        }
        let points = servers.iter().filter_map(|s| points.get(s).map(|p| (*s, *p))).collect();
        Ok(GroupCut { points, held: longest })
    }
}

#[cfg(test)]
mod tests;
