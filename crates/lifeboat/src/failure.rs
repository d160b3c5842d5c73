//! Why a command did not do what was asked: what happened, what to do next, and an exit code.

use lifeboat_api::types::{ApiError, ErrorCode};
use std::fmt;
use std::process::ExitCode;

/// The exit code's meaning. Listed in `--help`; never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    Unavailable = 5,
    ChecksFailed = 6,
    Corrupt = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

impl From<ErrorCode> for Exit {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Invalid => Self::Usage,
            ErrorCode::Unauthenticated | ErrorCode::Forbidden | ErrorCode::Conflict => Self::Refused,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Unavailable => Self::Unavailable,
            ErrorCode::Corrupt => Self::Corrupt,
            ErrorCode::NoSpace | ErrorCode::Internal => Self::Failed,
        }
    }
}

/// What a command returns instead of success.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// What went wrong.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An operating system's error, with what was being done.
    pub fn io(doing: impl fmt::Display, e: &std::io::Error) -> Self {
        let failure = Self::failed(format!("cannot {doing}: {e}"));
        match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                failure.hint("run it as the user who owns the file, or choose another path")
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                failure.hint("make room on that file system, or choose another path")
            }
            _ => failure,
        }
    }
}

impl From<ApiError> for Failure {
    fn from(e: ApiError) -> Self {
        let hint = e.hint.or_else(|| {
            (e.code == ErrorCode::Unauthenticated).then(|| {
                "log in with a valid token: lifeboat login --url URL --fingerprint HEX --token TOKEN".into()
            })
        });
        Self { exit: e.code.into(), message: e.message, hint }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n next: {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
