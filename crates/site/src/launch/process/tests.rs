#![allow(clippy::unwrap_used)]

use super::*;
use lifeboat_base::SystemClock;

const LONG: Duration = Duration::from_secs(20);

fn sh(script: &str, deadline: Duration) -> ToolEnd {
    run_tool(Command::new("/bin/sh").args(["-c", script]), "dash", deadline, &SystemClock).unwrap()
}

#[test]
fn a_name_with_parentheses_does_not_confuse_the_fields() {
    let fields: Vec<String> = (4..=30).map(|n| n.to_string()).collect();
    let stat = format!("77 (a) Z (x y) S {}\n", fields.join(" "));
    assert_eq!(parse_stat(&stat), Some(('S', 22)));
    assert_eq!(parse_stat("77 (a"), None);
}

#[test]
fn a_process_is_alive_until_it_ends_even_unreaped() {
    let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
    let id = ProcessId::find(child.id()).unwrap();
    assert!(id.alive());
    let handle = id.handle().unwrap();
    assert!(!handle.wait(Duration::from_millis(20), &SystemClock));
    handle.kill();
    assert!(handle.wait(LONG, &SystemClock));
    assert!(!id.alive() && id.handle().is_none(), "a zombie is not alive");
    child.wait().unwrap();
    assert!(!id.alive());
}

#[test]
fn a_recycled_pid_is_not_the_process() {
    let me = ProcessId::find(std::process::id()).unwrap();
    let other = ProcessId { start: me.start + 1, ..me };
    assert!(me.alive() && !other.alive() && other.handle().is_none());
}

#[test]
fn a_tool_ends_with_code_and_both_streams() {
    let end = sh("echo out; echo err >&2; exit 3", LONG);
    assert_eq!((end.how().as_str(), end.ok()), ("exit code 3", false));
    assert_eq!(end.output, "out\nerr");
    assert!(sh("true", LONG).ok());
}

#[test]
fn a_tool_past_its_deadline_is_ended_with_all_it_started() {
    let end = sh("sleep 1000 & echo $!; wait", Duration::from_millis(500));
    assert_eq!((end.status, end.how().as_str()), (None, "ran out of time"));
    let pid: u32 = end.output.parse().unwrap();
    if let Some(h) = ProcessId::find(pid).and_then(ProcessId::handle) {
        assert!(h.wait(LONG, &SystemClock), "what the tool started lives on");
    }
}

#[test]
fn a_tool_that_prints_without_end_fills_no_memory() {
    let end = sh("yes | head -c 3000000; echo last", LONG);
    assert!(end.output.len() <= TOOL_OUTPUT && end.output.ends_with("last"));
}

#[test]
fn a_missing_tool_names_its_package() {
    let e = run_tool(&mut Command::new("no-such-program"), "some-package", LONG, &SystemClock).unwrap_err();
    assert_eq!(e.to_string(), "'no-such-program' was not found: install the package some-package");
}
