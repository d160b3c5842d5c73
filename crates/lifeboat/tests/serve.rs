//! A site's process as an operator and a service manager meet it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A site of its own, with a person who is logged in.
struct Story {
    _temporary: tempfile::TempDir,
    root: PathBuf,
}

/// A running `serve`; killed when the test ends before it does.
struct Serving {
    child: Child,
    log: Receiver<String>,
    seen: Vec<String>,
}

impl Story {
    fn begin() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().canonicalize().unwrap();
        Self { _temporary: temporary, root }
    }

    fn site(&self) -> PathBuf {
        self.root.join("site")
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.args(words.split_whitespace()).current_dir(&self.root).env_clear();
        command.env("HOME", &self.root).env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        command
    }

    fn run(&self, words: &str) -> Output {
        self.command(words).output().unwrap()
    }

    /// stdout of a command that must succeed.
    fn ok(&self, words: &str) -> String {
        let out = self.run(words);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{words}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text
    }

    fn json(&self, words: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&format!("{words} --json"))).unwrap()
    }

    /// A site on free ports that does not try out KVM: these stories are about the process.
    fn init(&self) -> serde_json::Value {
        let made =
            self.json("init site --name dr-1 --listen-api 127.0.0.1:0 --listen-replication 127.0.0.1:0");
        let path = self.site().join("site.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("acceleration = \"probe\""));
        std::fs::write(&path, text.replace("\"probe\"", "\"tcg\"")).unwrap();
        made
    }

    fn serve(&self, environment: &[(&str, &Path)]) -> Serving {
        let mut child = self
            .command("serve --dir site")
            .envs(environment.iter().map(|(k, v)| (k, v.as_os_str())))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, log) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|l| send.send(l)));
        Serving { child, log, seen: Vec::new() }
    }
}

impl Serving {
    /// The first log line with `text` in it.
    fn says(&mut self, text: &str) -> String {
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("'{text}' was not said:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// `https://ADDRESS` of the API, once it serves.
    fn url(&mut self) -> String {
        let line = self.says("serving");
        let address = line.split("api=").nth(1).and_then(|l| l.split_whitespace().next()).unwrap();
        format!("https://{address}")
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Its exit code; everything it said is in `seen` afterwards.
    fn end(&mut self) -> Option<i32> {
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(e) => panic!("it did not end ({e}):\n{}", self.seen.join("\n")),
            }
        }
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_site_is_made_served_used_and_stopped() {
    let story = Story::begin();
    let made = story.init();
    assert_eq!(made["directory"], "site");
    let mut serving = story.serve(&[]);
    let url = serving.url();

    let (fingerprint, token) = (made["fingerprint"].as_str().unwrap(), made["token"].as_str().unwrap());
    story.ok(&format!("login --url {url} --fingerprint {fingerprint} --token {token}"));
    assert_eq!(story.json("status")["site"], "dr-1");
    assert!(story.ok("status").contains("lifeboat token create --agent"));

    let join = story.json("token create --agent --name host-a");
    assert!(join["token"].as_str().unwrap().starts_with("lbj_"));
    let viewer = story.json("token create --role viewer --name eva");
    let refused = story.run(&format!(
        "token list --url {url} --fingerprint {fingerprint} --token {}",
        viewer["token"].as_str().unwrap()
    ));
    assert_eq!(refused.status.code(), Some(4));
    assert_eq!(story.run("server web-1").status.code(), Some(3));
    assert!(story.ok("token list").contains("eva"));
    assert!(story.ok("audit").contains("denied") || story.ok("audit").contains("refused"));
    assert!(story.ok("audit verify").contains("whole"));

    let second = story.run("serve --dir site");
    assert_eq!(second.status.code(), Some(4));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("is already served by pid {}", serving.child.id())), "{said}");

    serving.signal("TERM");
    assert_eq!(serving.end(), Some(0), "{}", serving.seen.join("\n"));
    assert_eq!(story.run("status").status.code(), Some(5));
    // What was made is there after a restart.
    let mut again = story.serve(&[]);
    let url = again.url();
    story.ok(&format!("login --url {url} --fingerprint {fingerprint} --token {token}"));
    assert!(story.ok("token list").contains("eva"));
}

#[test]
fn the_service_manager_is_told_and_logs_carry_priorities() {
    let story = Story::begin();
    story.init();
    let path = story.root.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut buffer = [0; 512];
        let n = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let mut serving = story.serve(&[("NOTIFY_SOCKET", &path), ("JOURNAL_STREAM", Path::new("8:1"))]);
    assert!(told().contains("READY=1"));
    assert!(serving.says("serving").starts_with("<6>"));
    serving.signal("INT");
    assert!(told().contains("STOPPING=1"));
    assert_eq!(serving.end(), Some(0), "{}", serving.seen.join("\n"));
}

#[test]
fn a_taken_port_starts_nothing() {
    let story = Story::begin();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    story.ok(&format!("init site --listen-api {address} --listen-replication 127.0.0.1:0"));
    let before = listing(&story.site());
    let refused = story.run("serve --dir site");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("the port is taken") && said.contains("api.listen"), "{said}");
    let mut after = listing(&story.site());
    after.retain(|name| name != "lock");
    assert_eq!(before, after);
}

#[test]
fn a_site_without_its_key_does_not_start() {
    let story = Story::begin();
    story.init();
    std::fs::remove_file(story.site().join("keys/journal.key")).unwrap();
    let refused = story.run("serve --dir site");
    assert_eq!(refused.status.code(), Some(7), "{}", String::from_utf8_lossy(&refused.stderr));
}

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
