use super::*;
use crate::render::fixtures::*;
use lifeboat_api::types::{ApiError, ErrorCode};

#[test]
fn steps_show_what_happened_and_how_long() {
    let op = operation(OperationKind::Drill, OperationState::Running);
    let text = full(&op, Style::PLAIN);
    assert!(
        text.contains("  + resolve: p1.4711 (1.0 s)\n  > checks: http:80\n    report\nstill running"),
        "{text}"
    );
}

#[test]
fn a_failure_says_why_and_what_next() {
    let mut op = operation(OperationKind::Failover, OperationState::Failed);
    op.error = Some(ApiError::new(ErrorCode::NoSpace, "no room for the disks").hint("free 3 GiB"));
    let text = ending(&op, Style::PLAIN);
    assert_eq!(text, "failed after 5.0 s\n  no room for the disks\n  next: free 3 GiB\n");
}
