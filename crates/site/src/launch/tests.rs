#![allow(clippy::unwrap_used)]
//! Real machines on real mounts.

mod fixture;

use super::*;
use fixture::{LONG, Mount, Site, check};
use lifeboat_api::types::{DiskBus, Firmware, Network};
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

#[test]
fn a_guest_boots_from_a_mount_on_every_bus() {
    for bus in [DiskBus::Virtio, DiskBus::Scsi, DiskBus::Sata] {
        let site = Site::new();
        let mount = Mount::serve(&site, "m");
        let mut spec = site.spec(&[&mount]);
        spec.bus = bus;
        let run = site.launch(&spec);
        let found = check(&run, "serial:^lifeboat ok$", LONG);
        assert!(found.passed && found.detail.starts_with("lifeboat ok"), "{bus:?}: {found:?}");
        assert!(check(&run, "serial:abcdef", LONG).passed, "{bus:?}: wrong bytes were read");
        assert_eq!(run.state().unwrap(), RunState::Running);
    }
}

#[test]
fn the_guests_writes_land_in_the_overlay_and_never_in_the_mount() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let before = fs::read(&mount.image).unwrap();
    let run = site.launch(&site.spec(&[&mount]));
    assert!(check(&run, "serial:wrote", LONG).passed);
    assert_eq!(run.stop(Duration::ZERO).unwrap(), Stopped::Quit);
    let overlay = &run.record().unwrap().spec.disks[0].overlay;
    let read = Command::new("qemu-io")
        .args(["-r", "-U", "-c", "read -v 4096 512", "-f", "qcow2"])
        .arg(overlay)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&read.stdout).into_owned();
    assert!(text.contains("written.by.the.g"), "{text}");
    assert!(fs::read(&mount.image).unwrap() == before, "the mount was changed");
}

#[test]
fn a_guest_outlives_a_restart_of_the_mounts_server() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let run = site.launch(&site.spec(&[&mount]));
    assert!(check(&run, "serial:abcde", LONG).passed);
    mount.kill();
    let seen = fixture::stands_still(&run);
    assert_eq!(run.state().unwrap(), RunState::Running);
    mount.restart();
    fixture::until("the guest goes on", || run.serial_tail(1 << 20).unwrap().len() > seen + 5);
    fixture::assert_alphabet(&run);
}

#[test]
fn hydration_completes_and_the_mount_may_go() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let spec = site.spec(&[&mount]);
    let run = site.launch(&spec);
    assert!(check(&run, "serial:wrote", LONG).passed);
    assert_eq!(run.hydrate_progress().unwrap().disks, [DiskHydration::Waiting]);
    // Slow first, so that starting again finds the job under way.
    run.hydrate_start(64 << 10).unwrap();
    let running = run.hydrate_progress().unwrap();
    assert!(matches!(running.disks[0], DiskHydration::Copying { .. }) && !running.complete(), "{running:?}");
    let other = site.launcher().adopt(&spec.dir).unwrap();
    other.hydrate_start(0).unwrap();
    fixture::until("hydration completes", || other.hydrate_progress().unwrap().complete());
    let nodes = other.live_qmp().unwrap().query_named_block_nodes().unwrap();
    assert!(!nodes.iter().any(|n| n.drv == "nbd" || n.node_name == "mount0"), "{nodes:?}");
    mount.kill();
    let at = run.serial_tail(1 << 20).unwrap().len();
    fixture::until("the guest goes on without it", || run.serial_tail(1 << 20).unwrap().len() > at + 5);
    fixture::assert_alphabet(&run);
    // Again is fine, and so is a new start without any mount.
    run.hydrate_start(0).unwrap();
    run.stop(Duration::ZERO).unwrap();
    assert_eq!(run.hydrate_progress().unwrap().percent, 100);
    let again = site.launch(&spec);
    assert!(check(&again, "serial:abcde", LONG).passed);
}

#[test]
fn launching_twice_or_at_once_gives_one_machine() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let spec = site.spec(&[&mount]);
    let pids: Vec<_> = thread::scope(|s| {
        let starts: Vec<_> = (0..4)
            .map(|_| s.spawn(|| site.launcher().launch(&spec).unwrap().record().unwrap().process.unwrap()))
            .collect();
        starts.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(pids.windows(2).all(|w| w[0] == w[1]), "{pids:?}");
    let mut other = spec.clone();
    other.run_id = lifeboat_base::RunId::random(&lifeboat_base::SystemEntropy);
    let e = site.launcher().launch(&other).unwrap_err();
    assert!(matches!(e, LaunchError::OtherRun { .. }), "{e}");
    assert!(pids[0].alive());
}

/// Not a test by itself: the process that launches and dies in the next one.
#[test]
fn helper_that_launches_and_dies() {
    let Some(spec) = std::env::var_os("LIFEBOAT_TEST_SPEC") else { return };
    let spec: RunSpec = serde_json::from_slice(&fs::read(spec).unwrap()).unwrap();
    fixture::launcher(spec.dir.parent().unwrap()).launch(&spec).unwrap();
    std::process::abort();
}

#[test]
fn a_run_outlives_its_starter_and_is_adopted_by_another_process() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let spec = site.spec(&[&mount]);
    let file = site.path("spec.json");
    fs::write(&file, serde_json::to_vec(&spec).unwrap()).unwrap();
    let end = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "launch::tests::helper_that_launches_and_dies"])
        .env("LIFEBOAT_TEST_SPEC", &file)
        .output()
        .unwrap();
    assert!(!end.status.success(), "it did not die");
    let run = site.adopt(&spec.dir);
    assert_eq!(run.state().unwrap(), RunState::Running);
    assert!(check(&run, "serial:lifeboat ok", LONG).passed);
    let process = run.record().unwrap().process.unwrap();
    assert_eq!(site.launch(&spec).record().unwrap().process, Some(process));
}

#[test]
fn a_start_that_was_not_recorded_is_found_again() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let spec = site.spec(&[&mount]);
    let run = site.launch(&spec);
    let mut record = run.record().unwrap();
    let process = record.process.take().unwrap();
    record.save(run.paths()).unwrap();
    assert_eq!(run.state().unwrap(), RunState::Running);
    let adopted = site.launcher().adopt(&spec.dir).unwrap();
    assert_eq!(adopted.record().unwrap().process, Some(process));
}

#[test]
fn a_killed_machine_has_crashed_and_starts_again_on_its_overlay() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let spec = site.spec(&[&mount]);
    let run = site.launch(&spec);
    assert!(check(&run, "serial:wrote", LONG).passed);
    let process = run.record().unwrap().process.unwrap();
    process.handle().unwrap().kill();
    fixture::until("the crash is seen", || matches!(run.state().unwrap(), RunState::Crashed(_)));
    let seen = check(&run, "serial:never printed", LONG);
    assert!(!seen.passed && seen.detail.starts_with("the machine has ended: crashed"), "{seen:?}");
    assert!(matches!(run.screenshot(), Err(LaunchError::NotRunning(_))));
    assert!(matches!(run.hydrate_start(0), Err(LaunchError::NotRunning(_))));
    let again = site.launch(&spec);
    assert_ne!(again.record().unwrap().process, Some(process));
    assert!(check(&again, "serial:abcde", LONG).passed);
    assert_eq!(again.stop(Duration::ZERO).unwrap(), Stopped::Quit);
    assert_eq!(run.state().unwrap(), RunState::Stopped);
    assert_eq!(again.stop(Duration::ZERO).unwrap(), Stopped::Before);
}

#[test]
fn a_guest_that_ignores_the_power_button_is_ended_anyway() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let run = site.launch(&site.spec(&[&mount]));
    assert_eq!(run.stop(Duration::from_millis(200)).unwrap(), Stopped::Quit);
    assert_eq!(run.state().unwrap(), RunState::Stopped);
}

#[test]
fn a_guest_whose_mount_is_gone_still_ends_soon() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let run = site.launch(&site.spec(&[&mount]));
    assert!(check(&run, "serial:abcde", LONG).passed);
    mount.kill();
    fixture::stands_still(&run);
    let clock = lifeboat_base::SystemClock;
    let started = lifeboat_base::Clock::monotonic(&clock);
    assert_eq!(run.stop(Duration::ZERO).unwrap(), Stopped::Killed);
    let took = lifeboat_base::Clock::monotonic(&clock) - started;
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(run.state().unwrap(), RunState::Stopped);
}

#[test]
fn a_picture_of_the_screen_is_a_png() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let run = site.launch(&site.spec(&[&mount]));
    let png = run.screenshot().unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 100);
    assert_eq!(fs::read(run.paths().screen()).unwrap(), png);
}

#[test]
fn a_port_nobody_answers_in_the_guest_is_not_open() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let mut spec = site.spec(&[&mount]);
    spec.forwards = vec![Forward { guest_port: 80, host_port: None }];
    let run = site.launch(&spec);
    for text in ["tcp:80", "http:80/"] {
        let result = check(&run, text, Duration::from_secs(1));
        assert!(!result.passed && result.took_ms >= 1000, "{result:?}");
    }
    let unknown = check(&run, "tcp:81", Duration::from_millis(100));
    assert!(unknown.detail.contains("guest port 81 is neither forwarded nor"), "{unknown:?}");
    let cancel = Cancel::default();
    cancel.cancel();
    let stopped = run.check(&"serial:never".parse().unwrap(), LONG, &cancel);
    assert!(stopped.detail.starts_with("cancelled"), "{stopped:?}");
}

#[test]
fn scripts_see_the_runs_facts() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let mut spec = site.spec(&[&mount]);
    spec.point = "p1.7".into();
    spec.forwards = vec![Forward { guest_port: 80, host_port: None }];
    let run = site.launch(&spec);
    let port = run.record().unwrap().forwards[0].host_port;
    let script = site.script("echo $LIFEBOAT_SERVER $LIFEBOAT_POINT $LIFEBOAT_ADDRESS:$LIFEBOAT_PORT_80");
    let passed = run.post_script(&script, LONG);
    assert_eq!((passed.passed, passed.detail), (true, format!("exit code 0: web-1 p1.7 127.0.0.1:{port}")));
    let dir = check(&run, &format!("script:{}", site.script("test -s $LIFEBOAT_SERIAL_LOG").display()), LONG);
    assert!(dir.passed, "{dir:?}");
    let failed = run.post_script(&site.script("echo no; exit 3"), LONG);
    assert_eq!((failed.passed, failed.detail.as_str()), (false, "exit code 3: no"));
    let slow = run.post_script(&site.script("sleep 1000"), Duration::from_millis(200));
    assert_eq!((slow.passed, slow.detail.as_str()), (false, "ran out of time"));
    assert!(run.post_script(&site.path("none"), LONG).detail.starts_with("there is no script"));
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let why = |spec: &RunSpec, launcher: &Launcher| {
        let e = launcher.launch(spec).unwrap_err().to_string();
        assert!(!spec.dir.exists(), "left behind after: {e}");
        e
    };
    let mut bad = site.spec(&[&mount]);
    bad.extra = vec!["-no-such-option".into()];
    let e = why(&bad, &site.launcher());
    assert!(e.starts_with("QEMU did not start: it ended at once\n") && e.contains("invalid option"), "{e}");
    let mut bridge = site.spec(&[&mount]);
    bridge.network = Network::Bridge("nosuchbr0".into());
    let e = why(&bridge, &site.launcher());
    assert!(e.contains("cannot be attached to bridge 'nosuchbr0'"), "{e}");
    let mut uefi = site.spec(&[&mount]);
    uefi.firmware = Firmware::Uefi;
    let mut settings = fixture::settings(site.dir());
    settings.firmware.clear();
    let e = why(&uefi, &fixture::with(settings.clone()));
    assert!(e.contains("install the package ovmf"), "{e}");
    settings.qemu = "no-qemu".into();
    let e = why(&site.spec(&[&mount]), &fixture::with(settings));
    assert_eq!(e, "'no-qemu' was not found: install the package qemu-system-x86");
    mount.kill();
    let e = why(&site.spec(&[&mount]), &site.launcher());
    assert!(e.starts_with("disk 0 is not served at"), "{e}");
    assert!(matches!(site.launcher().adopt(&site.path("run")), Err(LaunchError::Record { .. })));
}

#[test]
fn cleanup_ends_the_machine_and_leaves_what_was_asked() {
    let site = Site::new();
    let mount = Mount::serve(&site, "m");
    let spec = site.spec(&[&mount]);
    let run = site.launch(&spec);
    let process = run.record().unwrap().process.unwrap();
    assert!(check(&run, "serial:lifeboat ok", LONG).passed);
    run.cleanup(true).unwrap();
    assert!(!process.alive() && !spec.disks[0].overlay.exists() && !run.paths().qmp().exists());
    assert!(run.serial_tail(100).unwrap().starts_with(b"lifeboat ok") || run.paths().serial_log().exists());
    assert_eq!(run.state().unwrap(), RunState::Stopped);
    run.cleanup(false).unwrap();
    assert!(!spec.dir.exists());
    run.cleanup(false).unwrap();
}
