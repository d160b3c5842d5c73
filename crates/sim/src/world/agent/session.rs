//! The agent's session with its site: hello, frames both ways, and another try after a while.

use super::World;
use crate::world::Event;
use crate::world::chance::{MS, SEC};
use crate::world::disk::Disk;
use crate::world::link::{DOWN, UP};
use bytes::Bytes;
use lifeboat_base::limits::{HANDSHAKE, HEARTBEAT_EVERY};
use lifeboat_base::{DiskId, Seq};
use lifeboat_replicate::message::{
    Disk as DiskMessage, Hello, Refuse, StreamSession, VERSION, Welcome, hello,
};
use lifeboat_replicate::sender::{FrameBytes, Welcomed};
use lifeboat_replicate::wire::{Ack, Answer, FrameType, decode_message, message_frame};

impl World {
    pub(in crate::world) fn connect(&mut self, agent: usize) {
        if self.agents[agent].conn.is_some() || self.agents[agent].retired {
            return;
        }
        let Some(conn) = self.connect_link(agent) else { return self.connect_later(agent) };
        let a = &mut self.agents[agent];
        (a.conn, a.pinged, a.hailed) = (Some(conn), None, a.name);
        let session = StreamSession {
            server: vec![a.server as u8; 16],
            epoch: a.epoch.0,
            disks: disk_messages(&a.disks),
            lineage: a.lineage.clone(),
            // No sign of life: a host is never put back from an older state here.
            ..StreamSession::default()
        };
        let hello = Hello {
            version: VERSION,
            instance: a.name,
            agent_version: String::new(),
            session: Some(hello::Session::Stream(session)),
        };
        self.send(conn, UP, &message_frame(FrameType::Hello, &hello));
        self.after(HANDSHAKE.as_nanos() as u64, Event::Greeting { conn });
    }

    pub(super) fn connect_later(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        if !a.up || a.retired {
            return;
        }
        a.backoff = (a.backoff * 2).clamp(200 * MS, 10 * SEC);
        let (life, half) = (a.life, a.backoff / 2);
        let wait = half + self.rng.below(half);
        self.after(wait, Event::Connect { agent, life });
    }

    /// The time for a welcome is over.
    pub(in crate::world) fn greeting(&mut self, conn: u64) {
        if self.conns.get(&conn).is_some_and(|c| !c.streaming) {
            self.close(conn, DOWN);
        }
    }

    pub(in crate::world) fn agent_closed(&mut self, agent: usize, conn: u64) {
        let a = &mut self.agents[agent];
        if a.conn != Some(conn) {
            return;
        }
        a.conn = None;
        a.sender.disconnected();
        self.connect_later(agent);
    }

    pub(in crate::world) fn agent_frame(&mut self, conn: u64, kind: FrameType, body: Bytes) {
        let Some(agent) = self.conns.get(&conn).map(|c| c.agent) else { return };
        let now = self.stamp(agent);
        let a = &mut self.agents[agent];
        if a.conn != Some(conn) || !a.up {
            return;
        }
        let outcome = match kind {
            FrameType::Welcome => match decode_message::<Welcome>(&body) {
                Ok(w) => {
                    let durable = Seq(w.durable);
                    let Welcome { has_content, same_writer, follows, .. } = w;
                    a.welcomed = a.hailed;
                    a.sender.connected(now, &Welcomed { durable, has_content, same_writer, follows });
                    if let Some(c) = self.conns.get_mut(&conn) {
                        c.streaming = true;
                    }
                    self.say(|| format!("agent {agent} welcome {durable} same {same_writer}"));
                    Ok(())
                }
                Err(e) => Err(e.to_string()),
            },
            FrameType::Ack => match Ack::decode(body) {
                Ok(ack) => {
                    a.backoff = 0;
                    a.sender.ack(ack).map_err(|e| e.to_string())
                }
                Err(e) => Err(e.to_string()),
            },
            FrameType::Answer => match Answer::decode(body) {
                Ok(answer) => a.sender.answered(now, &answer).map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            },
            FrameType::Refuse => {
                let text = decode_message::<Refuse>(&body).map_or_else(|e| e.to_string(), |r| r.message);
                self.say(|| format!("agent {agent} refused: {text}"));
                self.close(conn, DOWN);
                Ok(())
            }
            other => Err(format!("unexpected {other:?}")),
        };
        self.judge_verify(agent);
        if let Err(e) = outcome {
            // Both sides are ours and the link tells no lies: one of them is wrong.
            self.violate(format!("the site broke the protocol: {e}"));
        }
        self.wake(agent, 0);
    }

    /// Writes what there is to the connection.
    pub(super) fn pump(&mut self, agent: usize) {
        while let Some(conn) = self.agents[agent].conn
            && self.conns.get(&conn).is_some_and(|c| c.streaming)
            && self.has_window(conn)
        {
            let heartbeat = HEARTBEAT_EVERY.as_nanos() as u64;
            if self.agents[agent].pinged.is_none_or(|at| self.now - at >= heartbeat) {
                let now = self.stamp(agent);
                let a = &mut self.agents[agent];
                a.pinged = Some(self.now);
                let (ping, life) = (a.sender.ping(now).frame(), a.life);
                self.send(conn, UP, &ping);
                self.after(heartbeat, Event::Ping { agent, life });
                continue;
            }
            match self.agents[agent].sender.next_frame() {
                Some(FrameBytes::Memory(frame)) => self.send(conn, UP, &frame),
                Some(FrameBytes::Spooled(slot)) => {
                    let Some(frame) = self.unspool(agent, conn, slot) else { return };
                    self.send(conn, UP, &frame);
                }
                None => return,
            }
            self.replay(agent, conn);
        }
    }

    /// Sends once more what the site has already, from whichever session.
    fn replay(&mut self, agent: usize, conn: u64) {
        let a = &self.agents[agent];
        if !a.link.replay {
            return;
        }
        let at = self.rng.below(a.link.seen.len() as u64 * 2) as usize;
        let promised = self.servers[a.server].line.promised;
        if let Some((last, frame)) = a.link.seen.get(at)
            && *last <= promised
        {
            let frame = frame.clone();
            self.send(conn, UP, &frame);
        }
    }
}

fn disk_messages(disks: &[Disk]) -> Vec<DiskMessage> {
    let message = |(i, d): (usize, &Disk)| {
        let name = format!("{}", DiskId(i as u16));
        DiskMessage { index: i as u32, name, size: d.now.size() }
    };
    disks.iter().enumerate().map(message).collect()
}
