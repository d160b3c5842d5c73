//! The tools people use, against this server; and the servers people use, against this client.
//!
//! Needs nbdkit, libnbd-bin, python3-libnbd, fio and qemu-utils, which the project's set-up script installs.
#![allow(clippy::unwrap_used)]

mod common;

use common::{PATIENCE, eventually};
use lifeboat_base::SystemClock;
use lifeboat_block::{BlockDevice, BlockError, ExtentKind, FileDevice, MemoryDevice};
use lifeboat_nbd::{Client, ClientSettings, Export, Exports, Server, ServerSettings};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;

const SIZE: u64 = 32 << 20;

/// A file served on a socket, in a directory of its own.
struct Served {
    dir: tempfile::TempDir,
    server: Server,
}

impl Served {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        FileDevice::create(&dir.path().join("disk"), SIZE).unwrap();
        let device = FileDevice::open(&dir.path().join("disk"), false).unwrap();
        let exports = Exports::single(Arc::new(device));
        let path = dir.path().join("nbd");
        let server =
            Server::listen_unix(&path, exports, ServerSettings::default(), Arc::new(SystemClock)).unwrap();
        Self { dir, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.path("nbd").display())
    }

    /// A file of the disk's size with data, zeros and holes, different for each `seed`.
    fn image(&self, name: &str, seed: u32) -> PathBuf {
        let path = self.path(name);
        let file = std::fs::File::create_new(&path).unwrap();
        file.set_len(SIZE).unwrap();
        for (at, len) in [(0, 1 << 20), (5 << 20, 300_000), (9 << 20, 4096), (SIZE - 512, 512)] {
            let data: Vec<u8> = (0..len as u32)
                .map(|i| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect();
            file.write_all_at(&data, at).unwrap();
        }
        file.write_all_at(&vec![0; 1 << 20], 12 << 20).unwrap();
        path
    }
}

/// Runs a tool that must succeed; returns what it printed.
fn tool(name: &str, args: &[&str]) -> String {
    let out = Command::new(name).args(args).output().unwrap_or_else(|e| {
        panic!("cannot run {name} ({e}); run the project's set-up script, which installs it")
    });
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{name} {args:?}: {}\n{stdout}\n{stderr}", out.status);
    stdout.into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn nbdinfo_sees_what_is_offered() {
    let served = Served::new();
    let mut second = Export::new(Arc::new(MemoryDevice::new(4096)));
    second.description = "a second one".into();
    served.server.exports().insert("b", second);
    let info: serde_json::Value = serde_json::from_str(&tool("nbdinfo", &["--json", &served.uri()])).unwrap();
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["structured"], true);
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], SIZE);
    for (key, expected) in [
        ("is_read_only", false),
        ("is_rotational", false),
        ("can_cache", true),
        ("can_df", true),
        ("can_fast_zero", false),
        ("can_flush", true),
        ("can_fua", true),
        ("can_multi_conn", true),
        ("can_trim", true),
        ("can_zero", true),
    ] {
        assert_eq!(export[key], expected, "{key}");
    }
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    assert_eq!(export["block_size_minimum"], 1);
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["block_size_maximum"], 32 << 20);

    let list: serde_json::Value =
        serde_json::from_str(&tool("nbdinfo", &["--list", "--json", &served.uri()])).unwrap();
    let names: Vec<_> = list["exports"].as_array().unwrap().iter().map(|e| &e["export-name"]).collect();
    assert_eq!(names, ["", "b"]);
    assert_eq!(list["exports"][1]["description"], "a second one");
}

#[test]
fn nbdcopy_there_and_back_is_exact() {
    let served = Served::new();
    let (there, back) = (served.image("there", 1), served.path("back"));
    for connections in ["--connections=1", "--connections=4"] {
        tool("nbdcopy", &["--flush", connections, text(&there), &served.uri()]);
        let _ = std::fs::remove_file(&back);
        tool("nbdcopy", &[connections, &served.uri(), text(&back)]);
        assert!(std::fs::read(&there).unwrap() == std::fs::read(&back).unwrap());
    }
    let map: serde_json::Value =
        serde_json::from_str(&tool("nbdinfo", &["--map", "--json", &served.uri()])).unwrap();
    let covered: u64 = map.as_array().unwrap().iter().map(|r| r["length"].as_u64().unwrap()).sum();
    assert_eq!(covered, SIZE);
    assert!(served.server.wait_idle(PATIENCE), "the tools hang up when they are done");
}

#[test]
fn nbdsh_gets_each_command_and_each_error() {
    let served = Served::new();
    let script = r#"
import errno
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(uri)
size = h.get_size()
h.pwrite(b"a" * 4096, 8192)
h.pwrite(b"b" * 512, 512, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 8192) == bytearray(b"a" * 4096)
assert h.pread(1024, 0) == bytearray(512) + bytearray(b"b" * 512)
h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(4096, 8192) == bytearray(4096)
h.pwrite(b"c" * 131072, 65536)
h.trim(65536, 65536, nbd.CMD_FLAG_FUA)
h.cache(4096, 0)
h.flush()

runs = []
def status(context, offset, entries, error):
    assert context == nbd.CONTEXT_BASE_ALLOCATION
    runs.extend(zip(entries[0::2], entries[1::2]))
h.block_status(262144, 0, status)
assert sum(r[0] for r in runs) == 262144, runs
at = dict()
pos = 0
for length, state in runs:
    at[pos] = (length, state)
    pos += length
assert at[131072] == (65536, 0), runs
runs.clear()
h.block_status(262144, 0, status, nbd.CMD_FLAG_REQ_ONE)
assert len(runs) == 1, runs

chunks = []
def chunk(buf, offset, state, error):
    chunks.append((offset, len(buf), state))
h.pread_structured(262144, 0, chunk)
assert sum(c[1] for c in chunks) == 262144, chunks
assert any(c[2] == nbd.READ_HOLE for c in chunks), chunks
chunks.clear()
h.pread_structured(262144, 0, chunk, nbd.CMD_FLAG_DF)
assert chunks == [(0, 262144, nbd.READ_DATA)], chunks

h.set_strict_mode(0)
def fails(expected, call, *args):
    try:
        call(*args)
    except nbd.Error as e:
        assert e.errnum == expected, (call, args, e)
    else:
        assert False, (call, args)
fails(errno.EINVAL, h.pread, 512, size)
fails(errno.ENOSPC, h.pwrite, b"x" * 512, size - 511)
fails(errno.ENOSPC, h.zero, 512, size)
fails(errno.EINVAL, h.trim, 512, size)
fails(errno.EINVAL, h.trim, 0, 0)
fails(errno.ENOTSUP, h.zero, 512, 0, nbd.CMD_FLAG_FAST_ZERO)
fails(errno.EINVAL, h.pwrite, b"x", 0, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(512, 512) == bytearray(b"b" * 512)
h.shutdown()

g = nbd.NBD()
g.set_opt_mode(True)
g.connect_unix(socket)
g.set_export_name("nothing")
fails(errno.ENOENT, g.opt_info)
g.set_export_name("")
g.opt_info()
assert g.get_size() == size
names = []
g.opt_list(lambda name, description: names.append(name))
assert names == [""], names
g.opt_go()
g.shutdown()

g = nbd.NBD()
g.set_request_structured_replies(False)
g.connect_unix(socket)
assert not g.get_structured_replies_negotiated()
assert g.pread(512, 512) == bytearray(b"b" * 512)
g.shutdown()
"#;
    let head = format!("uri = {:?}\nsocket = {:?}\n", served.uri(), text(&served.path("nbd")));
    let script_file = served.path("script.py");
    std::fs::write(&script_file, format!("import nbd\nh = nbd.NBD()\n{head}{script}")).unwrap();
    tool("/usr/bin/python3", &[text(&script_file)]);
    // `nbdsh` itself takes whichever python3 comes first, which need not be the one that has libnbd.
    tool("/usr/bin/python3", &["-m", "nbd", "-u", &served.uri(), "-c", "assert h.get_size() == 32 << 20"]);
}

#[test]
fn qemu_io_reads_what_it_wrote() {
    let served = Served::new();
    let mut args = vec!["-f", "raw"];
    for command in [
        "write -P 0x5a 4k 64k",
        "write -f -P 0xa5 1M 3M",
        "write -z 8k 4k",
        "write -zu 1M 64k",
        "discard 2M 64k",
        "aio_write -P 0x11 10M 1M",
        "aio_write -P 0x12 11M 1M",
        "aio_flush",
        "flush",
        "read -P 0x5a 4k 4k",
        "read -P 0 8k 4k",
        "read -P 0x5a 12k 56k",
        "read -P 0 1M 64k",
        "read -P 0 2M 64k",
        "read -P 0xa5 3M 1M",
        "read -P 0x11 10M 1M",
        "read -P 0x12 11M 1M",
        "read -P 0 20M 12M",
    ] {
        args.extend(["-c", command]);
    }
    let uri = served.uri();
    args.push(&uri);
    let out = tool("qemu-io", &args);
    assert!(!out.contains("failed"), "{out}");
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    let served = Served::new();
    let (first, second) = (served.image("first", 1), served.image("second", 2));
    let uri = served.uri();
    tool("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", text(&first), &uri]);
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&first), &uri]);
    let differs =
        Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw", text(&second), &uri]).status();
    assert_eq!(differs.unwrap().code(), Some(1), "qemu-img must see a difference where there is one");
    let map: Vec<serde_json::Value> =
        serde_json::from_str(&tool("qemu-img", &["map", "-f", "raw", "--output=json", &uri])).unwrap();
    assert_eq!(map.iter().map(|r| r["length"].as_u64().unwrap()).sum::<u64>(), SIZE);
    let disk = std::fs::read(served.path("disk")).unwrap();
    for run in map.iter().filter(|r| r["zero"] == true) {
        let (start, len) =
            (run["start"].as_u64().unwrap() as usize, run["length"].as_u64().unwrap() as usize);
        assert!(disk[start..start + len].iter().all(|b| *b == 0), "{run}");
    }
    assert!(map.iter().any(|r| r["zero"] == true && r["data"] == false), "{map:?}");
}

#[test]
fn fio_verifies_what_it_wrote() {
    let served = Served::new();
    let uri = format!("--uri={}", served.uri());
    let verify = ["--verify=crc32c", "--do_verify=1", "--verify_fatal=1"];
    for (rw, bs, extra) in [
        ("--rw=randrw", "--bsrange=512-8k", &verify[..]),
        ("--rw=randwrite", "--bs=256k", &verify[..]),
        ("--rw=randtrimwrite", "--bs=4k", &[]),
    ] {
        let mut args = vec![
            "--name=t",
            "--ioengine=nbd",
            &uri,
            rw,
            bs,
            "--iodepth=32",
            "--size=16M",
            "--fsync=64",
            "--verify_state_save=0",
        ];
        args.extend(extra);
        tool("fio", &args);
    }
}

/// A server of somebody else's, ended with the test.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn foreign(name: &str, args: &[&str], socket: &Path) -> Foreign {
    let child = Command::new(name).args(args).spawn().unwrap_or_else(|e| {
        panic!("cannot run {name} ({e}); run the project's set-up script, which installs it")
    });
    let server = Foreign(child);
    eventually("the socket of another server", || std::os::unix::net::UnixStream::connect(socket).is_ok());
    server
}

/// What any server must give this client.
fn exercise(client: &Client) {
    assert_eq!(client.size(), SIZE);
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    client.write(4096, data.clone().into()).unwrap();
    client.flush().unwrap();
    let mut back = vec![0; data.len()];
    client.read(4096, &mut back).unwrap();
    assert!(back == data);
    client.trim(8192, 65536).unwrap();
    let parts = client.read_many(&[(0, 4096), (8192, 65536), (73728, 512)]).unwrap();
    assert!(parts[0].iter().chain(&parts[1]).all(|b| *b == 0));
    assert_eq!(parts[2], data[73728 - 4096..73728 - 4096 + 512]);
    assert!(client.knows_holes());
    let runs = client.block_status(0, SIZE).unwrap();
    assert!(runs.iter().any(|r| r.kind == ExtentKind::Data), "{runs:?}");
    assert!(matches!(client.read(SIZE, &mut [0]), Err(BlockError::OutOfRange { .. })));
}

#[test]
fn this_client_works_with_qemu_nbd_and_nbdkit() {
    let dir = tempfile::tempdir().unwrap();
    let (file, socket) = (dir.path().join("disk"), dir.path().join("qemu"));
    FileDevice::create(&file, SIZE).unwrap();
    let _qemu = foreign(
        "qemu-nbd",
        &["--persistent", "--discard=unmap", "-f", "raw", "-k", text(&socket), text(&file)],
        &socket,
    );
    let client = Client::connect_unix(&socket, "", &ClientSettings::default()).unwrap();
    exercise(&client);
    client.disconnect();

    let socket = dir.path().join("kit");
    let _kit = foreign("nbdkit", &["-f", "-U", text(&socket), "memory", "32M"], &socket);
    let client = Client::connect_unix(&socket, "", &ClientSettings::default()).unwrap();
    exercise(&client);
    client.disconnect();

    let socket = dir.path().join("full");
    let args = [
        "-f",
        "-U",
        text(&socket),
        "--filter=error",
        "memory",
        "32M",
        "error-pwrite=ENOSPC",
        "error-pwrite-rate=1",
    ];
    let _kit = foreign("nbdkit", &args, &socket);
    let client = Client::connect_unix(&socket, "", &ClientSettings::default()).unwrap();
    assert!(matches!(client.write(0, vec![1; 512].into()), Err(BlockError::NoSpace)));
    client.read(0, &mut [0; 512]).unwrap();
}
