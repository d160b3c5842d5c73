//! Why a monitor could not be reached or did not do what was asked.

use std::path::PathBuf;
use std::time::Duration;

/// What went wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nothing is at the path.
    #[error(
        "there is no QMP socket at {}: check the path and that the machine runs with \
         '-qmp unix:{},server=on,wait=off'", path.display(), path.display()
    )]
    NoSocket { path: PathBuf },
    /// Something is at the path, but it lets nobody in.
    #[error("the QMP socket {} refuses connections ({why}): {hint}", path.display())]
    Refused { path: PathBuf, why: String, hint: &'static str },
    /// Connected, but no greeting: another client holds the monitor.
    #[error(
        "the QMP socket {} is held by another client: QMP serves one client at a time. Close the other \
         client, or give this machine a second '-qmp' socket and use that one", path.display()
    )]
    Busy { path: PathBuf },
    /// QEMU ended, or closed the monitor.
    #[error("QEMU closed the monitor connection: the machine has probably ended")]
    Closed,
    /// No reply in time. The command may still take effect.
    #[error("QEMU did not answer '{command}' within {after:?}; it may still carry it out")]
    Timeout { command: String, after: Duration },
    /// What came was not QMP.
    #[error("what answered is not a QEMU monitor: {0}")]
    Protocol(String),
    /// QEMU understood the command and refused it.
    #[error("QEMU refused '{command}': {desc}")]
    Command {
        command: String,
        /// QEMU's error class, `GenericError` for most.
        class: String,
        desc: String,
    },
}

impl QmpError {
    /// True when QEMU says that it does not know the node, job or export the command names.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Command { class, desc, .. } => {
                class == "DeviceNotFound"
                    || class == "DeviceNotActive"
                    || desc.contains("not found")
                    || desc.contains("Cannot find")
                    || desc.contains("Failed to find")
                    || desc.contains("is not found")
            }
            _ => false,
        }
    }

    /// True when the machine behind the socket is gone or not there yet, rather than unwilling.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NoSocket { .. } | Self::Refused { .. } | Self::Closed)
    }
}
