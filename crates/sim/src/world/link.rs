//! Links: bytes between an agent and its site, as late, slow, sliced and broken as the seed says.
//!
//! Invariant: within one connection bytes arrive in order or not at all, as TCP and TLS see to.

use super::chance::{MS, SEC, US};
use super::{Event, World};
use bytes::{Bytes, BytesMut};
use lifeboat_base::limits::{MAX_FRAME, SESSION_SILENCE};
use lifeboat_replicate::wire::{FRAME_HEADER, FrameType, WireError, parse_header};
use std::collections::VecDeque;

/// Bytes one side may have on the way.
const WINDOW: usize = 256 * 1024;

/// To the site, and back.
pub const UP: usize = 0;
pub const DOWN: usize = 1;

/// The path between an agent and its site.
pub struct Link {
    pub latency: u64,
    /// Bytes a second; 0 for no limit.
    pub bandwidth: u64,
    /// Nothing passes, by direction.
    pub down: [bool; 2],
    pub slices: bool,
    pub replay: bool,
    pub reset_after: Option<u64>,
    /// Frames of records the site has on stable storage.
    pub seen: VecDeque<(lifeboat_base::Seq, Bytes)>,
}

impl Link {
    pub fn new(latency: u64, bandwidth: u64) -> Self {
        Self {
            latency,
            bandwidth,
            down: [false; 2],
            slices: false,
            replay: false,
            reset_after: None,
            seen: VecDeque::new(),
        }
    }
}

enum Chunk {
    Bytes(Bytes),
    End,
}

/// One direction of a connection.
#[derive(Default)]
pub struct Pipe {
    chunks: VecDeque<Chunk>,
    in_flight: usize,
    busy_until: u64,
    last_arrival: u64,
    /// Arrivals that wait for the link.
    stalled: usize,
    received: BytesMut,
    /// When the receiver last heard something.
    pub heard: u64,
    /// The receiver takes what comes.
    pub open: bool,
}

/// A connection. Pipes by direction: the receiver of [`UP`] is the site.
pub struct Conn {
    pub agent: usize,
    pub server: usize,
    pub pipes: [Pipe; 2],
    /// The agent was welcomed.
    pub streaming: bool,
    pub session: Option<super::site::Session>,
}

impl World {
    /// Makes a connection; `None` when the link does not let it through.
    pub(super) fn connect_link(&mut self, agent: usize) -> Option<u64> {
        let a = &self.agents[agent];
        let server = a.server;
        let site = &self.sites[self.servers[server].site];
        if a.link.down.contains(&true) || !site.up {
            return None;
        }
        self.next_conn += 1;
        let id = self.next_conn;
        let pipe = || Pipe { open: true, heard: self.now, ..Pipe::default() };
        let conn = Conn { agent, server, pipes: [pipe(), pipe()], streaming: false, session: None };
        self.conns.insert(id, conn);
        self.after(1000 * MS, Event::Silence { conn: id });
        self.after(2000 * MS, Event::Keepalive { conn: id });
        Some(id)
    }

    pub(super) fn has_window(&self, conn: u64) -> bool {
        self.conns.get(&conn).is_some_and(|c| c.pipes[UP].in_flight < WINDOW)
    }

    /// Sends a frame.
    pub(super) fn send(&mut self, conn: u64, way: usize, frame: &Bytes) {
        let Some(c) = self.conns.get(&conn) else { return };
        let slices = self.agents[c.agent].link.slices;
        let mut at = 0;
        while at < frame.len() {
            let left = frame.len() - at;
            let n = match slices {
                false => left,
                // Small frames and the first bytes of large ones byte by byte.
                true if at < 40 => 1,
                true => left.min(1 + self.rng.below(1 + frame.len() as u64 / 4) as usize),
            };
            self.send_chunk(conn, way, Chunk::Bytes(frame.slice(at..at + n)));
            at += n;
        }
    }

    fn send_chunk(&mut self, conn: u64, way: usize, chunk: Chunk) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let link = &self.agents[c.agent].link;
        let pipe = &mut c.pipes[way];
        let len = if let Chunk::Bytes(b) = &chunk { b.len() } else { 0 };
        let takes = (len as u64 * SEC).checked_div(link.bandwidth).unwrap_or(0);
        pipe.busy_until = pipe.busy_until.max(self.now) + takes;
        let jitter = self.rng.below(link.latency / 4 + US);
        let arrival = (pipe.busy_until + link.latency + jitter).max(pipe.last_arrival);
        pipe.last_arrival = arrival;
        pipe.in_flight += len;
        pipe.chunks.push_back(chunk);
        self.at(arrival, Event::Arrive { conn, way });
    }

    /// A chunk is there; the frames it completes are handed over.
    pub(super) fn arrive(&mut self, conn: u64, way: usize) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (agent, pipe) = (c.agent, &mut c.pipes[way]);
        if self.agents[agent].link.down[way] {
            pipe.stalled += 1;
            return;
        }
        let Some(chunk) = pipe.chunks.pop_front() else { return };
        match chunk {
            Chunk::Bytes(b) => {
                pipe.in_flight -= b.len();
                if pipe.open {
                    pipe.received.extend_from_slice(&b);
                    pipe.heard = self.now;
                }
            }
            Chunk::End => return self.close(conn, way),
        }
        if way == UP {
            self.wake(agent, 0);
        }
        while let Some(c) = self.conns.get_mut(&conn)
            && c.pipes[way].open
        {
            match take_frame(&mut c.pipes[way].received) {
                Ok(Some((kind, body))) => self.frame(conn, way, kind, body),
                Ok(None) => return,
                Err(e) => return self.violate(format!("bytes that are no frame on a connection: {e}")),
            }
        }
    }

    fn frame(&mut self, conn: u64, way: usize, kind: FrameType, body: Bytes) {
        if way == DOWN {
            return self.agent_frame(conn, kind, body);
        }
        let Some(agent) = self.conns.get(&conn).map(|c| c.agent) else { return };
        self.site_frame(conn, kind, body);
        let link = &mut self.agents[agent].link;
        match &mut link.reset_after {
            Some(0) => {
                link.reset_after = None;
                self.break_connections(agent);
            }
            Some(n) => *n -= 1,
            None => {}
        }
    }

    /// The receiver of a direction has ended, by itself or because it heard so: its own sending ends too.
    pub(super) fn close(&mut self, conn: u64, way: usize) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        if !std::mem::replace(&mut c.pipes[way].open, false) {
            return;
        }
        let agent = c.agent;
        if way == DOWN {
            self.agent_closed(agent, conn);
        } else {
            self.site_closed(conn);
        }
        self.send_chunk(conn, 1 - way, Chunk::End);
        self.forget(conn);
    }

    fn forget(&mut self, conn: u64) {
        if self.conns.get(&conn).is_some_and(|c| !c.pipes[UP].open && !c.pipes[DOWN].open) {
            self.conns.remove(&conn);
        }
    }

    /// Every connection of the agent breaks; what is on the way is lost.
    pub(super) fn break_connections(&mut self, agent: usize) {
        let broken: Vec<u64> =
            self.conns.iter().filter(|(_, c)| c.agent == agent).map(|(id, _)| *id).collect();
        for conn in broken {
            self.break_connection(conn);
        }
    }

    pub(super) fn break_connection(&mut self, conn: u64) {
        for way in [UP, DOWN] {
            if let Some(c) = self.conns.get_mut(&conn) {
                c.pipes[way].chunks.clear();
            }
            self.close(conn, way);
        }
    }

    /// The link passes everything again; what waited goes on.
    pub(super) fn link_up(&mut self, agent: usize) {
        self.agents[agent].link.down = [false; 2];
        let mine: Vec<u64> = self.conns.iter().filter(|(_, c)| c.agent == agent).map(|(id, _)| *id).collect();
        for conn in mine {
            for way in [UP, DOWN] {
                let Some(c) = self.conns.get_mut(&conn) else { continue };
                let stalled = std::mem::take(&mut c.pipes[way].stalled);
                c.pipes[way].last_arrival = c.pipes[way].last_arrival.max(self.now);
                for _ in 0..stalled {
                    self.at(self.now, Event::Arrive { conn, way });
                }
            }
        }
    }

    /// Ends that have heard nothing for too long give up.
    pub(super) fn silence(&mut self, conn: u64) {
        let limit = SESSION_SILENCE.as_nanos() as u64;
        for way in [UP, DOWN] {
            let Some(c) = self.conns.get(&conn) else { return };
            if c.pipes[way].open && self.now.saturating_sub(c.pipes[way].heard) > limit {
                self.close(conn, way);
            }
        }
        if self.conns.contains_key(&conn) {
            self.after(1000 * MS, Event::Silence { conn });
        }
    }
}

fn take_frame(received: &mut BytesMut) -> Result<Option<(FrameType, Bytes)>, WireError> {
    let Some(header) = received.first_chunk::<FRAME_HEADER>() else { return Ok(None) };
    let (kind, len) = parse_header(*header, MAX_FRAME)?;
    if received.len() < FRAME_HEADER + len {
        return Ok(None);
    }
    let mut frame = received.split_to(FRAME_HEADER + len).freeze();
    Ok(Some((kind, frame.split_off(FRAME_HEADER))))
}
