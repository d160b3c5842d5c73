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

#[test]
fn comparisons_come_every_whole_hours_or_never() {
    assert_eq!(hours("never"), Ok(0));
    assert_eq!((hours("12h"), hours("7d")), (Ok(12), Ok(168)));
    for bad in ["0s", "90m", "30m", "1", "always", "99999999999d"] {
        assert!(hours(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_rpo_alarm_is_a_time_or_the_sites() {
    assert_eq!(rpo_alarm("site"), Ok(RpoAlarm::Site));
    assert_eq!(rpo_alarm("5m"), Ok(RpoAlarm::After(300)));
    assert!(rpo_alarm("0s").is_err() && rpo_alarm("soon").is_err());
}

#[test]
fn a_groups_point_is_no_servers_point() {
    for good in ["latest", "g42", "20s", "2026-11-20 03:14:15"] {
        assert!(group_point(good).is_ok(), "{good}");
    }
    for bad in ["p1.5", "g", "gx", "42", ""] {
        assert!(group_point(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_check_of_a_group_says_of_which_server() {
    assert_eq!(check_of("web-1=http:80/a=b"), Ok(("web-1".into(), "http:80/a=b".into())));
    assert!(check_of("tcp:80").is_err() && check_of("=tcp:80").is_err() && check_of("web-1=").is_err());
}
