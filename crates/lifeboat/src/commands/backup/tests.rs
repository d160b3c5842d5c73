use super::*;
use crate::args::{Cli, Command};
use clap::Parser;

fn create(line: &str) -> CreateArgs {
    let Command::Backup(BackupCommand::Create(args)) =
        Cli::try_parse_from(line.split_whitespace()).unwrap().command
    else {
        panic!("not a backup");
    };
    args
}

#[test]
fn a_set_is_named_after_its_first_path() {
    for (path, name) in [
        ("/etc", "etc"),
        ("/srv/Web Files/", "web-files"),
        ("/", "root"),
        ("/home/.config", "config"),
        ("/...", "files"),
    ] {
        assert_eq!(default_name(path), name, "{path}");
    }
}

#[test]
fn paths_of_this_host_become_absolute_and_those_of_an_agent_must_be() {
    let set = backup_set(&create("lifeboat backup create /srv/../etc/./ssh"), [].into_iter()).unwrap();
    assert_eq!((set.paths, set.name.as_str()), (vec!["/etc/ssh".to_string()], "ssh"));
    let relative = backup_set(&create("lifeboat backup create etc --agent a1"), [].into_iter());
    assert_eq!(relative.unwrap_err().exit, Exit::Usage);
}

#[test]
fn a_directory_of_an_agents_host_is_named_from_its_root() {
    let agent = "a1".to_string();
    assert_eq!(on_host(Path::new("/srv/x"), Some(&agent)).unwrap(), "/srv/x");
    let relative = on_host(Path::new("srv/x"), Some(&agent)).unwrap_err();
    assert!(relative.exit == Exit::Usage && relative.hint.unwrap().contains("from its root"));
    assert!(on_host(Path::new("x"), None).unwrap().ends_with("/x"));
}

#[test]
fn what_is_not_named_stays_and_another_set_is_not_taken_over_by_chance() {
    let old = BackupSet {
        name: "etc".into(),
        agent: None,
        paths: vec!["/etc".into()],
        exclude: vec!["*.log".into()],
        one_file_system: true,
        schedule: Some("0 1 * * *".into()),
        retention: RetentionSpec { lock_seconds: 60, ..RetentionSpec::default() },
    };
    let again = backup_set(&create("lifeboat backup create /etc"), [old.clone()].into_iter()).unwrap();
    assert_eq!(again, old);
    let line = "lifeboat backup create /etc --no-schedule --no-exclude --no-one-file-system";
    let bare = backup_set(&create(line), [old.clone()].into_iter()).unwrap();
    assert_eq!((bare.schedule, bare.exclude.len(), bare.one_file_system), (None, 0, false));
    let other = backup_set(&create("lifeboat backup create /srv/etc"), [old.clone()].into_iter());
    assert!(other.unwrap_err().hint.unwrap().contains("--name"));
    let meant = backup_set(&create("lifeboat backup create /srv/etc --name etc"), [old].into_iter()).unwrap();
    assert_eq!(meant.paths, ["/srv/etc"]);
}
