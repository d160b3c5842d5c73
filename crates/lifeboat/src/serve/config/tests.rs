use super::*;

fn config() -> SiteConfig {
    SiteConfig {
        name: "dr \"1\"".into(),
        advertise: vec!["dr-1.example.org".into(), "192.0.2.10".into()],
        api: Api { listen: "127.0.0.1:9443".parse().unwrap() },
        replication: Replication::default(),
        machines: Machines { acceleration: Acceleration::Tcg },
        alarms: Alarms { rpo_seconds: 5 },
        vault: Vault::default(),
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

#[test]
fn a_vault_in_a_bucket_reads_back() {
    use crate::args::vault::PlaceArgs;
    let place = PlaceArgs {
        endpoint: Some("http://127.0.0.1:9000".into()),
        region: Some("eu-1".into()),
        path_style: true,
        ca: Some("/etc/ca \"x\".pem".into()),
        access_key_file: Some("/etc/lifeboat/s3.key".into()),
        profile: Some("backup".into()),
        allow_http: true,
    };
    let vault = Vault::from_args(Some("s3://backup/dr-1"), &place).unwrap();
    let text = SiteConfig { vault: vault.clone(), ..config() }.to_text();
    assert_eq!(SiteConfig::parse(&text, "site.toml").unwrap().vault, vault);
    for (i, line) in text.lines().enumerate().filter(|(_, l)| l.contains(" = ") && !l.starts_with('#')) {
        assert!(text.lines().nth(i - 1).unwrap().starts_with('#'), "no comment before: {line}");
    }
}

#[test]
fn impossible_vaults_say_why() {
    let vault = |text: &str| error(&format!("name = 'a'\n[vault]\n{text}\n"));
    assert!(vault("location = 'ftp://x'").contains("vault.location: 'ftp://x' is no place"));
    assert!(vault("endpoint = 'https://x'").contains("is a directory"));
    assert!(vault("quorum = 2").contains("2 of 1 places"));
    let three = "[[vault.copies]]\nlocation = '/b'\n[[vault.copies]]\nlocation = '/c'";
    assert!(vault(&format!("quorum = 1\n{three}")).contains("more than half"));
    assert!(vault("[[vault.copies]]\nlocation = 'vault'").contains("named twice"));
    assert!(vault("scrub_rate = 'fast'").contains("scrub_rate"));
    let good = SiteConfig::parse(&format!("name = 'a'\n[vault]\nscrub_rate = '1MiB'\n{three}"), "x").unwrap();
    assert_eq!((good.vault.quorum(), good.vault.scrub_rate.0, good.vault.places().len()), (2, 1 << 20, 3));
    assert!(SiteConfig::parse("name = 'a'\n[vault]\noff = true", "x").unwrap().vault.off);
}
