//! How a server's writes are seen.
//!
//! A capture feeds a [`Stream`](crate::stream::Stream) and tells in words how it is doing. It runs
//! in threads of its own until it is stopped, and comes back by itself when its source does.

pub mod bitmaps;
pub mod mirror;
pub mod probe;
pub mod range_lock;
pub mod splitter;

use parking_lot::Mutex;

/// Where a capture stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureState {
    Starting,
    /// Every write is seen.
    Attached,
    /// Not attached, and what is awaited.
    Waiting(&'static str, String),
    /// A person must do something.
    Stalled(String),
    Stopped,
}

impl CaptureState {
    /// The state's name, as reports carry it.
    pub fn name(&self) -> String {
        match self {
            Self::Starting => "starting".into(),
            Self::Attached => "attached".into(),
            Self::Waiting(what, _) => (*what).into(),
            Self::Stalled(_) => "stalled".into(),
            Self::Stopped => "stopped".into(),
        }
    }

    /// What a person must do or know; empty when all is well.
    pub fn reason(&self) -> String {
        match self {
            Self::Waiting(_, why) | Self::Stalled(why) => why.clone(),
            _ => String::new(),
        }
    }
}

/// A capture's state, shared with whoever reports it.
#[derive(Debug)]
pub struct StateCell(Mutex<CaptureState>);

impl Default for StateCell {
    fn default() -> Self {
        Self(Mutex::new(CaptureState::Starting))
    }
}

impl StateCell {
    pub fn get(&self) -> CaptureState {
        self.0.lock().clone()
    }

    pub fn set(&self, state: CaptureState) {
        let mut now = self.0.lock();
        if *now != state {
            match &state {
                CaptureState::Waiting(what, why) => tracing::warn!("capture: {what}: {why}"),
                CaptureState::Stalled(why) => tracing::error!("capture stalled: {why}"),
                other => tracing::info!("capture: {}", other.name()),
            }
            *now = state;
        }
    }
}

/// A request that cannot be carried out, for the person who made it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", if hint.is_empty() { String::new() } else { format!("; {hint}") })]
pub struct CaptureError {
    pub message: String,
    pub hint: String,
    /// Repeating the same request is useless.
    pub invalid: bool,
}

impl CaptureError {
    pub fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), invalid: true }
    }

    pub fn failed(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), invalid: false }
    }
}
