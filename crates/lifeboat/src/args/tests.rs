use super::*;
use clap::CommandFactory;

#[test]
fn definitions_are_consistent() {
    Cli::command().debug_assert();
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn protect_wants_exactly_one_capture() {
    assert!(parse("lifeboat protect web-1 --agent a --qmp /q").is_ok());
    assert!(
        parse("lifeboat protect web-1 --agent a --export /a --export /b --listen tcp:127.0.0.1:1").is_ok()
    );
    assert!(parse("lifeboat protect web-1 --agent a").is_err());
    assert!(parse("lifeboat protect web-1 --agent a --qmp /q --export /a").is_err());
    assert!(parse("lifeboat protect web-1 --agent a --export /a --disk x").is_err());
}

#[test]
fn drill_is_a_server_or_a_cleanup() {
    let Command::Drill(drill) = parse("lifeboat drill web-1 --cpu 2 --memory 2GiB").unwrap().command else {
        panic!("not a drill");
    };
    assert_eq!(drill.name.as_deref(), Some("web-1"));
    assert_eq!(drill.launch.overrides().memory_mib, Some(2048));
    let Command::Drill(drill) = parse("lifeboat drill cleanup 1234").unwrap().command else {
        panic!("not a drill");
    };
    assert!(matches!(drill.command, Some(DrillCommand::Cleanup(_))));
    assert!(parse("lifeboat drill").is_err());
    assert!(parse("lifeboat drill web-1 --wait --detach").is_err());
}

#[test]
fn a_token_is_for_an_agent_or_a_role() {
    assert!(parse("lifeboat token create --agent").is_ok());
    assert!(parse("lifeboat token create --role viewer").is_ok());
    assert!(parse("lifeboat token create").is_err());
    assert!(parse("lifeboat token create --agent --role viewer").is_err());
}

#[test]
fn set_changes_only_what_is_named() {
    use lifeboat_api::types::{LaunchSettings, OnLoss, ReplicationMode, ReplicationSpec, WatchSpec};
    let Command::Set(set) =
        parse("lifeboat set db-1 --on-loss degrade --verify-every never").unwrap().command
    else {
        panic!("not a set");
    };
    let base = ReplicationSpec { mode: ReplicationMode::Sync, loss_seconds: 7, ..ReplicationSpec::default() };
    let changed = set.replication.over(&base).unwrap();
    assert_eq!(changed, ReplicationSpec { on_loss: OnLoss::Degrade, ..base });
    assert_eq!(set.watch.over(&WatchSpec::default()).unwrap().verify_hours, 0);
    let own = LaunchSettings { cpus: 4, ports: vec![80], ..LaunchSettings::default() };
    assert_eq!(set.launch.over(&own), own);
    let Command::Set(none) = parse("lifeboat set db-1 --window 1h").unwrap().command else {
        panic!("not a set");
    };
    let (replication, watch) = (ReplicationSpec::default(), WatchSpec::default());
    assert_eq!((none.replication.over(&replication), none.watch.over(&watch)), (None, None));
    assert!(parse("lifeboat set db-1 --loss-seconds 0").is_err());
}

#[test]
fn a_check_is_of_one_server_or_of_all() {
    assert!(parse("lifeboat check web-1 --full").is_ok());
    assert!(parse("lifeboat check --all").is_ok());
    assert!(parse("lifeboat check").is_err());
    assert!(parse("lifeboat check web-1 --all").is_err());
}

#[test]
fn branches_are_listed_or_one_is_deleted() {
    let Command::Branches(all) = parse("lifeboat branches").unwrap().command else { panic!("not branches") };
    assert!(all.name.is_none() && all.command.is_none());
    let Command::Branches(one) = parse("lifeboat branches delete web-1 b1.7f3a").unwrap().command else {
        panic!("not branches");
    };
    assert!(matches!(one.command, Some(BranchesCommand::Delete(d)) if d.branch == "b1.7f3a"));
    assert!(parse("lifeboat mount web-1 --branch b1.7f3a").is_ok());
    assert!(parse("lifeboat mount web-1 --branch b1.7f3a --point 5m").is_err());
    assert!(parse("lifeboat verify web-1 --wait --no-wait").is_err());
}
