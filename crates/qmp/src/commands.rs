//! The commands Lifeboat uses, typed. Fields nobody here reads are left out; QEMU may add more.

use crate::client::Qmp;
use crate::error::QmpError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// `query-status`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// QEMU's run state: `running`, `paused`, `shutdown`, `io-error`, `guest-panicked`, ...
    pub status: String,
    pub running: bool,
}

/// One of `query-block-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockJob {
    /// The job's id.
    pub device: String,
    /// `stream`, `mirror`, `backup`, `commit`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes to do in all; may grow.
    pub len: u64,
    /// Bytes done.
    pub offset: u64,
    pub busy: bool,
    pub paused: bool,
    /// Bytes per second; 0 is no limit.
    pub speed: u64,
    #[serde(rename = "io-status", default)]
    pub io_status: String,
    /// A mirror has caught up.
    pub ready: bool,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub error: Option<String>,
}

/// One of `query-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct JobInfo {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    #[serde(rename = "current-progress")]
    pub done: u64,
    #[serde(rename = "total-progress")]
    pub total: u64,
    #[serde(default)]
    pub error: Option<String>,
}

/// What QEMU says of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ImageInfo {
    pub filename: String,
    pub format: String,
    /// Bytes.
    #[serde(rename = "virtual-size")]
    pub virtual_size: u64,
}

/// One of `query-named-block-nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NamedNode {
    #[serde(rename = "node-name")]
    pub node_name: String,
    pub drv: String,
    #[serde(rename = "ro")]
    pub read_only: bool,
    /// File name, or a `json:` description.
    pub file: String,
    #[serde(default)]
    pub backing_file: Option<String>,
    /// How many images lie under this one.
    #[serde(default)]
    pub backing_file_depth: u64,
    pub image: ImageInfo,
    #[serde(rename = "dirty-bitmaps", default)]
    pub bitmaps: Vec<DirtyBitmap>,
}

/// A dirty bitmap of a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DirtyBitmap {
    #[serde(default)]
    pub name: String,
    /// It notes writes now.
    pub recording: bool,
    /// Its file says that it was not stored properly: it tells nothing.
    #[serde(default)]
    pub inconsistent: bool,
}

/// One of `query-block`: a disk or drive as the guest has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockInfo {
    /// Name of the `-drive`; empty with `-blockdev`.
    pub device: String,
    /// Path or id of the guest's device.
    #[serde(default)]
    pub qdev: Option<String>,
    #[serde(default)]
    pub removable: bool,
    /// `None` when the drive is empty.
    #[serde(default)]
    pub inserted: Option<BlockInserted>,
}

/// What is in a drive.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockInserted {
    #[serde(rename = "node-name", default)]
    pub node_name: Option<String>,
    #[serde(rename = "ro")]
    pub read_only: bool,
    pub drv: String,
    pub file: String,
    #[serde(default)]
    pub backing_file: Option<String>,
    pub image: ImageInfo,
}

/// What a job does about an I/O error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The job fails.
    Report,
    /// The job pauses.
    Stop,
    /// Mirror: the place is marked dirty and tried again.
    Ignore,
}

/// What a mirror copies besides new writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MirrorSync {
    /// The whole disk.
    Full,
    /// The topmost image only.
    Top,
    /// Nothing: new writes only.
    None,
}

/// `blockdev-mirror`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mirror<'a> {
    pub job_id: &'a str,
    /// Node or device that is copied.
    pub device: &'a str,
    /// Node that is written.
    pub target: &'a str,
    pub sync: MirrorSync,
    /// `write-blocking` when the guest's write completes only after the target's.
    #[serde(rename = "copy-mode", serialize_with = "copy_mode")]
    pub write_blocking: bool,
    pub on_source_error: OnError,
    pub on_target_error: OnError,
    /// Bytes per second; 0 is no limit.
    pub speed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granularity: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buf_size: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn copy_mode<S: serde::Serializer>(blocking: &bool, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(if *blocking { "write-blocking" } else { "background" })
}

impl<'a> Mirror<'a> {
    /// A write-blocking mirror that fails on any error rather than falling behind silently.
    pub fn blocking(job_id: &'a str, device: &'a str, target: &'a str, sync: MirrorSync) -> Self {
        Self {
            job_id,
            device,
            target,
            sync,
            write_blocking: true,
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
            speed: 0,
            granularity: None,
            buf_size: None,
        }
    }
}

/// `block-stream`: copies what lies under `device` into it, until it needs nothing more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StreamJob<'a> {
    pub job_id: &'a str,
    pub device: &'a str,
    pub speed: u64,
    pub on_error: OnError,
}

/// `block-export-add` with type `nbd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdExport<'a> {
    pub id: &'a str,
    pub node: &'a str,
    /// Name clients ask for.
    pub name: &'a str,
    pub writable: bool,
    /// Dirty bitmaps of the node to be read with it. On a read-only export they may not be recording.
    pub bitmaps: &'a [String],
}

impl Qmp {
    fn typed<T: DeserializeOwned>(&self, command: &str, args: Value) -> Result<T, QmpError> {
        let value = self.execute(command, args)?;
        serde_json::from_value(value)
            .map_err(|e| QmpError::Protocol(format!("its answer to '{command}' has another shape ({e})")))
    }

    fn done(&self, command: &str, args: Value) -> Result<(), QmpError> {
        self.execute(command, args).map(|_| ())
    }

    /// # Errors
    /// As [`execute`](Self::execute), here and below.
    pub fn query_status(&self) -> Result<Status, QmpError> {
        self.typed("query-status", Value::Null)
    }

    /// The machine's `-name`, empty without one.
    pub fn query_name(&self) -> Result<String, QmpError> {
        let v = self.execute("query-name", Value::Null)?;
        Ok(v["name"].as_str().unwrap_or_default().to_string())
    }

    pub fn query_block_jobs(&self) -> Result<Vec<BlockJob>, QmpError> {
        self.typed("query-block-jobs", Value::Null)
    }

    pub fn query_jobs(&self) -> Result<Vec<JobInfo>, QmpError> {
        self.typed("query-jobs", Value::Null)
    }

    pub fn query_named_block_nodes(&self) -> Result<Vec<NamedNode>, QmpError> {
        self.typed("query-named-block-nodes", json!({"flat": true}))
    }

    pub fn query_block(&self) -> Result<Vec<BlockInfo>, QmpError> {
        self.typed("query-block", Value::Null)
    }

    /// `node` is the whole blockdev description, `node-name` included.
    pub fn blockdev_add(&self, node: Value) -> Result<(), QmpError> {
        self.done("blockdev-add", node)
    }

    pub fn blockdev_del(&self, node_name: &str) -> Result<(), QmpError> {
        self.done("blockdev-del", json!({"node-name": node_name}))
    }

    /// Starts QEMU's own NBD server on a Unix socket. One per machine.
    pub fn nbd_server_start(&self, socket: &Path) -> Result<(), QmpError> {
        let path = socket.to_string_lossy();
        self.done("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": path}}}))
    }

    pub fn nbd_server_stop(&self) -> Result<(), QmpError> {
        self.done("nbd-server-stop", Value::Null)
    }

    pub fn block_export_add(&self, export: &NbdExport<'_>) -> Result<(), QmpError> {
        self.done(
            "block-export-add",
            json!({"type": "nbd", "id": export.id, "node-name": export.node, "name": export.name,
                   "writable": export.writable, "bitmaps": export.bitmaps}),
        )
    }

    /// A new dirty bitmap that notes writes from now on. `granularity` in bytes, a power of two.
    pub fn bitmap_add(&self, node: &str, name: &str, granularity: u32) -> Result<(), QmpError> {
        self.done("block-dirty-bitmap-add", json!({"node": node, "name": name, "granularity": granularity}))
    }

    /// It notes nothing any more, and keeps what it has.
    pub fn bitmap_disable(&self, node: &str, name: &str) -> Result<(), QmpError> {
        self.done("block-dirty-bitmap-disable", json!({"node": node, "name": name}))
    }

    pub fn bitmap_remove(&self, node: &str, name: &str) -> Result<(), QmpError> {
        self.done("block-dirty-bitmap-remove", json!({"node": node, "name": name}))
    }

    /// `hard` drops clients that are connected; otherwise a used export is refused.
    pub fn block_export_del(&self, id: &str, hard: bool) -> Result<(), QmpError> {
        self.done("block-export-del", json!({"id": id, "mode": if hard { "hard" } else { "safe" }}))
    }

    pub fn blockdev_mirror(&self, mirror: &Mirror<'_>) -> Result<(), QmpError> {
        self.done("blockdev-mirror", to_args(mirror)?)
    }

    pub fn block_stream(&self, stream: &StreamJob<'_>) -> Result<(), QmpError> {
        self.done("block-stream", to_args(stream)?)
    }

    /// Cancels a job; a mirror that is ready ends without switching the guest over.
    pub fn job_cancel(&self, id: &str) -> Result<(), QmpError> {
        self.done("block-job-cancel", json!({"device": id, "force": true}))
    }

    /// Lets a job that paused on an error go on.
    pub fn job_resume(&self, id: &str) -> Result<(), QmpError> {
        self.done("block-job-resume", json!({"device": id}))
    }

    /// `speed` in bytes per second; 0 is no limit.
    pub fn set_job_speed(&self, id: &str, speed: u64) -> Result<(), QmpError> {
        self.done("block-job-set-speed", json!({"device": id, "speed": speed}))
    }

    /// Connects or cuts a network backend or card.
    pub fn set_link(&self, name: &str, up: bool) -> Result<(), QmpError> {
        self.done("set_link", json!({"name": name, "up": up}))
    }

    /// Writes a PNG of the guest's screen to `file`, as the user QEMU runs as (QEMU 7.1 or later).
    pub fn screendump(&self, file: &Path) -> Result<(), QmpError> {
        self.done("screendump", json!({"filename": file.to_string_lossy(), "format": "png"}))
    }

    /// A command of QEMU's human monitor and its text.
    pub fn human(&self, line: &str) -> Result<String, QmpError> {
        self.typed("human-monitor-command", json!({"command-line": line}))
    }

    /// Pauses the guest.
    pub fn stop(&self) -> Result<(), QmpError> {
        self.done("stop", Value::Null)
    }

    /// Lets a paused guest go on.
    pub fn cont(&self) -> Result<(), QmpError> {
        self.done("cont", Value::Null)
    }

    /// Presses the guest's power button.
    pub fn system_powerdown(&self) -> Result<(), QmpError> {
        self.done("system_powerdown", Value::Null)
    }

    /// Ends QEMU at once. Its closing the connection before the reply is success too.
    pub fn quit(&self) -> Result<(), QmpError> {
        match self.done("quit", Value::Null) {
            Err(QmpError::Closed) => Ok(()),
            other => other,
        }
    }
}

fn to_args(value: &impl Serialize) -> Result<Value, QmpError> {
    serde_json::to_value(value).map_err(|e| QmpError::Protocol(e.to_string()))
}

#[cfg(test)]
mod tests;
