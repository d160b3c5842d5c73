use super::*;
use crate::render::fixtures::*;
use lifeboat_api::types::DifferentRange;

fn stats(p99_ms: u64) -> RpoStats {
    RpoStats { p50_ms: 210, p99_ms, max_ms: p99_ms, samples: 60 }
}

fn measured(minutes: usize) -> Rpo {
    let minute = |i: usize| RpoMinute {
        start: before(60 * i as u64 + 60),
        stats: stats(if i == 2 { 8000 } else { 1000 }),
    };
    Rpo {
        server: "web-1".into(),
        now_ms: Some(320),
        hour: Some(stats(1200)),
        day: None,
        minutes: (0..minutes).map(minute).collect(),
    }
}

#[test]
fn the_rpo_of_many_minutes_is_bars_and_the_worst() {
    let text = rpo(&measured(20), Style::PLAIN);
    assert!(
        text.starts_with(
            "web-1  RPO now 320 ms\n\
         \n\
         OVER          P50    P99    MAX  SAMPLES\n\
         last hour  210 ms  1.2 s  1.2 s       60\n\
         \n\
         p99 by the minute, oldest first\n\
         ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁█▁▁\n\
         \n\
         the worst\n\
         MINUTE (UTC)         P50    P99    MAX  SAMPLES\n\
         2025-12-31 23:57  210 ms  8.0 s  8.0 s       60\n"
        ),
        "{text}"
    );
    assert_eq!(text.lines().count(), 20, "ten of them: {text}");
}

#[test]
fn the_rpo_of_a_few_minutes_is_all_of_them_in_order() {
    let text = rpo(&measured(2), Style::PLAIN);
    let at = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("no '{needle}' in:\n{text}"));
    assert!(at("23:59") < at("23:58"));
    let nothing = Rpo { hour: None, now_ms: None, minutes: vec![], ..measured(0) };
    assert!(rpo(&nothing, Style::PLAIN).contains("nothing is measured yet"));
}

fn status(state: VerifyState) -> VerifyStatus {
    VerifyStatus {
        state,
        started: before(100),
        ended: (state != VerifyState::Running).then(|| before(10)),
        total_bytes: 8 << 30,
        done_bytes: if state == VerifyState::Running { 4 << 30 } else { 8 << 30 },
        different_bytes: 131_072,
        different: vec![
            DifferentRange { disk: 0, offset: 65_536, len: 65_536 },
            DifferentRange { disk: 1, offset: 0, len: 65_536 },
        ],
        point: Some("p1.9".parse().unwrap()),
        error: None,
    }
}

#[test]
fn a_comparison_names_what_differed() {
    assert_eq!(
        compared("web-1", &status(VerifyState::Different), NOW, Style::PLAIN),
        "web-1: 128.0 KiB differed, 8.0 GiB compared 10 s ago; that was sent anew\n\
         \x20 disk 0 at 65536, 64.0 KiB\n\
         \x20 disk 1 at 0, 64.0 KiB\n\
         all that was compared is right from p1.9 on\n"
    );
    assert_eq!(
        comparison(&status(VerifyState::Running), NOW, Style::PLAIN),
        "comparing [#####-----]  50 % of 8.0 GiB"
    );
    let equal = comparison(&status(VerifyState::Equal), NOW, Style::PLAIN);
    assert_eq!(equal, "equal, 8.0 GiB compared 10 s ago");
    let failed = VerifyStatus { error: Some("the agent has gone".into()), ..status(VerifyState::Failed) };
    assert_eq!(comparison(&failed, NOW, Style::PLAIN), "failed 10 s ago: the agent has gone");
    let many = VerifyStatus {
        different: vec![DifferentRange { disk: 0, offset: 0, len: 1 }; 25],
        ..status(VerifyState::Different)
    };
    assert!(compared("web-1", &many, NOW, Style::PLAIN).contains("and 5 more places"));
}

#[test]
fn a_check_names_the_points_that_are_affected() {
    let finding = |what: &str, first: Option<&str>, last: Option<&str>| CheckFinding {
        what: what.into(),
        first_point: first.map(|p| p.parse().unwrap()),
        last_point: last.map(|p| p.parse().unwrap()),
    };
    let report = CheckReport {
        server: "web-1".into(),
        segments: 12,
        records: 3456,
        findings: vec![
            finding("segment 3 at 4096: a checksum is wrong", Some("p1.7"), Some("p1.9")),
            finding("segment 4 at 0: its header is wrong", Some("p1.10"), Some("p1.10")),
            finding("segment 5 is cut short", Some("p1.11"), None),
            finding("segment 1: a spare byte is wrong", None, None),
        ],
        bad_indexes: vec!["0006.idx".into()],
    };
    assert_eq!(
        checked(&report, Style::PLAIN),
        "web-1: 4 findings, 12 segments, 3456 records read\n\
         \x20 segment 3 at 4096: a checksum is wrong; affects points p1.7 to p1.9\n\
         \x20 segment 4 at 0: its header is wrong; affects the point p1.10\n\
         \x20 segment 5 is cut short; affects points from p1.11 on\n\
         \x20 segment 1: a spare byte is wrong; no point that is left needs it\n\
         \x20 the index 0006.idx was made again; no point is affected\n"
    );
    let whole = CheckReport { server: "db-1".into(), segments: 1, ..CheckReport::default() };
    assert_eq!(
        all_checked(&[whole], Style::PLAIN),
        "db-1: whole, 1 segment, records not read; read them too with --full\n"
    );
    assert!(all_checked(&[], Style::PLAIN).contains("nothing to check"));
}

#[test]
fn branches_say_whether_they_can_be_mounted() {
    let branch = Branch {
        id: "b1.7f3a".into(),
        server: "web-1".into(),
        epoch: 1,
        base: "p1.4711".parse().unwrap(),
        first: before(90),
        newest: before(60),
        records: 12,
        content_bytes: 1 << 20,
        stored_bytes: 1 << 19,
        mountable: true,
    };
    let lost = Branch { id: "b1.aaaa".into(), mountable: false, ..branch.clone() };
    let text = branches(&[branch, lost], NOW);
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(
        rows[1],
        "b1.7f3a  web-1   p1.4711       12  1.0 MiB  512.0 KiB  2025-12-31 23:59:00 (60 s ago)  yes"
    );
    assert!(rows[2].ends_with("no: the point it follows has left the window"));
    assert_eq!(branches(&[], NOW), "no branches");
}
