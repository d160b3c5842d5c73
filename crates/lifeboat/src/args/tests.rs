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
