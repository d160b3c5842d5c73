use super::*;
use crate::render::fixtures::{NOW, before};
use lifeboat_api::types::{RetentionRule, VaultCopy, VaultPointUsage, VaultUsageRow};

fn ready() -> VaultStatus {
    VaultStatus {
        state: VaultState::Ready,
        reason: None,
        id: Some("0f".repeat(16)),
        format: 1,
        copies: vec![VaultCopy {
            location: "/srv/lifeboat/vault".into(),
            reachable: true,
            error: None,
            lacking: 0,
            locks: false,
        }],
        quorum: 1,
        key_generation: 2,
        packs: 40,
        chunks: 12_000,
        stored_bytes: 1 << 30,
        snapshots: 31,
        index_percent: 100,
        backlog_bytes: 5 << 20,
        last_scrub: Some(before(86_400)),
        scrub_percent: 12,
        findings: vec![],
    }
}

#[test]
fn a_vault_is_told_in_a_few_lines() {
    let text = status(&ready(), NOW, Style::PLAIN);
    assert_eq!(
        text,
        "vault    ready\n\
         id       0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f, format 1, key generation 2\n\
         kept in  /srv/lifeboat/vault\n\
         holds    31 points and backups, 12000 chunks in 40 packs\n\
         stored   1.0 GiB\n\
         backlog  5.0 MiB of journals\n\
         scrub    12 % of this round, last over 24 h ago\n"
    );
    assert_eq!(
        line(&ready(), Style::PLAIN),
        "vault  ready, 31 points and backups in 1.0 GiB, backlog 5.0 MiB"
    );
    let off = VaultStatus { state: VaultState::Off, ..ready() };
    assert!(status(&off, NOW, Style::PLAIN).contains("[vault] location"));
}

#[test]
fn what_is_wrong_stands_out() {
    let mut v = ready();
    v.state = VaultState::Degraded;
    v.reason = Some("a copy\nis away".into());
    v.copies.push(VaultCopy {
        location: "s3://b/p".into(),
        reachable: false,
        error: Some("403".into()),
        lacking: 3,
        locks: true,
    });
    v.findings = vec![VaultFinding {
        object: "packs/aa/x".into(),
        what: "the seal is broken".into(),
        touches: (0..30).map(|n| format!("web-1 p1.{n}")).collect(),
        repaired: false,
    }];
    let text = status(&v, NOW, Style::PLAIN);
    for part in [
        "vault    degraded: a copy is away",
        "copy 2   s3://b/p, away: 403, lacks 3 objects, locks objects",
        "quorum   a write needs 1 of 2",
        "DAMAGED  packs/aa/x: the seal is broken",
        "touches web-1 p1.19",
        "and 10 more; --json lists them",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("web-1 p1.20"));
}

#[test]
fn usage_is_a_table_with_its_sum() {
    let row = |owner: &str, n: u64| VaultUsageRow {
        owner: owner.into(),
        points: n,
        logical_bytes: n << 30,
        unique_bytes: n << 29,
        stored_bytes: n << 28,
        own_bytes: n << 27,
        by_point: vec![VaultPointUsage { point: "p1.7".into(), logical_bytes: 1 << 30, own_bytes: 1 << 20 }],
    };
    let total = VaultUsageRow { by_point: vec![], ..row("all", 6) };
    let u = VaultUsage {
        total,
        owners: vec![row("web-1", 4)],
        dedup_ratio: 2.0,
        compression_ratio: 1.96,
        reclaimable_bytes: 1 << 20,
    };
    let text = usage(&u, Style::PLAIN);
    assert!(text.contains("web-1       4  4.0 GiB  2.0 GiB  1.0 GiB  512.0 MiB\n"), "{text}");
    assert!(text.contains("\nweb-1\n  POINT"), "{text}");
    assert!(
        text.ends_with("deduplication 2.0 to 1, compression 2.0 to 1; a prune would free 1.0 MiB\n"),
        "{text}"
    );
}

#[test]
fn a_point_says_where_it_is_kept_and_until_when() {
    let hold = VaultHold {
        snapshot: String::new(),
        name: None,
        keep_until: Some(NOW),
        locked_until: None,
        added_bytes: 0,
    };
    assert_eq!(held(true, None), "journal");
    assert_eq!(held(true, Some(&hold)), "journal, vault until 2026-01-01 00:00:00");
    let named = VaultHold { name: Some("x".into()), keep_until: None, locked_until: Some(NOW), ..hold };
    assert_eq!(held(false, Some(&named)), "vault as 'x', locked until 2026-01-01 00:00:00");
}

#[test]
fn retention_is_said_in_words() {
    let own = RetentionSpec {
        preset: RetentionPreset::Own,
        rules: vec![RetentionRule { every_seconds: 3600, keep_seconds: 172_800 }],
        lock_seconds: 86_400,
    };
    assert_eq!(retention(&own), "own: every 60 min for 2 d; nobody can delete a new point for 24 h");
}

#[test]
fn a_plan_shows_what_goes_and_what_stays() {
    let p = PrunePlan {
        forget: (0..25).map(|n| format!("web-1 p1.{n} (no rule keeps it)")).collect(),
        forget_count: 40,
        kept: vec!["web-1 p1.99 (named 'x')".into()],
        packs_deleted: 3,
        packs_repacked: 1,
        freed_bytes: 1 << 30,
        copied_bytes: 1 << 20,
    };
    let text = plan(&p);
    assert!(text.starts_with(
        "a prune forgets 40 points and backups, deletes 3 packs, repacks 1, copies 1.0 MiB for it, and frees 1.0 GiB\n"
    ));
    assert!(text.contains("  and 20 more\n") && text.contains("p1.99 (named 'x')"), "{text}");
}
