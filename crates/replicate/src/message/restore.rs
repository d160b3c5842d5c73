//! Bringing files back to an agent's host.
//!
//! ```text
//!  site ── Restore{job, root, request} ──> agent            (control session)
//!       <── RestoreResult ──
//!       <── Hello: RestoreSession{job} ──                   (a session of its own)
//!       <── Get ──   ── Blob, one for each, in any order ──>   ...   <── Done ──   ── End ──>
//! ```

use super::{BackupEnd, BackupProgress, BlobRef};
use prost::{Message, Oneof};

/// Bring files back to this host, in a session of its own.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Restore {
    /// Random; the session names it.
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// Root of the backup's tree, 32 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub root: Vec<u8>,
    /// `RestoreRequest` as JSON: the API's own form, understood in one place.
    #[prost(string, tag = "3")]
    pub request: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RestoreResult {
    /// Empty: the session is on its way. Else why there will be none.
    #[prost(string, tag = "1")]
    pub error: String,
}

/// The blobs of one restore the site asked for.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RestoreSession {
    #[prost(fixed64, tag = "1")]
    pub job: u64,
}

/// Both ways in a restore's session.
#[derive(Clone, PartialEq, Message)]
pub struct RestoreFrame {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6")]
    pub body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    /// Agent to site.
    #[prost(message, tag = "1")]
    Get(RestoreGet),
    /// Site to agent: one for each that was asked for, in any order.
    #[prost(message, tag = "2")]
    Blob(RestoreBlob),
    /// Agent to site: a sign of life, too.
    #[prost(message, tag = "3")]
    Progress(BackupProgress),
    /// Agent to site, when everything is written and compared.
    #[prost(message, tag = "4")]
    Done(RestoreDone),
    /// Either way, last: the result was taken, or why it ended before.
    #[prost(message, tag = "5")]
    End(BackupEnd),
    /// Site to agent: a sign of life.
    #[prost(bool, tag = "6")]
    Ping(bool),
}

impl Body {
    /// For errors: what came, without what is in it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Get(_) => "request",
            Self::Blob(_) => "blob",
            Self::Progress(_) => "progress",
            Self::Done(_) => "result",
            Self::End(_) => "end",
            Self::Ping(_) => "ping",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RestoreGet {
    /// None that was asked for and not given yet.
    #[prost(message, repeated, tag = "1")]
    pub blobs: Vec<BlobRef>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RestoreBlob {
    /// BLAKE3, 32 bytes. The agent proves the content by it.
    #[prost(bytes = "vec", tag = "1")]
    pub hash: Vec<u8>,
    /// Never empty, unless it cannot be had.
    #[prost(bytes = "bytes", tag = "2")]
    pub content: bytes::Bytes,
    /// The vault does not have it.
    #[prost(bool, tag = "3")]
    pub missing: bool,
    /// Else why it cannot be had.
    #[prost(string, tag = "4")]
    pub error: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RestoreDone {
    #[prost(uint64, tag = "1")]
    pub files: u64,
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Files compared with the tree afterwards.
    #[prost(uint64, tag = "3")]
    pub verified: u64,
    /// What could not be brought back, as `PATH: why`; the first of it.
    #[prost(string, repeated, tag = "4")]
    pub problems: Vec<String>,
    #[prost(uint64, tag = "5")]
    pub problem_count: u64,
}
