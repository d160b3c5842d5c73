use super::*;
use std::os::unix::fs::PermissionsExt;

fn global(url: Option<&str>, token: Option<&str>) -> Global {
    Global {
        url: url.map(Into::into),
        fingerprint: None,
        token: token.map(Into::into),
        json: false,
        no_color: false,
    }
}

fn kept() -> Profile {
    Profile {
        url: Some("https://a:8443".into()),
        fingerprint: Some("AB:".repeat(31) + "ab"),
        token: Some("lb_1_secret".into()),
    }
}

#[test]
fn what_login_kept_is_used() {
    let endpoint = endpoint(&global(None, None), kept()).unwrap();
    assert_eq!(endpoint.url, "https://a:8443");
    assert_eq!(endpoint.fingerprint.to_string(), "ab".repeat(32));
    assert_eq!(endpoint.token, "lb_1_secret");
}

#[test]
fn a_flag_wins() {
    assert_eq!(endpoint(&global(None, Some("other")), kept()).unwrap().token, "other");
}

#[test]
fn a_kept_token_is_not_sent_to_another_site() {
    let refused = endpoint(&global(Some("https://evil:8443"), None), kept());
    assert!(refused.err().unwrap().message.contains("fingerprint"));
}

#[test]
fn impossible_values_say_what_to_write() {
    let mut profile = kept();
    profile.fingerprint = Some("abc".into());
    assert!(endpoint(&global(None, None), profile).err().unwrap().message.contains("64"));
    assert!(endpoint(&global(None, None), Profile::default()).err().unwrap().hint.unwrap().contains("login"));
}

#[test]
fn the_file_is_private_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lifeboat/cli.toml");
    assert_eq!(load(&path).unwrap(), Profile::default());
    save(&path, &kept()).unwrap();
    save(&path, &kept()).unwrap();
    assert_eq!(load(&path).unwrap(), kept());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&path, "url = 3").unwrap();
    assert!(load(&path).unwrap_err().message.contains("damaged"));
}
