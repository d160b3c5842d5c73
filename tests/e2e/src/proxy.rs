//! A bad network on demand: a TCP proxy on the loopback between an agent and its site.
//!
//! It sees sealed bytes only and needs no key. What it can tell in them is where TLS records end, and that is
//! where it can be told to strike: after any record, or after any byte.
//!
//! Invariants: one thread owns both sockets of a connection; what it has taken from one side and not given to the
//! other is bounded; a strike happens once, on the first connection that gets there.

use lifeboat_sim::clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Most bytes held of one direction.
const HELD: usize = 16 << 10;

/// How soon a change of plan is noticed.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToSite,
    ToAgent,
}

/// What happens to everything that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    Pass,
    /// Each piece waits this long.
    Delay(Duration),
    /// At most so many bytes at a time, each piece a packet of its own.
    Slice(usize),
    /// Bytes a second, each way.
    Throttle(u64),
    /// Nothing is taken and nothing given: half-open to both.
    Hold,
    /// What goes this way is taken and lost.
    Swallow(Way),
}

/// Where a strike falls, counted from the start of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// When so many TLS records have passed.
    Record(u64),
    /// When so many bytes have passed.
    Byte(u64),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both sides see an orderly end.
    Close,
    /// Both sides see a reset.
    Reset,
    /// Neither sees anything; nothing moves any more.
    Stall,
}

#[derive(Debug, Clone, Copy)]
struct Strike {
    way: Way,
    at: At,
    end: End,
}

#[derive(Debug)]
struct Orders {
    plan: Plan,
    strike: Option<Strike>,
    /// Connections up to this number are to end so.
    drop_to: (u64, End),
    /// This connection alone is held.
    held: Option<u64>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    orders: Mutex<Orders>,
    over: AtomicBool,
    accepted: AtomicU64,
    struck: AtomicU64,
    /// Bytes given, to the site and to the agent.
    passed: [AtomicU64; 2],
    /// Bytes that open connections have given.
    given: Mutex<HashMap<u64, u64>>,
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running proxy. Dropping it ends all its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a free port of the loopback and passes everything on to `upstream`.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let orders = Orders { plan: Plan::Pass, strike: None, drop_to: (0, End::Close), held: None };
        let shared = Arc::new(Shared {
            upstream,
            orders: Mutex::new(orders),
            over: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            struck: AtomicU64::new(0),
            passed: Default::default(),
            given: Mutex::default(),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || accept(&listener, &shared))
        };
        Self { address, shared, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for all connections.
    pub fn set(&self, plan: Plan) {
        let mut orders = self.shared.orders();
        orders.plan = plan;
        orders.held = None;
    }

    /// Holds the open connection that has passed most, and no other: under load, the stream without the control session.
    ///
    /// # Panics
    /// When there is none.
    pub fn hold_busiest(&self) {
        let busiest = self.shared.given().iter().max_by_key(|(_, given)| **given).map(|(n, _)| *n);
        assert!(busiest.is_some(), "there is no connection");
        self.shared.orders().held = busiest;
    }

    /// Ends the first connection that gets there from its start. Replaces an order not yet carried out.
    pub fn strike(&self, way: Way, at: At, end: End) {
        self.shared.orders().strike = Some(Strike { way, at, end });
    }

    /// Strikes carried out so far.
    pub fn struck(&self) -> u64 {
        self.shared.struck.load(Ordering::SeqCst)
    }

    /// Ends every connection there is.
    pub fn drop_all(&self, end: End) {
        self.shared.orders().drop_to = (self.accepted(), end);
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Bytes given so far, that way.
    pub fn passed(&self, way: Way) -> u64 {
        self.shared.passed[way as usize].load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while !shared.over.load(Ordering::SeqCst) {
        let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&TICK));
        let Ok((agent, _)) = listener.accept() else { continue };
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        let shared = Arc::clone(shared);
        connections.push(std::thread::spawn(move || {
            // The site may be away: then the agent sees its connection end, as it would without a proxy.
            if let Ok(site) = TcpStream::connect(shared.upstream) {
                let _ = Connection::new(agent, site, number, Arc::clone(&shared)).and_then(Connection::run);
                shared.given().remove(&number);
            }
        }));
        connections.retain(|c: &JoinHandle<()>| !c.is_finished());
    }
    for c in connections {
        let _ = c.join();
    }
}

/// One direction of one connection.
struct Flow {
    way: Way,
    held: Vec<u8>,
    /// When what is held may go, with [`Plan::Delay`].
    due: Duration,
    /// When the next byte may go, with [`Plan::Throttle`].
    earned_at: Duration,
    bytes: u64,
    records: Records,
    ended: bool,
}

impl Flow {
    fn new(way: Way) -> Self {
        let now = clock::elapsed();
        let (held, records) = (Vec::new(), Records::default());
        Self { way, held, due: now, earned_at: now, bytes: 0, records, ended: false }
    }

    /// How many of the held bytes go before the strike falls, if it does within them.
    fn until(&self, strike: Strike) -> Option<usize> {
        match strike.at {
            At::Byte(n) => n.checked_sub(self.bytes).map(|n| n as usize).filter(|n| *n <= self.held.len()),
            At::Record(n) => {
                let mut records = self.records.clone();
                if records.whole == n {
                    return (records.left_in_record() == 0).then_some(0);
                }
                self.held.iter().position(|b| records.take(*b) && records.whole == n).map(|at| at + 1)
            }
        }
    }

    /// How many bytes may go now.
    fn allowed(&mut self, plan: Plan) -> usize {
        let now = clock::elapsed();
        let all = self.held.len();
        match plan {
            Plan::Hold => 0,
            Plan::Delay(_) if now < self.due => 0,
            Plan::Slice(n) => all.min(n),
            Plan::Throttle(rate) => {
                // No more than a tick's worth is saved up.
                self.earned_at = self.earned_at.max(now.saturating_sub(Duration::from_millis(20)));
                let earned = now.saturating_sub(self.earned_at).as_micros() as u64 * rate / 1_000_000;
                all.min(earned as usize)
            }
            _ => all,
        }
    }

    fn gave(&mut self, n: usize, plan: Plan) {
        for b in self.held.drain(..n) {
            self.records.take(b);
        }
        self.bytes += n as u64;
        if let Plan::Throttle(rate) = plan {
            self.earned_at += Duration::from_micros(n as u64 * 1_000_000 / rate.max(1));
        }
    }
}

/// Where TLS records end: kind u8, version u16, length u16 big-endian, then so many bytes.
#[derive(Debug, Clone, Default)]
pub struct Records {
    header: Vec<u8>,
    payload: usize,
    pub whole: u64,
}

impl Records {
    /// Takes the next byte; true when it is the last of a record.
    pub fn take(&mut self, byte: u8) -> bool {
        if self.header.len() < 5 {
            self.header.push(byte);
            if self.header.len() == 5 {
                self.payload = usize::from(self.header[3]) << 8 | usize::from(self.header[4]);
            }
        } else {
            self.payload -= 1;
        }
        let over = self.header.len() == 5 && self.payload == 0;
        if over {
            self.header.clear();
            self.whole += 1;
        }
        over
    }

    fn left_in_record(&self) -> usize {
        self.header.len() + self.payload
    }
}

struct Connection {
    agent: TcpStream,
    site: TcpStream,
    number: u64,
    flows: [Flow; 2],
    shared: Arc<Shared>,
    stalled: bool,
}

impl Connection {
    fn new(agent: TcpStream, site: TcpStream, number: u64, shared: Arc<Shared>) -> io::Result<Self> {
        for s in [&agent, &site] {
            s.set_nonblocking(true)?;
            s.set_nodelay(true)?;
        }
        let flows = [Flow::new(Way::ToSite), Flow::new(Way::ToAgent)];
        Ok(Self { agent, site, number, flows, shared, stalled: false })
    }

    fn run(mut self) -> io::Result<()> {
        while !self.shared.over.load(Ordering::SeqCst) {
            let (last, how) = self.shared.orders().drop_to;
            if self.number <= last && !self.end(how) {
                return Ok(());
            }
            let mut moved = false;
            for n in 0..2 {
                if self.stalled {
                    break;
                }
                moved |= self.take(n)?;
                let (gave, strike) = self.give(n)?;
                moved |= gave > 0;
                if strike.is_some_and(|end| !self.end(end)) {
                    return Ok(());
                }
            }
            if self.flows.iter().all(|f| f.ended && f.held.is_empty()) {
                return Ok(());
            }
            if !moved {
                self.wait();
            }
        }
        Ok(())
    }

    /// Ends both sides; true when the connection is to be kept, silent.
    fn end(&mut self, end: End) -> bool {
        match end {
            End::Close => {}
            End::Reset => [&self.agent, &self.site].into_iter().for_each(linger_nothing),
            End::Stall => self.stalled = true,
        }
        end == End::Stall
    }

    fn sides(&self, n: usize) -> (&TcpStream, &TcpStream) {
        if n == 0 { (&self.agent, &self.site) } else { (&self.site, &self.agent) }
    }

    fn plan(&self) -> Plan {
        let orders = self.shared.orders();
        if orders.held == Some(self.number) { Plan::Hold } else { orders.plan }
    }

    /// Reads what is there, if there is room for it.
    fn take(&mut self, n: usize) -> io::Result<bool> {
        if self.plan() == Plan::Hold || self.flows[n].ended || !self.flows[n].held.is_empty() {
            return Ok(false);
        }
        let mut chunk = vec![0; HELD];
        match self.sides(n).0.read(&mut chunk) {
            Ok(0) => {
                self.flows[n].ended = true;
                let _ = self.sides(n).1.shutdown(Shutdown::Write);
            }
            Ok(len) => {
                // Asked again: what was sent after a change of plan goes by the new one.
                let plan = self.plan();
                let flow = &mut self.flows[n];
                if let Plan::Delay(d) = plan {
                    flow.due = clock::elapsed() + d;
                }
                if plan != Plan::Swallow(flow.way) {
                    flow.held.extend_from_slice(&chunk[..len]);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// Writes what may go: how much it was, and the end that a strike falling now puts to it.
    fn give(&mut self, n: usize) -> io::Result<(usize, Option<End>)> {
        let (plan, strike) = (self.plan(), self.shared.orders().strike);
        let flow = &mut self.flows[n];
        let allowed = flow.allowed(plan);
        let strike = strike.filter(|s| s.way == flow.way).and_then(|s| flow.until(s).map(|at| (at, s.end)));
        let most = strike.map_or(allowed, |(at, _)| at.min(allowed));
        let mut gave = 0;
        if most > 0 {
            gave = match self.sides(n).1.write(&self.flows[n].held[..most]) {
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                Err(e) => return Err(e),
            };
            self.flows[n].gave(gave, plan);
            self.shared.passed[n].fetch_add(gave as u64, Ordering::SeqCst);
            *self.shared.given().entry(self.number).or_default() += gave as u64;
        }
        // Another connection may have been first.
        let falls = strike.is_some_and(|(at, _)| at == gave) && self.shared.orders().strike.take().is_some();
        if falls {
            self.shared.struck.fetch_add(1, Ordering::SeqCst);
        }
        Ok((gave, strike.map(|(_, end)| end).filter(|_| falls)))
    }

    fn wait(&self) {
        let plan = self.plan();
        let mut ready = Vec::new();
        for (n, socket) in [&self.agent, &self.site].into_iter().enumerate() {
            let mut interest = PollFlags::empty();
            if !self.stalled {
                let flow = &self.flows[n];
                interest.set(PollFlags::IN, plan != Plan::Hold && flow.held.is_empty() && !flow.ended);
                interest.set(PollFlags::OUT, plan == Plan::Pass && !self.flows[1 - n].held.is_empty());
            }
            // A socket that nothing is wanted of would still report its end, again and again.
            if !interest.is_empty() {
                ready.push(PollFd::new(socket, interest));
            }
        }
        let _ = poll(&mut ready, Some(&TICK));
    }
}

/// Makes the coming close a reset.
fn linger_nothing(socket: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests;
