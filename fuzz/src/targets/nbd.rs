//! NBD, both ways, over a real socket whose peer says what it was given and hangs up.

use lifeboat_block::{BlockDevice, MemoryDevice, ZeroMode};
use lifeboat_nbd::proto::handshake::{
    Info, InfoRequest, MetaRequest, OptionHeader, OptionReplyHeader, parse_greeting, parse_meta_context,
};
use lifeboat_nbd::proto::transmission::{ReplyHeader, Request, parse_block_status, parse_error};
use lifeboat_nbd::{Client, ClientSettings, Exports, Server, ServerSettings};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Bytes of the export that is served here.
pub const DISK: u64 = 1 << 20;

/// Longest a hostile session may hold its connection after its peer hung up.
const END: Duration = Duration::from_secs(30);

/// The pure parsers; the first byte says which.
pub fn proto(data: &[u8]) {
    let Some((which, body)) = data.split_first() else { return };
    match which % 10 {
        0 => drop(parse_greeting(body)),
        1 => drop(OptionHeader::parse(body)),
        2 => drop(OptionReplyHeader::parse(body)),
        3 => {
            if let Ok(x) = InfoRequest::parse(body) {
                assert_eq!(InfoRequest::parse(&x.build()), Ok(x));
            }
        }
        4 => {
            if let Ok(x) = Info::parse(body) {
                assert_eq!(Info::parse(&x.build()), Ok(x));
            }
        }
        5 => {
            if let Ok(x) = MetaRequest::parse(body) {
                assert_eq!(MetaRequest::parse(&x.build()), Ok(x));
            }
        }
        6 => drop(parse_meta_context(body)),
        7 => {
            if let Ok(x) = Request::parse(body) {
                assert_eq!(Request::parse(&x.build()), Ok(x));
            }
        }
        8 => {
            let _ = (ReplyHeader::len_of(body), ReplyHeader::parse(body));
        }
        _ => {
            let _ = (parse_error(body), parse_block_status(body));
        }
    }
}

/// A server of one export, shared by all inputs of this process.
pub fn server_here() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let exports = Exports::single(Arc::new(MemoryDevice::new(DISK)));
        let settings = ServerSettings { handshake: END, ..ServerSettings::default() };
        let clock = Arc::new(lifeboat_base::SystemClock);
        Server::listen_tcp(([127, 0, 0, 1], 0).into(), exports, settings, clock).unwrap()
    })
}

/// All a client may say to a server, before and after the handshake.
pub fn server(data: &[u8]) {
    let server = server_here();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    server.serve_stream(theirs);
    // The socket's buffer takes the longest input; the server may hang up in the middle of it.
    let _ = ours.write_all(data);
    let _ = ours.shutdown(Shutdown::Write);
    ours.set_read_timeout(Some(END)).unwrap();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match ours.read(&mut chunk) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the server waits for a peer that is gone")
            }
            Err(_) => break,
        }
    }
    drop(ours);
    assert!(server.wait_idle(END), "a connection outlives its peer");
}

/// What every client session here does; a hostile server answers.
pub fn drive(client: &Client) {
    let mut buf = vec![0; 64 << 10];
    let len = client.size().min(buf.len() as u64) as usize;
    let _ = client.read(0, &mut buf[..len]);
    if len > 0
        && let Ok(runs) = client.block_status(0, client.size().min(DISK))
    {
        let covered: u64 = runs.iter().map(|r| r.len).sum();
        assert!(!runs.is_empty() && covered > 0, "a status that says nothing");
    }
    let _ = client.write(0, vec![7; 4096.min(len)].into());
    let _ = client.write_zeroes(0, len as u64, ZeroMode::MayPunch);
    let _ = client.flush();
    let _ = client.read_many(&[(0, len.min(512)), (512.min(client.size()), 0)]);
}

/// All a server may say to a client.
pub fn client(data: &[u8]) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let _ = ours.write_all(data);
    let _ = ours.shutdown(Shutdown::Write);
    let settings = ClientSettings { silence: Duration::from_secs(10), ..ClientSettings::default() };
    if let Ok(client) = Client::connect_export(theirs, "", &settings) {
        drive(&client);
    }
}
