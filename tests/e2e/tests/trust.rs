//! Who is let in, who is not, and what is written down of it.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::{Place, Site, TestDir, binary, wait_for};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

fn audited(site: &Site, text: &str) {
    wait_for(&format!("the audit log to tell of {text:?}"), Duration::from_secs(30), || {
        site.json(&["audit"]).to_string().contains(text)
    });
}

#[test]
fn i6_tokens_work_once_and_only_while_they_are_valid() {
    let dir = TestDir::new("trust-token");
    let site = Site::start(dir.path(), "dr", &Place::host());
    let token = site.json(&["token", "create", "--agent"])["token"].as_str().unwrap().to_owned();
    let join = |token: &str, name: &str| {
        let out = Command::new(binary("lifeboat-agent"))
            .arg("--dir")
            .arg(dir.join(name))
            .args(["join", "--site", site.url(), "--token", token, "--name", name])
            .output()
            .unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert!(join(&token, "first").0);
    let (ok, why) = join(&token, "second");
    assert!(!ok && why.contains("token"), "{why}");
    assert!(!dir.join("second").exists(), "nothing half-made is left");
    audited(&site, "join");
    // A token of another site, so another authority: the agent must not give its secret away.
    let mut other = token.clone();
    other.replace_range(other.len() - 4.., "0000");
    let (ok, why) = join(&other, "third");
    assert!(!ok, "{why}");
    let (ok, why) = join("nonsense", "fourth");
    assert!(!ok && why.contains("join token"), "{why}");
    // Wrong tokens at the API.
    let out = site.command(&["status"]).env("LIFEBOAT_TOKEN", "lb_0000000000000000_00").output().unwrap();
    assert_eq!(out.status.code(), Some(4), "{}", String::from_utf8_lossy(&out.stderr));
    // A viewer may look and nothing else.
    let viewer = site.json(&["token", "create", "--role", "viewer"])["token"].as_str().unwrap().to_owned();
    let as_viewer = |arguments: &[&str]| {
        site.command(arguments).env("LIFEBOAT_TOKEN", &viewer).output().unwrap().status.code()
    };
    assert_eq!(as_viewer(&["status"]), Some(0));
    assert_eq!(as_viewer(&["token", "create", "--role", "admin"]), Some(4));
    assert_eq!(as_viewer(&["delete", "x", "--delete-points", "--yes"]), Some(4));
    audited(&site, "may not do this");
}

#[test]
fn i6_a_revoked_agent_is_cut_and_stays_out() {
    let dir = TestDir::new("trust-revoke");
    let site = Site::start(dir.path(), "dr", &Place::host());
    let agent = site.agent(dir.path(), "source", &Place::host());
    let disk = dir.join("disk.img");
    std::fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    site.ok(&["protect", "db-1", "--agent", "source", "--export", disk.to_str().unwrap()]);
    site.wait_ready("db-1");
    site.ok(&["agents", "revoke", "source"]);
    wait_for("the stream to be cut", Duration::from_secs(10), || {
        site.server("db-1")["runtime"]["connected"] == false
    });
    audited(&site, "revoked");
    // It keeps knocking; it is not let in.
    let knocks = || agent.process.said().matches("refused").count();
    let before = knocks();
    wait_for("it to be refused again", Duration::from_secs(30), || knocks() > before + 1);
    assert_eq!(site.server("db-1")["runtime"]["connected"], false);
    // What it had sent is still there.
    let (id, _) = site.mount("db-1", "latest");
    site.ok(&["unmount", &id]);
}

#[test]
fn i6_an_agent_of_another_site_is_refused_and_audited() {
    let dir = TestDir::new("trust-foreign");
    let here = Site::start(dir.path(), "here", &Place::host());
    let there = Site::start(dir.path(), "there", &Place::host());
    let mut agent = here.agent(dir.path(), "source", &Place::host());
    agent.process.terminate(Duration::from_secs(30));
    // Pointed at the other site's listener.
    let of = |site: &Site| {
        let text = std::fs::read_to_string(site.dir.join("site.toml")).unwrap();
        let at = text.find("[replication]").unwrap();
        let line = text[at..].lines().find(|l| l.starts_with("listen")).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    };
    let config = agent.dir.join("agent.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace(&of(&here), &of(&there));
    assert!(text.contains(&of(&there)), "{text}");
    std::fs::write(&config, text).unwrap();
    agent.restart();
    // The agent itself trusts its own site only.
    wait_for("the agent to refuse the stranger", Duration::from_secs(30), || {
        agent.process.said().contains("UnknownIssuer")
    });
    audited(&there, "peer.connect");
    // One that trusts the other site has still no certificate of it.
    agent.process.terminate(Duration::from_secs(30));
    std::fs::copy(there.dir.join("ca.crt"), agent.dir.join("ca.pem")).unwrap();
    let refusals = || there.json(&["audit"]).to_string().matches("peer.connect").count();
    let before = refusals();
    agent.restart();
    wait_for("the foreign certificate to be refused", Duration::from_secs(90), || refusals() > before);
    assert_eq!(there.json(&["agents"]).as_array().unwrap().len(), 0);
}

#[test]
fn hostile_bytes_on_every_port_end_nothing() {
    let dir = TestDir::new("trust-bytes");
    let site = Site::start(dir.path(), "dr", &Place::host());
    let agent = site.agent(dir.path(), "source", &Place::host());
    let disk = dir.join("disk.img");
    std::fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    site.ok(&["protect", "db-1", "--agent", "source", "--export", disk.to_str().unwrap()]);
    site.wait_ready("db-1");
    let text = std::fs::read_to_string(site.dir.join("site.toml")).unwrap();
    let ports: Vec<&str> =
        text.lines().filter(|l| l.starts_with("listen")).map(|l| l.split('"').nth(1).unwrap()).collect();
    assert_eq!(ports.len(), 2, "{text}");
    let mut noise = vec![0u8; 100_000];
    let mut state = 1u64;
    for b in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *b = (state >> 56) as u8;
    }
    let starts: [&[u8]; 4] = [b"", b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 0xff, 0xff], &[0xff; 64]];
    for port in ports {
        for start in starts {
            let mut peer = TcpStream::connect(port).unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
            // The other side may hang up at any moment.
            let _ = peer.write_all(start);
            let _ = peer.write_all(&noise);
            let _ = peer.shutdown(std::net::Shutdown::Write);
            let mut rest = Vec::new();
            let _ = peer.read_to_end(&mut rest);
            assert!(rest.len() < 100_000);
        }
    }
    let socket = agent.export("db-1");
    for start in starts {
        let mut peer = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let _ = peer.write_all(start);
        let _ = peer.write_all(&noise);
        let _ = peer.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = peer.read_to_end(&mut rest);
    }
    site.wait_caught_up("db-1");
}
