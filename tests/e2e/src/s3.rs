//! A real S3 service (moto) as a process of its own, and a network before it that fails on demand.
//!
//! The proxy speaks HTTP/1.1 as far as it must to tell requests apart: it takes one whole, and then does what it was told.
//! Each connection has a thread; a request's answer is passed on whole.

use crate::dir::TestDir;
use crate::process::Process;
use crate::tool::{free_port, repository};
use crate::wait::wait_for;
use lifeboat_sim::clock;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest request taken.
const LONGEST: usize = 256 << 20;

/// The service. Ends with this.
pub struct S3Server {
    pub process: Process,
    address: SocketAddr,
}

impl S3Server {
    /// # Panics
    /// When it is not installed or does not start.
    pub fn start(dir: &TestDir) -> Self {
        let own = repository().join(".cache/tools/moto/bin/moto_server");
        assert!(own.exists(), "there is no S3 service at {}: run scripts/setup.sh test", own.display());
        let port = free_port();
        let mut command = Command::new(own);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let process = Process::start("moto", dir.path(), &mut command);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait_for("the S3 service", Duration::from_secs(60), || TcpStream::connect(address).is_ok());
        Self { process, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a bucket.
    ///
    /// # Panics
    /// When it cannot.
    pub fn bucket(&self, name: &str, locks: bool) {
        let header = if locks { "x-amz-bucket-object-lock-enabled: true\r\n" } else { "" };
        let answer = self.plain(&format!("PUT /{name}"), header);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Answer to a request without body and signature.
    ///
    /// # Panics
    /// When there is none.
    pub fn plain(&self, request: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fate {
    /// Answered with this status and body; the service does not see it.
    Answer(u16, String),
    /// The service carries it out, and the client is answered this.
    DoneBut(u16, String),
    /// The service carries it out, and the connection is cut.
    DoneAndCut,
    Cut,
    /// Half of the answer, and a cut.
    Half,
    /// No answer, for so long; then a cut.
    Silence(Duration),
    /// The answer comes so much later.
    Late(Duration),
}

type Choose = Box<dyn FnMut(&str) -> Option<Fate> + Send>;

#[derive(Default)]
struct Orders {
    choose: Option<Choose>,
    struck: u64,
}

/// The network before the service.
pub struct S3Proxy {
    address: SocketAddr,
    orders: Arc<Mutex<Orders>>,
}

fn locked(orders: &Mutex<Orders>) -> MutexGuard<'_, Orders> {
    orders.lock().unwrap_or_else(PoisonError::into_inner)
}

impl S3Proxy {
    /// # Panics
    /// When it cannot listen.
    pub fn before(server: &S3Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, upstream) = (listener.local_addr().unwrap(), server.address());
        let orders: Arc<Mutex<Orders>> = Arc::default();
        let given = orders.clone();
        // Ends with the process: it holds nothing.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let orders = given.clone();
                std::thread::spawn(move || {
                    let _ = serve(client, upstream, &orders);
                });
            }
        });
        Self { address, orders }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks `choose` about each request's first line from now on, e.g. `PUT /bucket/name HTTP/1.1`.
    pub fn each(&self, choose: impl FnMut(&str) -> Option<Fate> + Send + 'static) {
        locked(&self.orders).choose = Some(Box::new(choose));
    }

    /// The next `times` requests whose first line contains all of `parts` have this fate.
    pub fn next(&self, mut times: usize, parts: &'static [&'static str], fate: Fate) {
        self.each(move |line| {
            let struck = times > 0 && parts.iter().all(|part| line.contains(part));
            times -= usize::from(struck);
            struck.then(|| fate.clone())
        });
    }

    /// Everything passes from now on.
    pub fn pass(&self) {
        locked(&self.orders).choose = None;
    }

    /// Requests that did not pass so far.
    pub fn struck(&self) -> u64 {
        locked(&self.orders).struck
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A head up to its empty line, and the length of what follows; `None` at the end of the stream.
fn head(from: &mut impl BufRead) -> io::Result<Option<(String, Option<usize>)>> {
    let (mut head, mut length) = (String::new(), None);
    loop {
        let at = head.len();
        if from.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        let line = head[at..].trim_end().to_ascii_lowercase();
        if line.is_empty() {
            return Ok(Some((head, length)));
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = Some(value.trim().parse().map_err(|_| invalid("a length"))?);
        }
        if head.len() > 64 << 10 {
            return Err(invalid("a head"));
        }
    }
}

fn serve(client: TcpStream, upstream: SocketAddr, orders: &Mutex<Orders>) -> io::Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    let mut to = client;
    while let Some((request, length)) = head(&mut from)? {
        let length = length.unwrap_or(0);
        if length > LONGEST {
            return Err(invalid("a request that long"));
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        let line = request.lines().next().unwrap_or_default().to_string();
        let fate = {
            let mut orders = locked(orders);
            let fate = orders.choose.as_mut().and_then(|choose| choose(&line));
            orders.struck += u64::from(fate.is_some());
            fate
        };
        match &fate {
            Some(Fate::Cut) => return Ok(()),
            Some(Fate::Silence(time)) => {
                clock::pace(*time);
                return Ok(());
            }
            Some(Fate::Answer(status, text)) => {
                to.write_all(&answer(*status, text))?;
                continue;
            }
            _ => {}
        }
        let told = forward(upstream, &request, &body)?;
        match fate {
            Some(Fate::DoneAndCut) => return Ok(()),
            Some(Fate::DoneBut(status, text)) => to.write_all(&answer(status, &text))?,
            Some(Fate::Half) => return to.write_all(&told[..told.len() / 2]),
            Some(Fate::Late(time)) => {
                clock::pace(time);
                to.write_all(&told)?;
            }
            _ => to.write_all(&told)?,
        }
    }
    Ok(())
}

fn answer(status: u16, text: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Told\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
}

/// The service's whole answer, as bytes to pass on.
fn forward(upstream: SocketAddr, request: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(upstream)?;
    // One request for each connection: its end is the answer's end.
    let request = request.trim_end();
    server.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes())?;
    server.write_all(body)?;
    let mut all = Vec::new();
    server.read_to_end(&mut all)?;
    // The client may go on with this connection.
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| invalid("an answer"))?;
    let kept: Vec<&str> = std::str::from_utf8(&all[..end])
        .map_err(|_| invalid("an answer"))?
        .split("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
        .collect();
    let mut out = kept.join("\r\n").into_bytes();
    out.extend_from_slice(&all[end..]);
    Ok(out)
}
