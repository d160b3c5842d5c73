//! A site and its agents as real processes, driven by the command line as a person would.

use crate::net::Place;
use crate::process::Process;
use crate::tool::{binary, free_port};
use crate::wait::{wait_for, wait_some};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// For anything that is not a boot.
pub const SOON: Duration = Duration::from_secs(60);

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A running site.
#[derive(Debug)]
pub struct Site {
    pub dir: PathBuf,
    pub place: Place,
    pub process: Process,
    logs: PathBuf,
    url: String,
    replication: String,
    token: String,
    fingerprint: String,
}

impl Site {
    /// Makes a site in `dir/NAME` and serves it at `place`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(dir: &Path, name: &str, place: &Place) -> Self {
        let home = dir.join(name);
        let (api, replication) = (free_port(), free_port());
        let output = place
            .command(binary("lifeboat"))
            .args(["init", "--json", "--name", name, "--advertise", place.address()])
            .args(["--listen-api", &format!("{}:{api}", place.address())])
            .args(["--listen-replication", &format!("{}:{replication}", place.address())])
            .arg(&home)
            .output()
            .unwrap();
        assert!(output.status.success(), "init: {}", String::from_utf8_lossy(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |key: &str| made[key].as_str().unwrap().to_owned();
        let process = Self::serve(dir, name, &home, place);
        let site = Self {
            dir: home,
            place: place.clone(),
            process,
            logs: dir.into(),
            url: format!("https://{}:{api}", place.address()),
            replication: format!("{}:{replication}", place.address()),
            token: text("token"),
            fingerprint: text("fingerprint"),
        };
        site.wait_answers();
        site
    }

    /// Serves a site that `vault attach` made in `dir/NAME`, by what that printed as JSON; `ports`: API and replication.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn serve_made(dir: &Path, name: &str, place: &Place, made: &Value, ports: (u16, u16)) -> Self {
        let text = |key: &str| made[key].as_str().unwrap().to_owned();
        let home = dir.join(name);
        let site = Self {
            process: Self::serve(dir, name, &home, place),
            dir: home,
            place: place.clone(),
            logs: dir.into(),
            url: format!("https://{}:{}", place.address(), ports.0),
            replication: format!("{}:{}", place.address(), ports.1),
            token: text("token"),
            fingerprint: text("fingerprint"),
        };
        site.wait_answers();
        site
    }

    fn serve(logs: &Path, name: &str, home: &Path, place: &Place) -> Process {
        let mut command = place.command(binary("lifeboat"));
        command.args(["serve", "--dir"]).arg(home).env("RUST_LOG", "info");
        Process::start(&format!("serve-{name}"), logs, &mut command)
    }

    fn wait_answers(&self) {
        wait_for("the site to answer", SOON, || self.cli(&["status", "--json"]).code == 0);
    }

    /// Serves again after the process ended.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        let name = self.dir.file_name().unwrap().to_string_lossy().into_owned();
        self.process = Self::serve(&self.logs, &name, &self.dir, &self.place);
        self.wait_answers();
    }

    /// The program with this site's address and token.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(binary("lifeboat"));
        command
            .args(arguments)
            .env("LIFEBOAT_URL", &self.url)
            .env("LIFEBOAT_TOKEN", &self.token)
            .env("LIFEBOAT_FINGERPRINT", &self.fingerprint)
            .env("NO_COLOR", "1");
        command
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// `HOST:PORT` where agents' sessions arrive.
    pub fn replication(&self) -> &str {
        &self.replication
    }

    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Runs a command, whatever comes of it.
    ///
    /// # Panics
    /// When the program cannot run.
    pub fn cli(&self, arguments: &[&str]) -> Answer {
        answer(&self.command(arguments).output().unwrap())
    }

    /// Runs a command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let a = self.cli(arguments);
        assert_eq!(a.code, 0, "lifeboat {}: {}{}", arguments.join(" "), a.stdout, a.stderr);
        a.stdout
    }

    /// Runs a reading command with `--json`.
    ///
    /// # Panics
    /// When it does not succeed or answers no JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let out = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
    }

    /// Runs a command that must fail with `code` and say `text`.
    ///
    /// # Panics
    /// When it does otherwise.
    pub fn refuses(&self, code: i32, text: &str, arguments: &[&str]) {
        let a = self.cli(arguments);
        assert_eq!(a.code, code, "lifeboat {}: {}{}", arguments.join(" "), a.stdout, a.stderr);
        assert!(
            a.stderr.contains(text),
            "lifeboat {}: wanted {text:?} in:\n{}",
            arguments.join(" "),
            a.stderr
        );
    }

    /// Starts an agent that has joined, at `place`.
    ///
    /// # Panics
    /// When it does not connect.
    pub fn agent(&self, dir: &Path, name: &str, place: &Place) -> Agent {
        self.agent_by(dir, name, place, &self.replication)
    }

    /// As [`Site::agent`], with its sessions going to `replication`, a proxy for example.
    ///
    /// # Panics
    /// When it does not connect.
    pub fn agent_by(&self, dir: &Path, name: &str, place: &Place, replication: &str) -> Agent {
        let token = self.json(&["token", "create", "--agent"]);
        let token = token["token"].as_str().unwrap();
        let home = dir.join(name);
        let output = place
            .command(binary("lifeboat-agent"))
            .arg("--dir")
            .arg(&home)
            .args(["join", "--site", &self.url, "--token", token, "--name", name])
            .args(["--replication", replication])
            .output()
            .unwrap();
        assert!(output.status.success(), "join: {}", String::from_utf8_lossy(&output.stderr));
        let mut agent = Agent {
            process: Agent::run(dir, name, &home, place, &[]),
            dir: home,
            place: place.clone(),
            logs: dir.into(),
        };
        agent.wait_connected(self);
        agent
    }

    /// The server as the API tells it.
    pub fn server(&self, name: &str) -> Value {
        self.json(&["server", name])
    }

    /// Waits until the server replicates in good health.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_ready(&self, name: &str) {
        wait_for(&format!("{name} to replicate, {}", self.logs.display()), SOON, || {
            let s = self.server(name);
            s["state"] == "replicating" && s["runtime"]["health"] == "ready"
        });
    }

    /// Waits until everything written so far is in a point.
    ///
    /// # Panics
    /// When it is not.
    pub fn wait_caught_up(&self, name: &str) {
        let written = lifeboat_sim::clock::unix_ms();
        wait_for(&format!("{name} to catch up, {}", self.logs.display()), SOON, || {
            let s = self.server(name);
            let r = &s["runtime"];
            let rpo = r["rpo_ms"].as_u64().unwrap_or(u64::MAX / 2);
            let covered = lifeboat_sim::clock::unix_ms().saturating_sub(rpo);
            r["health"] == "ready" && r["lag_bytes"] == 0 && covered > written
        });
    }

    /// Waits until the newest point is from after now, while writing goes on.
    ///
    /// # Panics
    /// When there is none.
    pub fn wait_new_point(&self, name: &str) {
        let now = lifeboat_sim::clock::unix_ms();
        wait_for(&format!("a new point of {name}, {}", self.logs.display()), SOON, || {
            let rpo = self.server(name)["runtime"]["rpo_ms"].as_u64().unwrap_or(u64::MAX / 2);
            lifeboat_sim::clock::unix_ms().saturating_sub(rpo) > now
        });
    }

    /// The one mounted disk of a new mount: its id and the `nbd-unix:` name the oracle opens.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn mount(&self, server: &str, point: &str) -> (String, Vec<String>) {
        let m = self.json(&["mount", server, "--point", point]);
        let disks = m["disks"].as_array().unwrap();
        let sockets = disks.iter().map(|d| format!("nbd-unix:{}", d["socket"].as_str().unwrap()));
        (m["id"].as_str().unwrap().into(), sockets.collect())
    }

    /// The newest run of a server.
    ///
    /// # Panics
    /// When there is none within the deadline.
    pub fn newest_run(&self, server: &str) -> Value {
        wait_some("a run", SOON, || {
            let runs = self.json(&["runs"]);
            let of: Vec<_> = runs.as_array()?.iter().filter(|r| r["server"] == server).cloned().collect();
            of.into_iter().max_by_key(|r| r["started"].as_str().unwrap_or_default().to_owned())
        })
    }
}

/// Guests outlive `serve` on purpose; they end with their test here, also when it panics.
impl Drop for Site {
    fn drop(&mut self) {
        self.process.kill();
        for run in std::fs::read_dir(self.dir.join("runs")).into_iter().flatten().flatten() {
            let record = std::fs::read(run.path().join("run.json")).unwrap_or_default();
            let record: Value = serde_json::from_slice(&record).unwrap_or_default();
            let Some(pid) = record["process"]["pid"].as_i64().and_then(|p| i32::try_from(p).ok()) else {
                continue;
            };
            // Another process may have that number by now: this one names its run.
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&*run.path().to_string_lossy()) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    pub dir: PathBuf,
    pub process: Process,
    place: Place,
    logs: PathBuf,
}

impl Agent {
    fn run(logs: &Path, name: &str, home: &Path, place: &Place, flags: &[&str]) -> Process {
        let mut command = place.command(binary("lifeboat-agent"));
        command.arg("--dir").arg(home).arg("run").args(flags).env("RUST_LOG", "info");
        Process::start(&format!("agent-{name}"), logs, &mut command)
    }

    /// Starts it again after its process ended.
    pub fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// The same, with flags of `lifeboat-agent run`.
    pub fn restart_with(&mut self, flags: &[&str]) {
        let name = self.dir.file_name().unwrap().to_string_lossy().into_owned();
        self.process = Self::run(&self.logs, &name, &self.dir, &self.place, flags);
    }

    /// Starts it again with its sessions going to another site that has the CA it trusts.
    ///
    /// # Panics
    /// When its configuration cannot be changed.
    pub fn go_to(&mut self, site: &Site) {
        let path = self.dir.join("agent.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|l| l.starts_with("replication")).expect("it has an address");
        let text = text.replace(line, &format!("replication = \"{}\"", site.replication()));
        std::fs::write(&path, text).unwrap();
        self.restart();
    }

    /// Waits until the site has its control session.
    ///
    /// # Panics
    /// When it has none within the deadline.
    pub fn wait_connected(&mut self, site: &Site) {
        let name = self.dir.file_name().unwrap().to_string_lossy().into_owned();
        wait_for("the agent to connect", SOON, || {
            let agents = site.json(&["agents"]);
            agents.as_array().unwrap().iter().any(|a| a["name"] == *name && a["connected"] == true)
        });
    }

    /// Socket of a splitter's export.
    pub fn export(&self, server: &str) -> PathBuf {
        self.dir.join("run").join(format!("{server}.nbd"))
    }
}

pub fn answer(output: &Output) -> Answer {
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
