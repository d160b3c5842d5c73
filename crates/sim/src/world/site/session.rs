//! Stream sessions at the site, by the rules of its listener.

use super::{KEEPALIVE, OUTGOING, Session, World};
use crate::world::Event;
use crate::world::link::{DOWN, UP};
use crate::world::mutant::Mutant;
use bytes::{Bytes, BytesMut};
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{Epoch, Seq};
use lifeboat_replicate::message::{Hello, Refuse, RefuseCode, hello};
use lifeboat_replicate::wire::{
    Ack, FrameType, Offer, Ping, decode_message, decode_records, message_frame, put_header,
};
use lifeboat_site::server::{Job, No, SessionOut};
use tokio::sync::{mpsc, oneshot, watch};

impl World {
    pub(in crate::world) fn site_frame(&mut self, conn: u64, kind: FrameType, body: Bytes) {
        let Some(c) = self.conns.get(&conn) else { return };
        let server = c.server;
        self.set_site_clock(server);
        if let Err(no) = self.take(conn, server, kind, body) {
            self.refuse(conn, &no);
        }
    }

    fn take(&mut self, conn: u64, server: usize, kind: FrameType, body: Bytes) -> Result<(), No> {
        let protocol = |m: String| No::new(RefuseCode::Protocol, m);
        if kind == FrameType::Hello {
            return self.hello(conn, server, &body);
        }
        let epoch = self.servers[server].spec.epoch;
        let stale = self.mutant.is(Mutant::StaleEpoch);
        let Some(s) = self.conns.get_mut(&conn).and_then(|c| c.session.as_mut()) else { return Ok(()) };
        let (session, Some(receiver)) = (s.id, s.receiver.as_mut()) else {
            return Err(protocol(format!("{kind:?} before the welcome")));
        };
        let job = match kind {
            FrameType::Records => {
                let raw = message(FrameType::Records, &body);
                let mut records = decode_records(body).map_err(|e| protocol(e.to_string()))?;
                if stale {
                    records.iter_mut().for_each(|r| r.epoch = epoch);
                }
                let last = records.last().map_or(Seq::ZERO, |r| r.seq);
                let records = receiver.records(records).map_err(|e| protocol(e.to_string()))?;
                if self.mutant.is(Mutant::EarlyAck) && !records.is_empty() {
                    self.servers[server].line.promise(last);
                    let ack = Ack { durable: last, barrier: Seq::ZERO };
                    self.send(conn, DOWN, &ack.frame());
                }
                self.seen(conn, last, raw);
                Job::Records { session, records, room: None }
            }
            FrameType::Offer => {
                let offer = Offer::decode(body).map_err(|e| protocol(e.to_string()))?;
                let last = (offer.hashes.len() as u64 - 1) * BLOCK as u64 + 1;
                receiver.range(offer.disk, offer.offset, last).map_err(|e| protocol(e.to_string()))?;
                Job::Offer { session, offer }
            }
            FrameType::Ping => {
                Job::Ping { session, ping: Ping::decode(body).map_err(|e| protocol(e.to_string()))? }
            }
            other => return Err(protocol(format!("unexpected {other:?}"))),
        };
        self.servers[server].jobs.push_back(job);
        self.work_soon(server);
        Ok(())
    }

    /// Frames a replay may bring once more: those the site has for good.
    fn seen(&mut self, conn: u64, last: Seq, raw: Bytes) {
        let Some(c) = self.conns.get(&conn) else { return };
        let promised = self.servers[c.server].line.promised;
        let seen = &mut self.agents[c.agent].link.seen;
        if last <= promised {
            return;
        }
        // What was received a while ago is stored by now.
        seen.push_back((last, raw));
        if seen.len() > 16 {
            seen.pop_front();
        }
    }

    fn hello(&mut self, conn: u64, server: usize, body: &Bytes) -> Result<(), No> {
        let hello: Hello = decode_message(body).map_err(|e| No::new(RefuseCode::Protocol, e.to_string()))?;
        let Some(hello::Session::Stream(stream)) = hello.session else {
            return Err(No::new(RefuseCode::Protocol, "not a stream"));
        };
        let s = &mut self.servers[server];
        let named = Epoch(stream.epoch);
        if self.plan.shell_checks && named != s.spec.epoch && !self.mutant.is(Mutant::StaleEpoch) {
            return Err(No::new(RefuseCode::StaleEpoch, format!("epoch {named} is over")));
        }
        if s.listed.is_some_and(|(_, instance)| instance != hello.instance) {
            return Err(No::new(RefuseCode::Busy, "another agent process sends this server's writes now"));
        }
        self.next_session += 1;
        let id = self.next_session;
        if let Some((old, _)) = s.listed.replace((id, hello.instance)) {
            let no = Some(No::new(RefuseCode::Busy, "a newer session took over"));
            let ended = self.conns.values().filter_map(|c| c.session.as_ref()).find(|s| s.id == old);
            if let Some(ended) = ended {
                ended.end_in.send_replace(no);
            }
        }
        let (acks_in, acks) = watch::channel(Ack::default());
        let (answers_in, answers) = mpsc::channel(OUTGOING);
        let (end_in, end) = watch::channel(None);
        let (reply, opening) = oneshot::channel();
        let out = SessionOut { acks: acks_in, answers: answers_in, end: end_in.clone() };
        let epoch = if self.mutant.is(Mutant::StaleEpoch) { s.spec.epoch } else { named };
        if epoch != named {
            self.say(|| "a stale epoch is let in".into());
        }
        let s = &mut self.servers[server];
        let instance = hello.instance;
        s.jobs.push_back(Job::Open {
            session: id,
            instance,
            lineage: stream.lineage,
            epoch,
            disks: stream.disks,
            out,
            reply,
        });
        s.jobs.extend(s.late.drain(..));
        let session = Session {
            id,
            instance,
            opening: Some(opening),
            receiver: None,
            welcomed: Seq::ZERO,
            acks,
            answers,
            end,
            end_in,
        };
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session = Some(session);
        }
        self.work_soon(server);
        Ok(())
    }

    pub(super) fn refuse(&mut self, conn: u64, no: &No) {
        self.say(|| format!("site refuses on {conn}: {:?} {}", no.code, no.message));
        let refuse = Refuse { code: no.code as i32, message: no.message.clone() };
        self.send(conn, DOWN, &message_frame(FrameType::Refuse, &refuse));
        self.close(conn, UP);
    }

    /// The site's end of a connection is over.
    pub(in crate::world) fn site_closed(&mut self, conn: u64) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (server, Some(session)) = (c.server, c.session.take()) else { return };
        let late = self.rng.percent(20);
        let s = &mut self.servers[server];
        if s.listed == Some((session.id, session.instance)) {
            s.listed = None;
        }
        if s.core.is_none() {
            return;
        }
        if late && let Some(at) = s.jobs.iter().rposition(|j| of_session(j, session.id)) {
            // The session's task had this one in its hands when another session began.
            s.late.extend(s.jobs.remove(at));
        }
        s.jobs.push_back(Job::Close { session: session.id });
        self.work_soon(server);
    }

    pub(in crate::world) fn keepalive(&mut self, conn: u64) {
        let Some(c) = self.conns.get(&conn) else { return };
        if let Some(s) = &c.session
            && s.receiver.is_some()
            && self.sites[self.servers[c.server].site].up
        {
            let ack = *s.acks.borrow();
            // Before the first acknowledgement: what the welcome said.
            let ack = Ack { durable: ack.durable.max(s.welcomed), ..ack };
            self.send(conn, DOWN, &ack.frame());
        }
        self.after(KEEPALIVE, Event::Keepalive { conn });
    }
}

fn of_session(job: &Job, id: u64) -> bool {
    matches!(job, Job::Records { session, .. } if *session == id)
}

/// A frame again from its body.
fn message(kind: FrameType, body: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(body.len() + 8);
    put_header(&mut frame, kind, body.len());
    frame.extend_from_slice(body);
    frame.freeze()
}
