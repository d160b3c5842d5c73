use super::*;

#[test]
fn durations_have_a_unit() {
    assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
    assert_eq!(duration("0s"), Ok(Duration::ZERO));
    assert_eq!(duration(" 24h "), Ok(Duration::from_secs(86_400)));
    for bad in ["", "30", "m", "-1s", "1.5h", "1y", "99999999999w", "ä"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn sizes_are_bytes() {
    assert_eq!(size("64GiB"), Ok(64 << 30));
    assert_eq!(size("1024"), Ok(1024));
    assert_eq!(size("10GB"), Ok(10_000_000_000));
    for bad in ["", "GiB", "-1", "1.5GiB", "1XB", "99999999999TiB", "1ä"] {
        assert!(size(bad).is_err(), "{bad}");
    }
}

#[test]
fn memory_is_whole_mebibytes() {
    assert_eq!(mebibytes("2GiB"), Ok(2048));
    assert!(mebibytes("2").is_err(), "a bare number of bytes is no machine's memory");
}

#[test]
fn a_moment_without_a_zone_is_utc_as_it_is_shown() {
    assert_eq!(point("2026-11-20 03:14:15"), Ok("2026-11-20T03:14:15Z".into()));
    assert_eq!(point("2026-11-20 03:14:15.250"), Ok("2026-11-20T03:14:15.25Z".into()));
    for same in ["latest", "p1.4711", "20s", "5m ago", "2026-11-20T03:14:15+01:00", "2026-11-20T03:14:15Z"] {
        assert_eq!(point(same), Ok(same.into()));
    }
    assert!(point("yesterday").unwrap_err().contains("names no point"));
}
