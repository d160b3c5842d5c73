use super::*;
use crate::units::{Epoch, Seq};
use jiff::tz::TimeZone;

const NOW: WallTime = WallTime(1_800_000_000_000_000_000);

fn parse(text: &str) -> Result<PointSpec, BadPoint> {
    PointSpec::parse(text, NOW, &TimeZone::fixed(jiff::tz::offset(2)))
}

#[test]
fn every_documented_form_is_read() {
    assert_eq!(parse("latest"), Ok(PointSpec::Latest));
    assert_eq!(parse("p2.7"), Ok(PointSpec::Id(PointId { epoch: Epoch(2), seq: Seq(7) })));
    let ago = |s| PointSpec::At(NOW.saturating_sub(Duration::from_secs(s)));
    assert_eq!(parse("20s"), Ok(ago(20)));
    assert_eq!(parse("5m ago"), Ok(ago(300)));
    assert_eq!(parse("1d"), Ok(ago(86_400)));
    let utc = WallTime::from_jiff("2026-11-20T01:14:15Z".parse().expect("literal"));
    assert_eq!(parse("2026-11-20T01:14:15Z"), Ok(PointSpec::At(utc)));
    assert_eq!(parse("2026-11-20 03:14:15"), Ok(PointSpec::At(utc)), "local time of the given zone");
}

#[test]
fn nonsense_is_refused_with_the_forms_that_work() {
    for bad in
        ["", "p", "yesterday", "20", "99999999999999999999d", "2026-13-40 00:00:00", &"x".repeat(10_000)]
    {
        let e = parse(bad).expect_err(bad);
        assert!(e.to_string().contains("write 'latest'"));
        assert!(e.to_string().len() < 400);
    }
}
