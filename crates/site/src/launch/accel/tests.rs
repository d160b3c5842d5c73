#![allow(clippy::unwrap_used)]

use super::*;
use lifeboat_base::SystemClock;

const QEMU: &str = "qemu-system-x86_64";

struct Host {
    dir: tempfile::TempDir,
    device: PathBuf,
}

impl Host {
    fn new(device: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let device = device.map_or_else(|| dir.path().join("kvm"), PathBuf::from);
        Self { dir, device }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("accel.json")
    }

    fn with<T>(&self, deadline: Duration, f: impl FnOnce(&Probe<'_>) -> T) -> T {
        let cache = self.cache();
        f(&Probe { qemu: Path::new(QEMU), device: &self.device, cache: &cache, deadline })
    }

    fn probe(&self) -> Accel {
        self.with(Duration::from_secs(3), |p| p.run(&SystemClock).unwrap())
    }
}

#[test]
fn the_probe_guest_runs_to_its_end_without_kvm() {
    let accel = Host::new(None)
        .with(Duration::from_secs(60), |p| p.try_guest(AccelKind::Tcg, "max", &SystemClock).unwrap());
    assert!(accel.reason.contains("ran in"), "{accel:?}");
}

#[test]
fn a_guest_that_hangs_is_given_up_at_the_deadline() {
    // Translation takes longer than this: it stands for a KVM that crawls.
    let accel = Host::new(None)
        .with(Duration::from_millis(60), |p| p.try_guest(AccelKind::Tcg, "max", &SystemClock).unwrap());
    assert_eq!(accel.kind, AccelKind::Tcg);
    assert!(accel.reason.contains("hung or crawled: not done after 0.1 s"), "{accel:?}");
}

#[test]
fn the_answer_for_this_host_comes_within_seconds_and_is_true() {
    let host = Host::new(Some("/dev/kvm"));
    let clock = SystemClock;
    let started = clock.monotonic();
    let accel = host.probe();
    assert!(clock.monotonic() - started < Duration::from_secs(10), "{accel:?}");
    eprintln!("{accel:?}");
    // Whatever was chosen must run the probe's guest.
    let again =
        host.with(Duration::from_secs(60), |p| p.try_guest(accel.kind, accel.kind.cpu(), &clock).unwrap());
    assert_eq!(again.kind, accel.kind, "{again:?}");
    assert!(again.reason.contains("ran in"), "{again:?}");
    assert_eq!(
        fs::read_dir(host.dir.path())
            .unwrap()
            .filter(|e| { e.as_ref().unwrap().file_name().to_string_lossy().contains("probe") })
            .count(),
        0,
        "the probe's disk was left behind"
    );
}

#[test]
fn a_kvm_guest_never_outlives_the_deadline_whatever_its_processor() {
    // Where KVM is emulated, 'host' fails at once and this one crawls.
    let accel = Host::new(None)
        .with(Duration::from_secs(2), |p| p.try_guest(AccelKind::Kvm, "qemu64", &SystemClock).unwrap());
    let ends = ["ran in", "hung or crawled", "KVM does not run guests here"];
    assert!(ends.iter().any(|end| accel.reason.contains(end)), "{accel:?}");
    eprintln!("{accel:?}");
}

#[test]
fn a_host_without_kvm_is_an_answer_not_an_error() {
    let accel = Host::new(None).probe();
    assert_eq!(accel.kind, AccelKind::Tcg);
    assert!(accel.reason.ends_with("does not exist: this host offers no KVM"), "{accel:?}");
}

#[test]
fn a_kvm_that_is_none_is_named() {
    // A file that opens but is no KVM: QEMU finds that out by itself on hosts without one, and
    // on others the guest runs; neither may fail.
    let host = Host::new(None);
    fs::write(&host.device, "").unwrap();
    host.probe();
    assert!(host.cache().exists());
}

#[test]
fn the_answer_is_kept_for_this_boot_and_this_qemu_only() {
    let host = Host::new(None);
    fs::write(&host.device, "").unwrap();
    let version = host.with(Duration::from_secs(3), |p| p.version(&SystemClock).unwrap());
    let put = |boot_id: String, qemu: &str| {
        let accel = Accel { kind: AccelKind::Kvm, reason: "kept".into() };
        let text = serde_json::to_vec(&Cached { boot_id, qemu: qemu.into(), accel }).unwrap();
        fs::write(host.cache(), text).unwrap();
    };
    put(boot_id().unwrap(), &version);
    assert_eq!(host.probe().reason, "kept");
    put("another boot".into(), &version);
    assert_ne!(host.probe().reason, "kept");
    put(boot_id().unwrap(), "another QEMU");
    assert_ne!(host.probe().reason, "kept");
    fs::write(host.cache(), "damaged").unwrap();
    assert_ne!(host.probe().reason, "kept");
}

#[test]
fn a_missing_qemu_names_its_package() {
    let host = Host::new(None);
    let cache = host.cache();
    let probe = Probe {
        qemu: Path::new("no-qemu-here"),
        device: &host.device,
        cache: &cache,
        deadline: Duration::from_secs(1),
    };
    let e = probe.run(&SystemClock).unwrap_err().to_string();
    assert_eq!(e, "'no-qemu-here' was not found: install the package qemu-system-x86");
}
