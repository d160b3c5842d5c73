//! Errors of the parts in the API's words: what went wrong and what to do next.

use crate::launch::LaunchError;
use lifeboat_api::port::PortError;
use lifeboat_api::types::ErrorCode;
use lifeboat_base::point::BadPoint;
use lifeboat_journal::{JournalError, PointError};

pub fn journal(e: &JournalError) -> PortError {
    let code = match e {
        JournalError::NoSpace => ErrorCode::NoSpace,
        JournalError::WrongKey | JournalError::Manifest(_) => ErrorCode::Corrupt,
        JournalError::StaleEpoch { .. } | JournalError::Locked | JournalError::PlanStale => {
            ErrorCode::Conflict
        }
        JournalError::Gap { .. } | JournalError::Invalid { .. } => ErrorCode::Invalid,
        JournalError::Poisoned(_) | JournalError::Io { .. } => ErrorCode::Internal,
    };
    PortError::new(code, e.to_string())
}

pub fn point(e: &PointError) -> PortError {
    match e {
        PointError::NoPoints => PortError::new(ErrorCode::Conflict, e.to_string())
            .hint("wait until the initial sync is over: lifeboat status"),
        PointError::BeforeWindow { .. } => PortError::new(ErrorCode::NotFound, e.to_string())
            .hint("choose that one or a later point: lifeboat points"),
        PointError::Unknown { .. } => {
            PortError::new(ErrorCode::NotFound, e.to_string()).hint("list what there is: lifeboat points")
        }
        PointError::UnknownDisk { .. } => PortError::new(ErrorCode::NotFound, e.to_string()),
        PointError::Damaged(_) => PortError::new(ErrorCode::Corrupt, e.to_string()),
        PointError::Journal(j) => journal(j),
    }
}

pub fn bad_point(e: &BadPoint) -> PortError {
    PortError::new(ErrorCode::Invalid, e.to_string())
}

pub fn launch(e: &LaunchError) -> PortError {
    let code = match e {
        LaunchError::Spec(_) => ErrorCode::Invalid,
        LaunchError::NotRunning(_) | LaunchError::OtherRun { .. } => ErrorCode::Conflict,
        LaunchError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            ErrorCode::NoSpace
        }
        LaunchError::Io { .. } | LaunchError::Record { .. } => ErrorCode::Internal,
        _ => ErrorCode::Unavailable,
    };
    PortError::new(code, e.to_string())
}

/// What must not happen.
pub fn internal(text: &str) -> PortError {
    PortError::new(ErrorCode::Internal, text)
}
