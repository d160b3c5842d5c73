use super::*;

fn config() -> SiteConfig {
    SiteConfig {
        name: "dr \"1\"".into(),
        advertise: vec!["dr-1.example.org".into(), "192.0.2.10".into()],
        api: Api { listen: "127.0.0.1:9443".parse().unwrap() },
        replication: Replication::default(),
        machines: Machines { acceleration: Acceleration::Tcg },
        alarms: Alarms { rpo_seconds: 5 },
        log: Log::default(),
    }
}

fn error(text: &str) -> String {
    SiteConfig::parse(text, "/srv/site.toml").unwrap_err().message
}

#[test]
fn the_written_file_reads_back() {
    assert_eq!(SiteConfig::parse(&config().to_text(), "site.toml").unwrap(), config());
}

#[test]
fn every_key_of_the_written_file_has_a_comment_before_it() {
    let text = config().to_text();
    let lines: Vec<_> = text.lines().collect();
    for (i, line) in lines.iter().enumerate().filter(|(_, l)| l.contains('=') && !l.starts_with('#')) {
        assert!(lines[i - 1].starts_with('#'), "no comment before: {line}");
    }
}

#[test]
fn all_but_the_name_may_be_left_out() {
    let least = SiteConfig::parse("name = 'a'", "site.toml").unwrap();
    assert_eq!(least.api.listen.port(), 8443);
    assert_eq!(least.replication.listen.port(), 1500);
    assert_eq!(least.alarms.rpo_seconds, 60);
}

#[test]
fn errors_name_file_line_and_key() {
    assert!(
        error("name = 'a'\n\n[api]\nlisen = 'x'\n").starts_with("/srv/site.toml:4: unknown field `lisen`")
    );
    assert!(
        error("name = 'a'\n[replication]\nlisten = 'x'\n").starts_with("/srv/site.toml:3: listen: invalid")
    );
    assert!(error("name = 'a\n").starts_with("/srv/site.toml:1: "));
    assert!(error("\n").contains("missing field `name`"));
    assert_eq!(
        error("name = 'a'\n[alarms]\nrpo_seconds = 0\n"),
        "/srv/site.toml:3: alarms.rpo_seconds: must be at least 1"
    );
    assert!(error("name = 'a'\nadvertise = ['a:8443']\n").contains("without a port"));
}

#[test]
fn the_address_for_people_is_one_they_can_use() {
    assert_eq!(config().api_url(), "https://dr-1.example.org:9443");
    let mut plain = SiteConfig::parse("name = 'a'", "site.toml").unwrap();
    assert_eq!(plain.api_url(), "https://localhost:8443");
    plain.advertise = vec!["2001:db8::1".into()];
    assert_eq!(plain.api_url(), "https://[2001:db8::1]:8443");
}

#[test]
fn hosts_are_names_or_addresses() {
    for good in ["a", "dr-1.example.org", "192.0.2.1", "2001:db8::1"] {
        assert!(is_host(good), "{good}");
    }
    for bad in ["", "a b", "https://a", "a:1", "-a", "a..b", "ä"] {
        assert!(!is_host(bad), "{bad}");
    }
}
