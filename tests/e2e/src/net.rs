//! Two places with a link between them: network namespaces for root, the loopback for everybody else.

use crate::tool::{have, run};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Where a process runs, and the address others reach it at.
#[derive(Debug, Clone)]
pub struct Place {
    namespace: Option<String>,
    address: String,
}

impl Place {
    /// This machine's loopback.
    pub fn host() -> Self {
        Self { namespace: None, address: "127.0.0.1".into() }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// A command that will run here.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match &self.namespace {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        }
    }

    /// What an HTTP GET from here answers; `None` when it does not answer with 2xx.
    pub fn http_get(&self, url: &str) -> Option<String> {
        let output =
            self.command("curl").args(["-sf", "-m", "3", url]).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A pair of places. Dropping removes the namespaces and the link.
#[derive(Debug)]
pub struct Net {
    /// Where the protected machine is.
    pub source: Place,
    /// Where it is recovered.
    pub target: Place,
}

impl Net {
    /// Two namespaces joined by a veth pair, or twice the loopback when this is not root (then [`Net::cut`] is not possible).
    ///
    /// # Panics
    /// When root may not make namespaces.
    pub fn pair() -> Self {
        if !nix::unistd::geteuid().is_root() || !have("ip") {
            return Self { source: Place::host(), target: Place::host() };
        }
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = |side: &str| format!("lb-{id}-{side}");
        let place =
            |side: &str, address: &str| Place { namespace: Some(name(side)), address: address.into() };
        let net = Self { source: place("s", "10.99.0.1"), target: place("t", "10.99.0.2") };
        let ip = |args: &str| drop(run(Command::new("ip").args(args.split(' '))));
        let (s, t) = (name("s"), name("t"));
        ip(&format!("netns add {s}"));
        ip(&format!("netns add {t}"));
        ip(&format!("-n {s} link add veth0 type veth peer name veth0 netns {t}"));
        for place in [&net.source, &net.target] {
            let ns = place.namespace.as_deref().unwrap_or_default();
            ip(&format!("-n {ns} link set lo up"));
            ip(&format!("-n {ns} addr add {}/24 dev veth0", place.address));
            ip(&format!("-n {ns} link set veth0 up"));
        }
        net
    }

    /// Whether the link can be cut.
    pub fn is_real(&self) -> bool {
        self.source.namespace.is_some()
    }

    /// Takes the link down, or up again.
    ///
    /// # Panics
    /// On the loopback; ask [`Net::is_real`] first.
    pub fn cut(&self, down: bool) {
        let ns = self.source.namespace.as_deref().expect("the loopback cannot be cut");
        run(Command::new("ip").args(["-n", ns, "link", "set", "veth0", if down { "down" } else { "up" }]));
    }

    /// Lets the source send only so many kilobits a second, or as many as it can again.
    ///
    /// # Panics
    /// On the loopback; ask [`Net::is_real`] first.
    pub fn shape(&self, kbit: Option<u32>) {
        let ns = self.source.namespace.as_deref().expect("the loopback cannot be slowed");
        let rate = kbit.map(|k| format!("{k}kbit"));
        let tbf =
            ["root", "tbf", "rate", rate.as_deref().unwrap_or_default(), "burst", "64kb", "latency", "200ms"];
        let (verb, what) = if kbit.is_some() { ("replace", &tbf[..]) } else { ("del", &tbf[..1]) };
        run(Command::new("tc").args(["-n", ns, "qdisc", verb, "dev", "veth0"]).args(what));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in [&self.source, &self.target] {
            if let Some(name) = &place.namespace {
                let _ = Command::new("ip").args(["netns", "del", name]).output();
            }
        }
    }
}
