//! Inputs to start from, made by the product's own encoders wherever there is one.

use crate::targets::{journal as story, nbd};
use bytes::Bytes;
use clap::Parser;
use lifeboat::args::{Cli, Command};
use lifeboat::serve::config::SiteConfig;
use lifeboat_api::types::{LaunchOverrides, LaunchSettings, ReplicationSpec, WatchSpec, WindowSpec};
use lifeboat_base::{AgentId, DiskId, Epoch, RunId, Seq, ServerId, WallTime};
use lifeboat_block::codec::Encoder;
use lifeboat_block::{BarrierKind, Body};
use lifeboat_nbd::proto::handshake::{
    Info, InfoRequest, MetaRequest, greeting, meta_context, put_option, put_option_reply,
};
use lifeboat_nbd::proto::transmission::{
    Request, block_status_chunk, data_chunk_prefix, error_chunk, simple_reply,
};
use lifeboat_nbd::proto::{BASE_ALLOCATION, command, command_flags, option};
use lifeboat_nbd::{Client, ClientSettings, Errno};
use lifeboat_replicate::message::restore::{
    self, Restore, RestoreBlob, RestoreDone, RestoreFrame, RestoreGet, RestoreResult,
};
use lifeboat_replicate::message::{
    Assignment, Assignments, BackupBegin, BackupBlob, BackupDone, BackupEnd, BackupFrame, BackupNeeded,
    BackupOffer, BlobRef, Control, ControlSession, Cut, CutResult, Disk, DiskRange, Flushes, Hello, Hold,
    HoldResult, Probe, ProbeResult, Refuse, Renew, Renewed, Report, ServerCut, ServerReport, StreamSession,
    VERSION, Verify, VerifyReport, Welcome, backup, control::Body as Said, hello,
};
use lifeboat_replicate::wire::{
    Ack, Answer, FRAME_HEADER, FrameType, Offer, Ping, RecordsFrame, message_frame,
};
use lifeboat_site::launch::RunSpec;
use prost::Message;
use serde_json::json;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

const SERVER: [u8; 16] = [3; 16];
const DISK: u64 = 1 << 24;

/// `first`, then `rest`: for targets whose first byte says what follows.
fn tagged(first: u8, rest: impl AsRef<[u8]>) -> Vec<u8> {
    [&[first], rest.as_ref()].concat()
}

fn frame(first: u64) -> RecordsFrame {
    let mut f = RecordsFrame::new(Epoch(1), Seq(first), 0);
    let mut encoder = Encoder::default();
    let time = WallTime(1_000_000_000);
    f.push(time, &Body::Disk { disk: DiskId(0), size: DISK });
    for (offset, content) in [(0, vec![7; 4096]), (65_536, (0..=255).collect()), (4096, b"short".to_vec())] {
        let content = Bytes::from(content);
        let (codec, payload) = encoder.encode(&content);
        let (len, crc) = (content.len() as u32, crc32c::crc32c(&content));
        f.push(time, &Body::Data { disk: DiskId(0), offset, len, codec, crc, payload });
    }
    f.push(time, &Body::Zero { disk: DiskId(1), offset: 0, len: DISK });
    f.push(time, &Body::Barrier { kind: BarrierKind::Crash });
    f
}

fn stream_hello() -> Hello {
    let disk = |index: u32| Disk { index, name: format!("/srv/disk{index}.img"), size: DISK };
    let session = StreamSession {
        server: SERVER.to_vec(),
        epoch: 1,
        disks: vec![disk(0), disk(1)],
        lineage: vec![1, 2],
        alive: 0,
    };
    Hello {
        version: VERSION,
        instance: 99,
        agent_version: "1.0".into(),
        session: Some(hello::Session::Stream(session)),
    }
}

fn offer() -> Offer {
    Offer { id: 5, disk: DiskId(1), offset: 1 << 20, exact: true, hashes: vec![[0; 32], [9; 32], [0xff; 32]] }
}

pub fn session() -> Vec<Vec<u8>> {
    let hello = message_frame(FrameType::Hello, &stream_hello());
    let live = Ping { seq: Seq(6), time: WallTime(9), lag_bytes: 4096, live: true }.frame();
    let (records, more) = (frame(1).finish(), frame(7).finish());
    vec![
        [&hello[..], &records, &more, &records, &offer().frame(), &live].concat(),
        [&hello[..], &offer().frame(), &records, &live].concat(),
    ]
}

pub fn records() -> Vec<Vec<u8>> {
    let mut barriers = RecordsFrame::new(Epoch(u32::MAX), Seq(1 << 60), 0);
    for kind in [BarrierKind::Crash, BarrierKind::Filesystem, BarrierKind::Application] {
        barriers.push(WallTime(0), &Body::Barrier { kind });
    }
    [frame(1), barriers].map(|f| f.finish()[FRAME_HEADER..].to_vec()).into()
}

pub fn bodies() -> Vec<Vec<u8>> {
    let answer = Answer { id: 5, needed: vec![true, false, true, true, false, false, false, true, true] };
    let ack = Ack { durable: Seq(77), barrier: Seq(76) };
    let ping = Ping { seq: Seq(6), time: WallTime(9), lag_bytes: 4096, live: true };
    [offer().frame(), answer.frame(), ack.frame(), ping.frame()]
        .iter()
        .zip(0..)
        .map(|(frame, n)| tagged(n, &frame[FRAME_HEADER..]))
        .collect()
}

fn assigned() -> Assignments {
    let of = |n: u8, capture: serde_json::Value| Assignment {
        server: vec![n; 16],
        name: format!("db-{n}"),
        epoch: u32::from(n),
        capture: capture.to_string(),
        disks: vec![Disk { index: 0, name: "/srv/disk0.img".into(), size: DISK }],
        replication: serde_json::to_string(&ReplicationSpec::default()).unwrap(),
    };
    Assignments {
        servers: vec![
            of(1, json!({"kind": "splitter", "paths": ["/srv/disk0.img"], "listen": "tcp:127.0.0.1:10809"})),
            of(2, json!({"kind": "mirror", "qmp": "/run/vm.qmp", "disks": ["disk0"]})),
        ],
    }
}

fn backup_frames() -> [backup::Body; 5] {
    let blobs = vec![BlobRef { hash: vec![7; 32], tree: true }, BlobRef { hash: vec![8; 32], tree: false }];
    let content = bytes::Bytes::from_static(b"content");
    let done = BackupDone { root: vec![7; 32], problems: vec!["/x: no".into()], ..BackupDone::default() };
    [
        backup::Body::Begin(BackupBegin { base: true }),
        backup::Body::Offer(BackupOffer { blobs }),
        backup::Body::Needed(BackupNeeded { blobs: vec![0, 1] }),
        backup::Body::Blob(BackupBlob { tree: false, content }),
        backup::Body::Done(done),
    ]
}

fn restore_frames() -> [restore::Body; 5] {
    let blobs = vec![BlobRef { hash: vec![7; 32], tree: true }, BlobRef { hash: vec![8; 32], tree: false }];
    let content = bytes::Bytes::from_static(b"content");
    let given = RestoreBlob { hash: vec![8; 32], content, ..RestoreBlob::default() };
    let lost =
        RestoreBlob { hash: vec![8; 32], missing: true, error: "gone".into(), ..RestoreBlob::default() };
    let done = RestoreDone { files: 2, problems: vec!["/x: no".into()], ..RestoreDone::default() };
    [
        restore::Body::Get(RestoreGet { blobs }),
        restore::Body::Blob(given),
        restore::Body::Blob(lost),
        restore::Body::Done(done),
        restore::Body::End(BackupEnd { error: "it was cancelled".into() }),
    ]
}

pub fn messages() -> Vec<Vec<u8>> {
    let control = Hello { session: Some(hello::Session::Control(ControlSession {})), ..stream_hello() };
    let welcome = Welcome {
        version: 1,
        durable: 9,
        has_content: true,
        same_writer: true,
        follows: true,
        branch: false,
    };
    let refuse = Refuse { code: 3, message: "epoch 1 is over".into() };
    let different = DiskRange { disk: 0, offset: 65_536, len: 65_536 };
    let verify = VerifyReport {
        id: 4,
        total_bytes: DISK,
        over: true,
        different: vec![different],
        ..VerifyReport::default()
    };
    let report = ServerReport {
        server: SERVER.to_vec(),
        capture: "attached".into(),
        verify: Some(verify.clone()),
        flushes: Some(Flushes { count: 3, source: 1, encode: 2, site: 3, longest: 9 }),
        exports: vec!["nbd+unix:///disk0?socket=/run/a.nbd".into()],
        ..ServerReport::default()
    };
    let cut = ServerCut { server: SERVER.to_vec(), seq: 70, time: 8, held_us: 250 };
    let said = [
        Said::Assignments(assigned()),
        Said::Probe(Probe { capture: assigned().servers[0].capture.clone() }),
        Said::ProbeResult(ProbeResult { disks: assigned().servers[0].disks.clone(), error: None }),
        Said::Report(Report { servers: vec![report] }),
        Said::Renew(Renew { csr: "-----BEGIN CERTIFICATE REQUEST-----".into() }),
        Said::Renewed(Renewed::default()),
        Said::Ping(true),
        Said::Hold(Hold { barrier: 6, servers: vec![SERVER.to_vec(); 2], limit_ms: 500 }),
        Said::HoldResult(HoldResult { error: String::new() }),
        Said::Cut(Cut { barrier: 6, abandon: false }),
        Said::CutResult(CutResult { cuts: vec![cut], error: String::new() }),
        Said::Verify(Verify { server: SERVER.to_vec(), id: 4, rate: 1 << 20, cancel: false }),
        Said::Restore(Restore {
            job: 3,
            root: vec![7; 32],
            request: r#"{"backup":"a","target":"/"}"#.into(),
        }),
        Said::RestoreResult(RestoreResult { error: "nothing is restored to this host".into() }),
    ];
    let mut all = vec![
        tagged(0, stream_hello().encode_to_vec()),
        tagged(0, control.encode_to_vec()),
        tagged(1, welcome.encode_to_vec()),
        tagged(2, refuse.encode_to_vec()),
        tagged(4, assigned().encode_to_vec()),
    ];
    all.extend(backup_frames().map(|body| tagged(5, BackupFrame { body: Some(body) }.encode_to_vec())));
    all.extend(restore_frames().map(|body| tagged(6, RestoreFrame { body: Some(body) }.encode_to_vec())));
    all.extend(said.map(|body| tagged(3, Control { id: 8, body: Some(body) }.encode_to_vec())));
    all
}

pub fn assignments() -> Vec<Vec<u8>> {
    vec![assigned().encode_to_vec()]
}

pub fn nbd_proto() -> Vec<Vec<u8>> {
    let request = Request { flags: 1, command: command::WRITE, cookie: 7, offset: 512, len: 4096 };
    let mut asked = Vec::new();
    put_option(&mut asked, option::GO, b"");
    let mut reply = Vec::new();
    put_option_reply(&mut reply, option::GO, 1, b"");
    let meta = MetaRequest { name: "disk0".into(), queries: vec![BASE_ALLOCATION.into(), "qemu:".into()] };
    vec![
        tagged(0, greeting(3)),
        tagged(1, asked),
        tagged(2, reply),
        tagged(3, InfoRequest { name: "disk0".into(), wanted: vec![0, 1, 3] }.build()),
        tagged(4, Info::Export { size: DISK, flags: 0x6d }.build()),
        tagged(4, Info::BlockSize { minimum: 1, preferred: 4096, largest: 32 << 20 }.build()),
        tagged(5, meta.build()),
        tagged(6, meta_context(1, BASE_ALLOCATION)),
        tagged(7, request.build()),
        tagged(8, simple_reply(7, Some(Errno::NoSpace))),
        tagged(8, data_chunk_prefix(1, 7, 512, 4096)),
        tagged(9, &error_chunk(7, Errno::Io, "no", Some(512))[20..]),
        tagged(9, &block_status_chunk(7, 1, &[(4096, 0), (65_536, 3)])[20..]),
    ]
}

/// All of a session a client might have: options, the choice, requests of each kind.
pub fn nbd_server() -> Vec<Vec<u8>> {
    let mut options = 3u32.to_be_bytes().to_vec();
    put_option(&mut options, option::LIST, b"");
    put_option(&mut options, option::STRUCTURED_REPLY, b"");
    let meta = MetaRequest { name: String::new(), queries: vec![BASE_ALLOCATION.into()] };
    put_option(&mut options, option::LIST_META_CONTEXT, &meta.build());
    put_option(&mut options, option::SET_META_CONTEXT, &meta.build());
    let go = InfoRequest { name: String::new(), wanted: vec![0, 3] };
    put_option(&mut options, option::INFO, &go.build());
    put_option(&mut options, option::GO, &go.build());
    let mut simple = 1u32.to_be_bytes().to_vec();
    put_option(&mut simple, option::EXPORT_NAME, b"");
    let mut aborted = 3u32.to_be_bytes().to_vec();
    put_option(&mut aborted, option::ABORT, b"");
    let mut requests = Vec::new();
    let mut ask = |flags: u16, command: u16, offset: u64, len: u32, data: &[u8]| {
        let cookie = requests.len() as u64;
        requests.extend_from_slice(&Request { flags, command, cookie, offset, len }.build());
        requests.extend_from_slice(data);
    };
    ask(command_flags::FUA, command::WRITE, 4096, 1000, &[5; 1000]);
    ask(0, command::READ, 0, 8192, &[]);
    ask(command_flags::DF, command::READ, nbd::DISK - 512, 512, &[]);
    ask(0, command::TRIM, 4096, 4096, &[]);
    ask(command_flags::NO_HOLE, command::WRITE_ZEROES, 0, 1 << 19, &[]);
    ask(0, command::BLOCK_STATUS, 0, 1 << 20, &[]);
    ask(command_flags::REQ_ONE, command::BLOCK_STATUS, 512, 4096, &[]);
    ask(0, command::CACHE, 0, 4096, &[]);
    ask(0, command::FLUSH, 0, 0, &[]);
    ask(0, command::DISC, 0, 0, &[]);
    vec![[&options[..], &requests].concat(), [&simple[..], &requests].concat(), aborted]
}

/// What the server here says to a client, taken down in passing.
pub fn nbd_client() -> Vec<Vec<u8>> {
    let (ours, client_end) = UnixStream::pair().unwrap();
    let (mut behind, server_end) = UnixStream::pair().unwrap();
    nbd::server_here().serve_stream(server_end);
    let mut said = Vec::new();
    std::thread::scope(|s| {
        let (mut from_client, mut to_server) = (ours.try_clone().unwrap(), behind.try_clone().unwrap());
        s.spawn(move || {
            let _ = std::io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });
        s.spawn(move || {
            let client = Client::connect_export(client_end, "", &ClientSettings::default()).unwrap();
            nbd::drive(&client);
            client.disconnect();
        });
        let mut chunk = [0; 4096];
        let mut to_client = &ours;
        while let Ok(n @ 1..) = behind.read(&mut chunk) {
            said.extend_from_slice(&chunk[..n]);
            let _ = to_client.write_all(&chunk[..n]);
        }
        let _ = ours.shutdown(Shutdown::Both);
    });
    vec![said]
}

pub fn journal() -> Vec<Vec<u8>> {
    let files = &story::story().0;
    // The same files under different repairs: the mutator then meets what lies behind each checksum.
    [(1, 0), (4, 0), (4, 1), (4, 3), (4, 7), (2, 7)].map(|(at, mode)| files[at].build(mode)).into()
}

pub fn site_toml() -> Vec<Vec<u8>> {
    let line = [
        "lifeboat",
        "init",
        "/srv/site",
        "--name",
        "east",
        "--advertise",
        "east.example.org",
        "--advertise",
        "192.0.2.7",
        "--vault",
        "s3://bucket/east",
        "--endpoint",
        "https://s3.example.org",
    ];
    let Command::Init(args) = Cli::parse_from(line).command else { return Vec::new() };
    let config = SiteConfig::from_init(&args).map_err(|e| e.message).unwrap();
    vec![config.to_text().into_bytes(), b"name = 'a'".to_vec()]
}

pub fn agent_toml() -> Vec<Vec<u8>> {
    let config = lifeboat_agent::identity::AgentConfig {
        name: "source".into(),
        id: AgentId::from_slice(&SERVER).unwrap(),
        replication: "[2001:db8::1]:1500".into(),
        no_restore: true,
    };
    vec![toml::to_string(&config).unwrap().into_bytes()]
}

pub fn stored_json() -> Vec<Vec<u8>> {
    let (server, agent) = (ServerId::from_slice(&SERVER).unwrap(), AgentId::from_slice(&SERVER).unwrap());
    let spec = json!({
        "id": server, "name": "db-1", "agent": agent, "epoch": 1,
        "capture": {"kind": "splitter", "paths": ["/srv/disk0.img"]},
        "disks": [{"index": 0, "name": "/srv/disk0.img", "size": DISK}],
        "window": WindowSpec::default(), "replication": ReplicationSpec::default(), "active": true,
    });
    let run = RunSpec::new(RunId::from_slice(&SERVER).unwrap(), "db-1", Path::new("/srv/runs/1"));
    let record = json!({
        "version": 1, "spec": run, "forwards": [{"guest_port": 80, "host_port": 8080}],
        "accel": {"kind": "tcg", "reason": "asked for"}, "boot_id": "b", "process": null,
        "started": "2026-01-01T00:00:00Z", "stop_requested": false,
    });
    vec![
        tagged(0, spec.to_string()),
        tagged(1, record.to_string()),
        tagged(2, serde_json::to_string(&run).unwrap()),
    ]
}

pub fn api_json() -> Vec<Vec<u8>> {
    let launch = LaunchOverrides { cpus: Some(2), ports: vec![80], ..LaunchOverrides::default() };
    let capture = json!({"kind": "splitter", "paths": ["/srv/disk0.img"]});
    [
        json!({"name": "db-1", "agent": "source", "capture": capture, "launch": LaunchSettings::default()}),
        json!({"server": "db-1", "point": "20s ago", "writable": true, "branch": "b1.7f3a"}),
        json!({"point": "latest", "launch": launch, "checks": ["http:80/"], "keep_seconds": 5}),
        json!({"point": "p1.4711", "checks": ["tcp:22"], "discard_current": true}),
        json!({"kind": "operator", "name": "ops", "ttl_seconds": 60}),
        json!({"token": "lbj_x", "name": "source", "csr": "-----BEGIN CERTIFICATE REQUEST-----"}),
        serde_json::to_value(LaunchSettings::default()).unwrap(),
        serde_json::to_value(launch).unwrap(),
        serde_json::to_value(WindowSpec::default()).unwrap(),
        json!({"window": WindowSpec::default(), "watch": WatchSpec::default()}),
        json!({"name": "shop", "servers": ["db-1", "web-1"], "every_seconds": 30, "hold_ms": 200}),
        serde_json::to_value(WatchSpec::default()).unwrap(),
        serde_json::to_value(ReplicationSpec::default()).unwrap(),
    ]
    .iter()
    .zip(0..)
    .map(|(value, n)| tagged(n, value.to_string()))
    .collect()
}

fn lines(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|t| t.as_bytes().to_vec()).collect()
}

pub fn points() -> Vec<Vec<u8>> {
    lines(&["latest", "p1.4711", "20s ago", "5m", "1d", "2026-11-20 03:14:15", "2026-11-20T03:14:15.25Z"])
}

pub fn checks() -> Vec<Vec<u8>> {
    lines(&[
        "tcp:22",
        "http:80/health",
        "http://[2001:db8::1]:8080/x",
        "serial:^(login|root).*: $",
        "script:/srv/check.sh",
    ])
}

pub fn addresses() -> Vec<Vec<u8>> {
    let id = ServerId::from_slice(&SERVER).unwrap().to_string();
    vec![
        tagged(0, "unix:/run/db-1.nbd"),
        tagged(0, "tcp:[::1]:10809"),
        tagged(1, "ab:".repeat(31) + "ab"),
        tagged(2, "bridge:br-lan.5"),
        tagged(3, &id),
        tagged(4, &id),
        tagged(5, "replicating"),
        tagged(6, "https://[2001:db8::1]:8443/"),
        tagged(6, "dr.example.org"),
    ]
}

pub fn qmp() -> Vec<Vec<u8>> {
    let image = json!({"filename": "/srv/a.img", "format": "raw", "virtual-size": DISK});
    let said = [
        json!({"QMP": {"version": {"qemu": {"major": 8, "minor": 2, "micro": 0}}, "capabilities": []}}),
        json!({"return": {}, "id": 1}),
        json!({"return": {"status": "running", "running": true}, "id": 2}),
        json!({"return": {"name": "vm"}, "id": 3}),
        json!({"return": [{"device": "m", "type": "mirror", "len": 5, "offset": 5, "busy": false,
            "paused": false, "speed": 0, "io-status": "ok", "ready": true}], "id": 4}),
        json!({"return": [{"id": "j", "type": "stream", "status": "running", "current-progress": 1,
            "total-progress": 2}], "id": 5}),
        json!({"event": "BLOCK_JOB_READY", "data": {"device": "m"},
            "timestamp": {"seconds": 1, "microseconds": 2}}),
        json!({"return": [{"node-name": "disk0", "drv": "raw", "ro": false, "file": "/srv/a.img",
            "image": image}], "id": 6}),
        json!({"return": [{"device": "", "inserted": {"ro": false, "drv": "raw", "file": "/srv/a.img",
            "image": image}}], "id": 7}),
        json!({"error": {"class": "GenericError", "desc": "no"}, "id": 8}),
    ];
    vec![said.iter().map(|v| format!("{v}\n")).collect::<String>().into_bytes()]
}
