//! Journals damaged on purpose (failures 4 to 7): `lifeboat check` names what is damaged in the words of
//! `damage.golden`, and whatever point still opens is what it was.
//!
//! `UPDATE_GOLDEN=1` writes the file anew; read the difference before it is kept.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::rig::SERVER;
use lifeboat_e2e::site::{Answer, SOON};
use lifeboat_e2e::{Rig, repository, run, wait_some, work};
use lifeboat_sim::oracle::{self, History, Order, Require, Settings};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Where a segment's records begin, and what each has besides its payload (crates/journal/src/format.rs).
const RECORDS_AT: usize = 128;
const RECORD_HEADER: usize = 64;
const TAG: usize = 16;

/// The files of a journal with that ending, in order of what they hold.
fn files(journal: &Path, ending: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(journal)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.to_string_lossy().ends_with(ending))
        .collect();
    all.sort();
    all
}

fn flip(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Two neighbouring data records of one length change places.
fn swap_records(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let (mut at, mut before) = (RECORDS_AT, None);
    while at + RECORD_HEADER <= bytes.len() && bytes[at..at + 4] == *b"LBR1" {
        let payload = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().unwrap()) as usize;
        let (data, len) = (bytes[at + 4] == 1, RECORD_HEADER + payload + TAG);
        if data && before == Some(len) {
            bytes[at - len..at + len].rotate_left(len);
            fs::write(path, bytes).unwrap();
            return;
        }
        before = data.then_some(len);
        at += len;
    }
    panic!("no two neighbours of one length in {}", path.display());
}

type Damage = (&'static str, fn(&Path));

/// What is done to which file. There are four segments; the second is a finished one with others after it.
const DAMAGES: &[Damage] = &[
    ("nothing", |_| ()),
    ("a flipped bit in a segment's header", |j| flip(&files(j, ".seg")[1], |_| 20)),
    ("a flipped bit in a record", |j| flip(&files(j, ".seg")[1], |len| len / 2)),
    ("a flipped bit in an index", |j| flip(&files(j, ".idx")[1], |len| len / 2)),
    ("a flipped bit in the manifest", |j| flip(&j.join("manifest"), |len| len / 2)),
    ("a flipped bit in the manifest and another in its copy", |j| {
        flip(&j.join("manifest"), |len| len / 2);
        flip(&j.join("manifest.copy"), |len| len / 3);
    }),
    ("two records that changed places", |j| swap_records(&files(j, ".seg")[1])),
    ("two segments that changed places", |j| {
        let (a, b) = (&files(j, ".seg")[1], &files(j, ".seg")[2]);
        let (x, y) = (fs::read(a).unwrap(), fs::read(b).unwrap());
        fs::write(a, y).unwrap();
        fs::write(b, x).unwrap();
    }),
    ("a segment that is gone", |j| fs::remove_file(&files(j, ".seg")[1]).unwrap()),
    ("a segment cut short", |j| {
        let path = &files(j, ".seg")[1];
        let len = fs::metadata(path).unwrap().len();
        fs::File::options().write(true).open(path).unwrap().set_len(len / 2).unwrap();
    }),
    // The site was killed: its last segment has no index yet, and all in it was acknowledged.
    ("the end of the newest segment is lost", |j| {
        let path = files(j, ".seg").pop().unwrap();
        let records = fs::read(&path).unwrap();
        let end = records.iter().rposition(|b| *b != 0).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_len(end as u64 - 40).unwrap();
    }),
];

/// Names and numbers differ from run to run; everything else must not.
fn normalised(text: &str) -> String {
    let mut out = String::new();
    let mut number = false;
    let text = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    for word in text.split_inclusive([' ', '\n']) {
        let segment = word.find(".seg").or_else(|| word.find(".idx"));
        if let Some(at) = segment {
            number = false;
            write!(out, "SEGMENT{}", &word[at..]).unwrap();
            continue;
        }
        for c in word.chars() {
            if !c.is_ascii_digit() {
                out.push(c);
            } else if !number {
                out.push('N');
            }
            number = c.is_ascii_digit();
        }
    }
    // How many points lie in what is lost depends on how fast the machine was.
    let out = out.replace("the point pN.N", "points pN.N to pN.N");
    // Columns are as wide as what stands in them.
    out.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
        + "\n"
}

/// What the check says once the site has opened the journal, or has found that it cannot.
fn checked(rig: &Rig) -> Answer {
    wait_some("the journal to be opened", SOON, || {
        Some(rig.site.cli(&["check", SERVER, "--full"])).filter(|check| check.code != 5)
    })
}

/// Each of some points over the whole window opens as what it was, or says that it is damaged.
fn never_wrong(rig: &Rig, what: &str) -> (usize, usize) {
    let listed = rig.site.cli(&["points", SERVER, "--limit", "10", "--json"]);
    if listed.code != 0 {
        return (0, 0);
    }
    let points: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    let (mut open, mut refused) = (0, 0);
    for p in points.as_array().unwrap() {
        let id = p["id"].as_str().unwrap();
        let mounted = rig.site.cli(&["mount", SERVER, "--point", id, "--json"]);
        if mounted.code != 0 {
            assert!(mounted.stderr.contains("damaged"), "{what}: {id}: {}", mounted.stderr);
            refused += 1;
            continue;
        }
        let m: serde_json::Value = serde_json::from_str(&mounted.stdout).unwrap();
        let socket = format!("nbd-unix:{}", m["disks"][0]["socket"].as_str().unwrap());
        // A record may be found to be damaged only when it is read: an I/O error then, never bytes.
        let image = oracle::open(&socket, None).unwrap();
        let history = History::open(&rig.ledger, None).unwrap();
        match oracle::check(&[image], &history, Require::Nothing, Order::Prefix) {
            Ok(verdict) => {
                assert!(verdict.ok(), "{what}: {id}: {verdict}");
                open += 1;
            }
            Err(_) => refused += 1,
        }
        rig.site.ok(&["unmount", m["id"].as_str().unwrap()]);
    }
    (open, refused)
}

#[test]
fn i3_damage_is_named_and_never_served() {
    // What the vault has of it would open all the same.
    let mut rig = Rig::start("damage", 8, &["--retention", "none"]);
    for seed in 1..=4 {
        // A segment belongs to one opening of the journal: each start of the site begins another.
        let settings = Settings { time: Duration::from_secs(60), writes: 300, seed, ..Settings::default() };
        work(&rig.agent, SERVER, 1, &rig.ledger, &settings, &AtomicBool::new(false));
        rig.site.wait_caught_up(SERVER);
        if seed == 4 {
            rig.agent.process.kill();
            rig.site.process.kill();
        } else {
            rig.site.process.terminate(Duration::from_secs(40));
            rig.site.restart();
        }
    }
    let server = fs::read_dir(rig.site.dir.join("servers")).unwrap().next().unwrap().unwrap().path();
    let (journal, whole) = (server.join("journal"), rig.dir.join("whole"));
    run(Command::new("cp").arg("-a").arg(&journal).arg(&whole));
    assert_eq!(files(&journal, ".seg").len(), 4, "one segment for each start of the site");
    let mut report = String::new();
    for (what, damage) in DAMAGES {
        fs::remove_dir_all(&journal).unwrap();
        run(Command::new("cp").arg("-a").arg(&whole).arg(&journal));
        damage(&journal);
        rig.site.restart();
        let check = checked(&rig);
        let (open, refused) = never_wrong(&rig, what);
        assert!(open > 0 || check.code != 0, "{what}: nothing opens and nothing is wrong");
        if check.code == 0 {
            assert_eq!(refused, 0, "{what}: a point is refused of a journal that is whole");
        }
        writeln!(report, "== {what}: exit code {}", check.code).unwrap();
        report += &normalised(&format!("{}{}", check.stdout, check.stderr));
        writeln!(report, "-- points: {}", verdict(open, refused)).unwrap();
        rig.site.process.kill();
    }
    let golden = repository().join("tests/e2e/tests/damage.golden");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &report).unwrap();
    }
    let kept = fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        report == kept,
        "the report is not as kept; UPDATE_GOLDEN=1 writes it anew. It is now:\n{report}"
    );
}

fn verdict(open: usize, refused: usize) -> &'static str {
    match (open, refused) {
        (0, _) => "none opens",
        (_, 0) => "all open and are right",
        _ => "some are refused, the others are right",
    }
}
