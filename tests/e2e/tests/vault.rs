//! The vault as its users meet it: points that last, a lost site that comes back, keys that do not fit, people who may not.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::s3::S3Server;
use lifeboat_e2e::site::SOON;
use lifeboat_e2e::{
    Guest, GuestImage, Place, Rig, Site, TestDir, binary, free_port, rig, run, wait_for, wait_some,
};
use lifeboat_sim::oracle::Settings;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const PASSPHRASE: &str = "correct horse battery staple";

/// Points of a server, newest first.
fn points(site: &Site, server: &str) -> Vec<Value> {
    site.json(&["points", server, "--limit", "1000"]).as_array().unwrap().clone()
}

fn id(point: &Value) -> String {
    point["id"].as_str().unwrap().to_string()
}

fn in_vault(point: &Value) -> bool {
    point["vault"].is_object()
}

fn wait_vault(site: &Site) {
    wait_for("the vault to be ready", SOON, || site.json(&["vault", "status"])["state"] == "ready");
}

/// A recovery kit of the site, at `path`.
fn make_kit(site: &Site, path: &Path) {
    let out = site
        .command(&["vault", "key", "kit", "--out", path.to_str().unwrap()])
        .env("LIFEBOAT_KIT_PASSPHRASE", PASSPHRASE)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// `lifeboat vault attach`, as typed on a new machine.
fn attach(dir: &Path, location: &Path, kit: &Path, passphrase: &str, ports: (u16, u16)) -> Output {
    attach_to(dir, &[location.to_str().unwrap()], kit, passphrase, ports)
}

/// The same, where the place takes more words.
fn attach_to(dir: &Path, place: &[&str], kit: &Path, passphrase: &str, ports: (u16, u16)) -> Output {
    Command::new(binary("lifeboat"))
        .args(["vault", "attach", "--json", "--kit", kit.to_str().unwrap()])
        .args(place)
        .args(["--listen-api", &format!("127.0.0.1:{}", ports.0)])
        .args(["--listen-replication", &format!("127.0.0.1:{}", ports.1)])
        .args(["--advertise", "127.0.0.1", "--dir"])
        .arg(dir)
        .env("LIFEBOAT_KIT_PASSPHRASE", passphrase)
        .output()
        .unwrap()
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// A point as a raw image, by `lifeboat export`.
fn export(site: &Site, server: &str, point: &str, to: &Path) {
    site.ok(&["export", server, "--point", point, "-o", to.to_str().unwrap(), "--force"]);
}

fn same(a: &Path, b: &Path) {
    run(Command::new("cmp").arg(a).arg(b));
}

/// I1, I6, rows 26, 30, 35: a site is protected, points are named, everything is lost; a new site attached to the vault has
/// it all, byte for byte, at a higher epoch, and the agent of the old one is let in again.
#[test]
fn i1_a_lost_site_comes_back_from_its_vault_and_kit() {
    let rig = Rig::start("vault-attach", 64, &[]);
    wait_vault(&rig.site);
    let load = rig.load(Settings { depth: 8, rate: 500, ..Settings::default() });
    rig.site.wait_new_point(rig::SERVER);
    load.stop();
    rig.site.wait_caught_up(rig::SERVER);
    // A moment a person wants to keep, whatever the rules say.
    rig.site.ok(&["hold", rig::SERVER, "latest", "--name", "before-upgrade"]);
    let named = points(&rig.site, rig::SERVER).into_iter().find(in_vault).unwrap();
    assert_eq!(named["vault"]["name"], "before-upgrade");
    let before = rig.dir.join("before.img");
    export(&rig.site, rig::SERVER, &id(&named), &before);
    same(&before, &rig.disk);
    let load = rig.load(Settings { depth: 8, rate: 500, seed: 2, ..Settings::default() });
    rig.site.wait_new_point(rig::SERVER);
    load.stop();
    rig.site.wait_caught_up(rig::SERVER);
    let by_name = rig.dir.join("by-name.img");
    export(&rig.site, rig::SERVER, "before-upgrade", &by_name);
    same(&before, &by_name);
    let kit = rig.dir.join("dr.kit");
    make_kit(&rig.site, &kit);
    rig.site.ok(&["group", "create", "all", rig::SERVER, "--every", "0s"]);
    rig.site.ok(&["backup", "create", "/etc/hostname", "--name", "etc", "--only-define"]);
    let epoch = rig.site.server(rig::SERVER)["epoch"].as_u64().unwrap();
    wait_for("the catalogue to be in the vault", SOON, || catalogues(&rig.site.dir.join("vault")) >= 2);

    // Everything of the site is lost but its vault.
    let Rig { dir, disk, mut agent, mut site, .. } = rig;
    agent.process.terminate(Duration::from_secs(30));
    site.process.kill();
    let vault = dir.join("rescued");
    std::fs::rename(site.dir.join("vault"), &vault).unwrap();
    std::fs::rename(&site.dir, dir.join("lost")).unwrap();
    let ports = (free_port(), free_port());
    let home = dir.join("new");
    let refused = attach(&home, &vault, &kit, "not the passphrase", ports);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    assert!(said(&refused).contains("does not open this recovery kit"), "{}", said(&refused));
    let nowhere = attach(&home, &dir.join("nothing"), &kit, PASSPHRASE, ports);
    assert!(!nowhere.status.success() && !home.exists(), "{}", said(&nowhere));
    let made = attach(&home, &vault, &kit, PASSPHRASE, ports);
    assert!(made.status.success(), "{}", said(&made));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let new = Site::serve_made(dir.path(), "new", &Place::host(), &made, ports);
    assert_eq!(new.fingerprint(), site.fingerprint(), "it has the CA of the lost one");
    wait_for("the catalogue to be read", SOON, || !new.json(&["servers"]).as_array().unwrap().is_empty());
    let server = new.server(rig::SERVER);
    assert_eq!(server["state"], "stopped");
    assert!(server["epoch"].as_u64().unwrap() > epoch, "{server}");
    assert_eq!(new.json(&["group", "list"])[0]["servers"][0], rig::SERVER);
    assert_eq!(new.json(&["backup", "sets"])[0]["set"]["name"], "etc");
    let kept = wait_some("points of the vault", SOON, || {
        let all = points(&new, rig::SERVER);
        all.iter().any(|p| p["vault"]["name"] == "before-upgrade").then_some(all)
    });
    assert!(kept.iter().all(|p| in_vault(p) && p["journal"] == false), "{kept:?}");
    let after = dir.join("after.img");
    export(&new, rig::SERVER, "before-upgrade", &after);
    same(&before, &after);
    // The agent of the lost site is let in again, and goes on at the new epoch.
    agent.go_to(&new);
    agent.wait_connected(&new);
    new.ok(&["resume", rig::SERVER]);
    new.wait_ready(rig::SERVER);
    let latest = dir.join("latest.img");
    export(&new, rig::SERVER, "latest", &latest);
    same(&disk, &latest);
    drop(new);
}

/// Rows 18, 26: a vault on the site's disk moves to a bucket by way of a copy; the bucket's service hangs, and nothing but
/// the vault waits; everything but the bucket is lost, and a new site has all points from there.
#[test]
fn a_vault_moves_to_a_bucket_and_a_site_comes_back_from_it() {
    let mut rig = Rig::start("vault-move", 16, &[]);
    let service = S3Server::start(&rig.dir);
    service.bucket("disaster", false);
    wait_vault(&rig.site);
    let load = rig.load(Settings { depth: 4, rate: 300, ..Settings::default() });
    rig.site.wait_new_point(rig::SERVER);
    load.stop();
    rig.site.wait_caught_up(rig::SERVER);
    rig.site.ok(&["hold", rig::SERVER, "latest", "--name", "before-the-move"]);
    let before = rig.dir.join("before.img");
    export(&rig.site, rig::SERVER, "before-the-move", &before);
    let keys = rig.dir.join("s3.key");
    std::fs::write(&keys, "[default]\naws_access_key_id = a\naws_secret_access_key = b\n").unwrap();
    let endpoint = format!("http://{}", service.address());
    let bucket = format!(
        "location = \"s3://disaster/site\"\nendpoint = \"{endpoint}\"\npath_style = true\nallow_http = true\n\
         access_key_file = \"{}\"\n",
        keys.display()
    );
    let file = rig.site.dir.join("site.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut change = |text: &str| {
        rig.site.process.terminate(Duration::from_secs(40));
        std::fs::write(&file, text).unwrap();
        rig.site.restart();
    };
    change(&format!("{text}\n[[vault.copies]]\n{bucket}"));
    let copies = |site: &Site| site.json(&["vault", "status"])["copies"].as_array().unwrap().clone();
    wait_for("the new place to be known", SOON, || {
        copies(&rig.site).get(1).is_some_and(|c| c["lacking"].as_u64() > Some(0))
    });
    rig.site.ok(&["vault", "repair"]);
    wait_for("nothing to be lacking", SOON, || {
        let copies = copies(&rig.site);
        copies.len() == 2 && copies.iter().all(|c| c["lacking"] == 0 && c["reachable"] == true)
    });

    // Only the bucket is left.
    let head: Vec<&str> = text.lines().take_while(|line| line.trim() != "[vault]").collect();
    let mut change = |text: &str| {
        rig.site.process.terminate(Duration::from_secs(40));
        std::fs::write(&file, text).unwrap();
        rig.site.restart();
    };
    change(&format!("{}\n[vault]\n{bucket}", head.join("\n")));
    std::fs::rename(rig.site.dir.join("vault"), rig.dir.join("old-vault")).unwrap();
    wait_vault(&rig.site);
    rig.agent.wait_connected(&rig.site);
    let by_name = rig.dir.join("by-name.img");
    export(&rig.site, rig::SERVER, "before-the-move", &by_name);
    same(&before, &by_name);

    // The service hangs: the stream goes on and everybody is answered.
    service.process.signal(Signal::SIGSTOP);
    let load = rig.load(Settings { depth: 4, rate: 300, seed: 3, ..Settings::default() });
    rig.site.wait_new_point(rig::SERVER);
    load.stop();
    rig.site.wait_caught_up(rig::SERVER);
    wait_for("it to be told", Duration::from_secs(180), || {
        rig.site.json(&["status"])["alarms"].to_string().contains("the vault")
    });
    service.process.signal(Signal::SIGCONT);
    wait_for("the vault to be back", Duration::from_secs(180), || {
        rig.site.json(&["vault", "status"])["state"] == "ready"
    });
    rig.site.ok(&["hold", rig::SERVER, "latest", "--name", "after-the-move"]);
    let after = rig.dir.join("after.img");
    export(&rig.site, rig::SERVER, "after-the-move", &after);
    same(&after, &rig.disk);
    let kit = rig.dir.join("dr.kit");
    make_kit(&rig.site, &kit);

    let Rig { dir, mut site, .. } = rig;
    site.process.kill();
    std::fs::rename(&site.dir, dir.join("lost")).unwrap();
    let ports = (free_port(), free_port());
    let place =
        ["s3://disaster/site", "--endpoint", &endpoint, "--path-style", "--allow-http", "--access-key-file"];
    let place = [&place[..], &[keys.to_str().unwrap()]].concat();
    let made = attach_to(&dir.join("new"), &place, &kit, PASSPHRASE, ports);
    assert!(made.status.success(), "{}", said(&made));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let new = Site::serve_made(dir.path(), "new", &Place::host(), &made, ports);
    wait_for("the catalogue to be read", SOON, || !new.json(&["servers"]).as_array().unwrap().is_empty());
    for (name, image) in [("before-the-move", &before), ("after-the-move", &after)] {
        let again = dir.join("again.img");
        export(&new, rig::SERVER, name, &again);
        same(image, &again);
    }
}

/// Row 35: somebody has an agent's directory, with its certificate and key. It sends nonsense as that agent does; the points
/// in the vault are what they were, and it can delete none.
#[test]
fn i6_a_stolen_agent_reaches_no_point_in_the_vault() {
    let Rig { dir, disk, mut agent, site, proxy: _proxy, .. } =
        Rig::start("vault-thief", 16, &["--lock", "1d"]);
    wait_vault(&site);
    let content: Vec<u8> = (0..2 * MIB).map(|n| (n / 512 % 251) as u8).collect();
    agent.process.terminate(Duration::from_secs(30));
    std::fs::File::options().write(true).open(&disk).unwrap().write_all_at(&content, 0).unwrap();
    agent.restart();
    agent.wait_connected(&site);
    site.wait_new_point(rig::SERVER);
    site.wait_caught_up(rig::SERVER);
    site.ok(&["hold", rig::SERVER, "latest", "--name", "before-the-theft"]);
    let before = dir.join("before.img");
    export(&site, rig::SERVER, "before-the-theft", &before);
    same(&before, &disk);
    let kept = points(&site, rig::SERVER).into_iter().filter(in_vault).count();

    // The thief's copy takes the place of the agent, over and over, each time with other content.
    for round in 1..4u8 {
        agent.process.kill();
        let junk: Vec<u8> = content.iter().map(|b| b.wrapping_mul(7).wrapping_add(round)).collect();
        std::fs::File::options().write(true).open(&disk).unwrap().write_all_at(&junk, 0).unwrap();
        agent.restart();
        agent.wait_connected(&site);
        site.wait_new_point(rig::SERVER);
    }
    let now: Vec<Value> = points(&site, rig::SERVER).into_iter().filter(in_vault).collect();
    assert!(now.len() >= kept, "{now:?}");
    let held = now.iter().find(|p| p["vault"]["name"] == "before-the-theft").unwrap();
    assert!(held["vault"]["locked_until"].is_string(), "{held}");
    let after = dir.join("after.img");
    export(&site, rig::SERVER, "before-the-theft", &after);
    same(&before, &after);
    site.ok(&["vault", "check", "--read-data", "100"]);
    // The certificate opens no door of the API: that takes a token.
    let refused = Command::new("curl")
        .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE"])
        .arg("--cert")
        .arg(agent.dir.join("agent.pem"))
        .arg("--key")
        .arg(agent.dir.join("agent.key"))
        .arg(format!("{}/v1/servers/{}", site.url(), rig::SERVER))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&refused.stdout), "401", "{}", said(&refused));
}

/// Catalogues that were written.
fn catalogues(vault: &Path) -> usize {
    std::fs::read_dir(vault.join("catalogue")).map_or(0, Iterator::count)
}

/// Row 36 and row 35: a lock binds admins; nothing of it is deleted, and an operator deletes nothing at all.
#[test]
fn i6_a_locked_point_outlives_admins_and_operators() {
    let rig = Rig::start("vault-lock", 16, &[]);
    wait_vault(&rig.site);
    rig.site.ok(&["hold", rig::SERVER, "latest", "--lock", "1d"]);
    let locked = points(&rig.site, rig::SERVER).into_iter().find(in_vault).unwrap();
    assert!(locked["vault"]["locked_until"].is_string(), "{locked}");
    rig.site.refuses(4, "locked", &["delete", rig::SERVER, "--delete-points", "--yes"]);
    assert_eq!(rig.site.server(rig::SERVER)["name"], rig::SERVER);
    let operator =
        rig.site.json(&["token", "create", "--role", "operator"])["token"].as_str().unwrap().to_owned();
    let as_operator = |arguments: &[&str]| {
        let out = rig.site.command(arguments).env("LIFEBOAT_TOKEN", &operator).output().unwrap();
        (out.status.code(), said(&out))
    };
    for forbidden in [
        &["set", rig::SERVER, "--retention", "none"][..],
        &["hold", rig::SERVER, "latest", "--lock", "1d"],
        &["vault", "prune", "--yes"],
        &["vault", "key", "rotate"],
        &["vault", "key", "kit", "--out", "/dev/null/x", "--recipient", "age1x"],
        &["backup", "create", "/etc"],
        &["delete", rig::SERVER, "--delete-points", "--yes"],
    ] {
        let (code, text) = as_operator(forbidden);
        assert_eq!(code, Some(4), "{forbidden:?}: {text}");
    }
    assert_eq!(as_operator(&["vault", "check"]).0, Some(0));
    // Released of its rules it stays all the same.
    rig.site.ok(&["set", rig::SERVER, "--retention", "none"]);
    rig.site.ok(&["vault", "prune", "--yes"]);
    let kept = points(&rig.site, rig::SERVER);
    assert!(kept.iter().any(|p| p["vault"]["locked_until"].is_string()), "{kept:?}");
    let (mount, _) = rig.site.mount(rig::SERVER, &id(&locked));
    rig.site.ok(&["unmount", &mount]);
}

/// Row 30: another site's key, no key, a vault that went away: said by name, nothing else stops, and it comes back.
#[test]
fn keys_that_do_not_fit_and_a_vault_that_is_away_are_named() {
    let mut rig = Rig::start("vault-keys", 16, &[]);
    wait_vault(&rig.site);
    rig.site.ok(&["hold", rig::SERVER, "latest", "--name", "first"]);
    let first = points(&rig.site, rig::SERVER).into_iter().find(in_vault).unwrap();
    // A new key seals what comes, and what was there stays readable, also after a restart.
    assert_eq!(rig.site.json(&["vault", "key", "rotate"])["generation"], 2);
    // Another point, or it would be the same one with another name.
    wait_for("the next point", SOON, || points(&rig.site, rig::SERVER)[0]["id"] != first["id"]);
    rig.site.ok(&["hold", rig::SERVER, "latest", "--name", "second"]);
    let key = rig.site.dir.join("keys/vault.key");
    let good = std::fs::read(&key).unwrap();
    rig.site.process.terminate(Duration::from_secs(60));
    // The wrong key: the site serves, replication goes on, the vault says why it does not open.
    std::fs::write(&key, format!("{}\n", "5a".repeat(32))).unwrap();
    rig.site.restart();
    wait_for("the wrong key to be told", SOON, || {
        let v = rig.site.json(&["vault", "status"]);
        v["state"] == "unavailable" && v["reason"].as_str().is_some_and(|r| r.contains("key"))
    });
    rig.site.wait_new_point(rig::SERVER);
    assert!(rig.site.json(&["status"])["alarms"].to_string().contains("the vault"));
    rig.site.process.terminate(Duration::from_secs(60));
    // No key: not even a start, because somebody has to look.
    let aside = rig.dir.join("vault.key");
    std::fs::rename(&key, &aside).unwrap();
    let out = Command::new(binary("lifeboat")).args(["serve", "--dir"]).arg(&rig.site.dir).output().unwrap();
    assert_eq!(out.status.code(), Some(7), "{}", said(&out));
    assert!(said(&out).contains("vault.key") && said(&out).contains("recovery kit"), "{}", said(&out));
    std::fs::rename(&aside, &key).unwrap();
    std::fs::write(&key, &good).unwrap();
    // The vault's disk is not mounted.
    let (vault, away) = (rig.site.dir.join("vault"), rig.dir.join("away"));
    std::fs::rename(&vault, &away).unwrap();
    rig.site.restart();
    wait_for("the absence to be told", SOON, || {
        rig.site.json(&["vault", "status"])["state"] == "unavailable"
    });
    rig.site.wait_new_point(rig::SERVER);
    assert!(!vault.exists(), "no other vault is made in its place");
    std::fs::rename(&away, &vault).unwrap();
    wait_vault(&rig.site);
    for name in ["first", "second"] {
        let (mount, _) = rig.site.mount(rig::SERVER, name);
        rig.site.ok(&["unmount", &mount]);
    }
    let (mount, _) = rig.site.mount(rig::SERVER, &id(&first));
    rig.site.ok(&["unmount", &mount]);
    assert_eq!(rig.site.json(&["vault", "status"])["key_generation"], 2);
    rig.site.ok(&["vault", "check", "--read-data", "100"]);
}

/// Points that left the journal's window are opened from the vault, and the journal is trimmed.
#[test]
fn i1_what_left_the_journal_is_in_the_vault() {
    let rule = ["--keep-rule", "every 1m for 1d", "--window", "1s", "--window-bytes", "1MiB"];
    let rig = Rig::start("vault-tier", 64, &rule);
    wait_vault(&rig.site);
    let first = wait_some("the first point of the policy", Duration::from_secs(150), || {
        points(&rig.site, rig::SERVER).into_iter().find(in_vault)
    });
    let image = rig.dir.join("first.img");
    export(&rig.site, rig::SERVER, &id(&first), &image);
    let load = rig.load(Settings { depth: 8, ..Settings::default() });
    wait_for("it to leave the journal", Duration::from_secs(300), || {
        let all = points(&rig.site, rig::SERVER);
        all.iter().any(|p| p["id"] == first["id"] && p["journal"] == false && in_vault(p))
    });
    load.stop();
    let again = rig.dir.join("again.img");
    export(&rig.site, rig::SERVER, &id(&first), &again);
    same(&image, &again);
    rig.judge_all(4);
    let usage = rig.site.json(&["vault", "usage", "--points"]);
    assert!(usage["total"]["points"].as_u64().unwrap() >= 1, "{usage}");
    rig.site.ok(&["vault", "check", "--read-data", "100"]);
    // The local index is a cache.
    rig.site.ok(&["vault", "reindex"]);
    export(&rig.site, rig::SERVER, &id(&first), &again);
    same(&image, &again);
}

/// A guest runs from a point that is only in the vault of a lost site.
#[test]
fn a_lost_sites_machine_is_drilled_from_the_vault() {
    let dir = TestDir::new("vault-drill");
    let disks = GuestImage::new().build(dir.path(), "web");
    let mut guest = Guest::start(dir.path(), "web", &Place::host(), &disks);
    guest.wait_ready();
    let mut site = Site::start(dir.path(), "dr", &Place::host());
    wait_vault(&site);
    let agent = site.agent(dir.path(), "source", &Place::host());
    let qmp = guest.qmp_socket().to_str().unwrap();
    site.ok(&["protect", "web-1", "--agent", "source", "--qmp", qmp, "--memory", "256MiB", "--wait"]);
    let number = guest.number().unwrap();
    guest.wait_number(number + 20);
    site.wait_new_point("web-1");
    site.ok(&["hold", "web-1", "latest", "--name", "good"]);
    let kit = dir.join("dr.kit");
    make_kit(&site, &kit);
    wait_for("the catalogue to be in the vault", SOON, || catalogues(&site.dir.join("vault")) >= 1);
    drop(agent);
    drop(guest);
    site.process.kill();
    let vault = dir.join("rescued");
    std::fs::rename(site.dir.join("vault"), &vault).unwrap();
    let ports = (free_port(), free_port());
    let made = attach(&dir.join("new"), &vault, &kit, PASSPHRASE, ports);
    assert!(made.status.success(), "{}", said(&made));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let new = Site::serve_made(dir.path(), "new", &Place::host(), &made, ports);
    wait_for("the catalogue to be read", SOON, || !new.json(&["servers"]).as_array().unwrap().is_empty());
    wait_for("its points", SOON, || !points(&new, "web-1").is_empty());
    let drill = ["drill", "web-1", "--point", "good", "--check", "http:80", "--check"];
    new.ok(&[&drill[..], &[r"serial:recovered last=\d+ lines ok", "--keep", "0s"]].concat());
    // And as a clone, without any machine.
    let clone = dir.join("clone");
    new.ok(&["clone", "web-1", "--point", "good", "--to", clone.to_str().unwrap(), "--format", "raw"]);
    assert_eq!(
        std::fs::metadata(clone.join("disk0.raw")).unwrap().len(),
        std::fs::metadata(&disks[0]).unwrap().len()
    );
}

/// An old site's directory, from before there were vaults, gets one at its first start and never a second.
#[test]
fn a_site_without_a_vault_gets_one_once() {
    let dir = TestDir::new("vault-upgrade");
    let mut site = Site::start(dir.path(), "dr", &Place::host());
    wait_vault(&site);
    site.process.terminate(Duration::from_secs(60));
    let config = site.dir.join("site.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let (before, rest) = text.split_once("[vault]").unwrap();
    let log = rest.find("[log]").unwrap();
    std::fs::write(&config, format!("{before}{}", &rest[log..])).unwrap();
    std::fs::remove_dir_all(site.dir.join("vault")).unwrap();
    std::fs::remove_file(site.dir.join("keys/vault.key")).unwrap();
    let _ = std::fs::remove_file(site.dir.join("vault-index.redb"));
    site.restart();
    wait_vault(&site);
    let made = site.json(&["vault", "status"])["id"].clone();
    site.process.terminate(Duration::from_secs(60));
    site.restart();
    wait_vault(&site);
    assert_eq!(site.json(&["vault", "status"])["id"], made);
    // A store whose making was cut off before the key got its name goes on with that key.
    site.process.terminate(Duration::from_secs(60));
    let keys = site.dir.join("keys");
    std::fs::rename(keys.join("vault.key"), keys.join("vault.key.new")).unwrap();
    site.restart();
    wait_vault(&site);
    assert_eq!(site.json(&["vault", "status"])["id"], made);
    assert!(keys.join("vault.key").exists());
}

/// Damage in the vault's files is found, named with the points it touches, and the rest stays readable.
#[test]
fn i3_damage_is_named_with_the_points_it_touches() {
    let rig = Rig::start("vault-damage", 32, &[]);
    wait_vault(&rig.site);
    let load = rig.load(Settings { depth: 8, rate: 2000, ..Settings::default() });
    rig.site.wait_new_point(rig::SERVER);
    load.stop();
    rig.site.wait_caught_up(rig::SERVER);
    rig.site.ok(&["hold", rig::SERVER, "latest", "--name", "touched"]);
    rig.site.ok(&["vault", "check", "--read-data", "100"]);
    let packs = files_below(&rig.site.dir.join("vault/packs"));
    let largest = packs.iter().max_by_key(|p| std::fs::metadata(p).unwrap().len()).unwrap();
    let mut permissions = std::fs::metadata(largest).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(largest, permissions).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(largest).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 3000).unwrap();
    let a = rig.site.cli(&["vault", "check", "--read-data", "100"]);
    assert_eq!(a.code, 7, "{}{}", a.stdout, a.stderr);
    assert!(a.stdout.contains("DAMAGED") && a.stdout.contains(rig::SERVER), "{}", a.stdout);
    wait_for("the damage to be an alarm", SOON, || {
        rig.site.json(&["status"])["alarms"].to_string().contains("damaged or missing")
    });
    // What it does not touch goes on.
    rig.site.wait_new_point(rig::SERVER);
    assert!(rig.disk.metadata().unwrap().len() == 32 * MIB);
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
