//! Handshake and control messages, as protocol buffers: new fields may be added, old ones keep
//! their numbers.

pub mod restore;

use prost::{Enumeration, Message, Oneof};

/// Version of the wire format this code speaks.
pub const VERSION: u32 = 1;

/// First frame of every session, from the agent.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Random number of this agent process: tells a restart from a second claimant.
    #[prost(fixed64, tag = "2")]
    pub instance: u64,
    #[prost(string, tag = "3")]
    pub agent_version: String,
    #[prost(oneof = "hello::Session", tags = "4, 5, 6, 7")]
    pub session: Option<hello::Session>,
}

pub mod hello {
    use super::restore::RestoreSession;
    use super::{BackupSession, ControlSession, Oneof, StreamSession};

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Session {
        #[prost(message, tag = "4")]
        Control(ControlSession),
        #[prost(message, tag = "5")]
        Stream(StreamSession),
        #[prost(message, tag = "6")]
        Backup(BackupSession),
        #[prost(message, tag = "7")]
        Restore(RestoreSession),
    }
}

/// Assignments, probes and reports of one agent.
#[derive(Clone, PartialEq, Message)]
pub struct ControlSession {}

/// The writes of one server.
#[derive(Clone, PartialEq, Message)]
pub struct StreamSession {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub server: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
    #[prost(message, repeated, tag = "3")]
    pub disks: Vec<Disk>,
    /// Earlier processes of this agent whose unacknowledged writes its tracking still covers, newest first; at most
    /// [`MAX_LINEAGE`](lifeboat_base::limits::MAX_LINEAGE).
    #[prost(fixed64, repeated, tag = "4")]
    pub lineage: Vec<u64>,
    /// The last sign of life in that tracking, by the source's clock in nanoseconds; 0 where it has none. Long before the
    /// newest point here, the tracking is older than what it is to account for.
    #[prost(uint64, tag = "5")]
    pub alive: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Disk {
    #[prost(uint32, tag = "1")]
    pub index: u32,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(uint64, tag = "3")]
    pub size: u64,
}

/// The site's answer to a [`Hello`] it accepts.
#[derive(Clone, PartialEq, Message)]
pub struct Welcome {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Newest record on stable storage here; the stream goes on after it.
    #[prost(uint64, tag = "2")]
    pub durable: u64,
    /// The site holds content of this server already.
    #[prost(bool, tag = "3")]
    pub has_content: bool,
    /// The newest record here came from the agent process that says hello now: what it has not seen
    /// acknowledged goes on from `durable`. Else numbers above are another's, and it starts anew.
    #[prost(bool, tag = "4")]
    pub same_writer: bool,
    /// The newest record here came from a process of the hello's lineage: what its tracking does not
    /// suspect is here already, if `durable` is not below what that tracking was told.
    #[prost(bool, tag = "5")]
    pub follows: bool,
    /// The epoch is over: what is sent is kept beside the line, as a branch.
    #[prost(bool, tag = "6")]
    pub branch: bool,
}

/// The site's answer to a [`Hello`] it refuses, or its last word in a session.
#[derive(Clone, PartialEq, Message)]
pub struct Refuse {
    #[prost(enumeration = "RefuseCode", tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum RefuseCode {
    Unspecified = 0,
    /// No common version.
    Version = 1,
    /// The server is not assigned to this agent.
    NotAssigned = 2,
    /// The epoch is over: another writer reigns.
    StaleEpoch = 3,
    /// Another live session holds this server.
    Busy = 4,
    /// A frame broke the rules.
    Protocol = 5,
    /// The site cannot store; try again later.
    Storage = 6,
    /// The site goes down; try again.
    Shutdown = 7,
    /// The disks do not fit those the site knows.
    Disks = 8,
}

/// Both ways on a control session.
#[derive(Clone, PartialEq, Message)]
pub struct Control {
    /// Pairs a request with its answer; 0 where none is awaited.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(oneof = "control::Body", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17")]
    pub body: Option<control::Body>,
}

pub mod control {
    use super::restore::{Restore, RestoreResult};
    use super::{
        Assignments, Backup, BackupResult, Cut, CutResult, Hold, HoldResult, Oneof, Probe, ProbeResult,
        Renew, Renewed, Report, Verify,
    };

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Body {
        /// Site to agent: everything this agent shall capture.
        #[prost(message, tag = "2")]
        Assignments(Assignments),
        /// Site to agent.
        #[prost(message, tag = "3")]
        Probe(Probe),
        /// Agent to site.
        #[prost(message, tag = "4")]
        ProbeResult(ProbeResult),
        /// Agent to site.
        #[prost(message, tag = "5")]
        Report(Report),
        /// Agent to site.
        #[prost(message, tag = "6")]
        Renew(Renew),
        /// Site to agent.
        #[prost(message, tag = "7")]
        Renewed(Renewed),
        /// Either way: nothing to say.
        #[prost(bool, tag = "8")]
        Ping(bool),
        /// Site to agent: first half of a group's barrier.
        #[prost(message, tag = "9")]
        Hold(Hold),
        /// Agent to site, with the id of the [`Hold`].
        #[prost(message, tag = "10")]
        HoldResult(HoldResult),
        /// Site to agent: second half.
        #[prost(message, tag = "11")]
        Cut(Cut),
        /// Agent to site, with the id of the [`Cut`].
        #[prost(message, tag = "12")]
        CutResult(CutResult),
        /// Site to agent.
        #[prost(message, tag = "13")]
        Verify(Verify),
        /// Site to agent.
        #[prost(message, tag = "14")]
        Backup(Backup),
        /// Agent to site, with the id of the [`Backup`].
        #[prost(message, tag = "15")]
        BackupResult(BackupResult),
        /// Site to agent.
        #[prost(message, tag = "16")]
        Restore(Restore),
        /// Agent to site, with the id of the [`Restore`].
        #[prost(message, tag = "17")]
        RestoreResult(RestoreResult),
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Assignments {
    #[prost(message, repeated, tag = "1")]
    pub servers: Vec<Assignment>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Assignment {
    #[prost(bytes = "vec", tag = "1")]
    pub server: Vec<u8>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(uint32, tag = "3")]
    pub epoch: u32,
    /// `CaptureSpec` as JSON: the API's own form, understood in one place.
    #[prost(string, tag = "4")]
    pub capture: String,
    /// Disks as first probed, so that their order never changes.
    #[prost(message, repeated, tag = "5")]
    pub disks: Vec<Disk>,
    /// `ReplicationSpec` as JSON; empty for the defaults.
    #[prost(string, tag = "6")]
    pub replication: String,
}

/// First half of a group's barrier: from now on no write of these servers completes, until [`Cut`] or until the time is
/// over.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hold {
    /// Random; pairs the halves.
    #[prost(fixed64, tag = "1")]
    pub barrier: u64,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub servers: Vec<Vec<u8>>,
    /// How long the writes are held at most, counted from when the agent reads this.
    #[prost(uint32, tag = "3")]
    pub limit_ms: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct HoldResult {
    /// Empty: every server of the request is held. Else why not, and nothing is held.
    #[prost(string, tag = "1")]
    pub error: String,
}

/// Second half of a group's barrier: cuts one in every server held, then lets their writes go on. With `abandon` it only
/// lets them go on.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Cut {
    #[prost(fixed64, tag = "1")]
    pub barrier: u64,
    #[prost(bool, tag = "2")]
    pub abandon: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct CutResult {
    /// In the order of the hold. Each was cut while all of them were still held.
    #[prost(message, repeated, tag = "1")]
    pub cuts: Vec<ServerCut>,
    /// Set when none counts: a hold was over, or a barrier would not have been exact.
    #[prost(string, tag = "2")]
    pub error: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ServerCut {
    #[prost(bytes = "vec", tag = "1")]
    pub server: Vec<u8>,
    /// Number the barrier has in the stream, and its time. If the site finds another record there, the queue
    /// overflowed since and there is no such barrier.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    #[prost(uint64, tag = "4")]
    pub time: u64,
    /// How long writes were held.
    #[prost(uint64, tag = "3")]
    pub held_us: u64,
}

/// Compare source and copy while both go on. One at a time for each server; another starts it anew.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Verify {
    #[prost(bytes = "vec", tag = "1")]
    pub server: Vec<u8>,
    /// Random; names this comparison in reports.
    #[prost(fixed64, tag = "2")]
    pub id: u64,
    /// Bytes of the source read per second at most; 0 for no limit.
    #[prost(uint64, tag = "3")]
    pub rate: u64,
    /// Ends it instead.
    #[prost(bool, tag = "4")]
    pub cancel: bool,
}

/// How a comparison stands.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct VerifyReport {
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub total_bytes: u64,
    #[prost(uint64, tag = "3")]
    pub done_bytes: u64,
    /// Everything was compared, and a barrier was cut after it.
    #[prost(bool, tag = "4")]
    pub over: bool,
    /// Bytes that differed. They are sent anew.
    #[prost(uint64, tag = "5")]
    pub different_bytes: u64,
    /// Where, in order of finding; the first [`MAX_DIFFERENCES`](lifeboat_base::limits::MAX_DIFFERENCES) only.
    #[prost(message, repeated, tag = "6")]
    pub different: Vec<DiskRange>,
    /// Set when it ended without a result.
    #[prost(string, tag = "7")]
    pub error: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DiskRange {
    #[prost(uint32, tag = "1")]
    pub disk: u32,
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    #[prost(uint64, tag = "3")]
    pub len: u64,
}

/// What is behind a capture?
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Probe {
    /// `CaptureSpec` as JSON.
    #[prost(string, tag = "1")]
    pub capture: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ProbeResult {
    #[prost(message, repeated, tag = "1")]
    pub disks: Vec<Disk>,
    /// Set when it failed: what, and what to do next.
    #[prost(message, optional, tag = "2")]
    pub error: Option<Failure>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Failure {
    #[prost(string, tag = "1")]
    pub message: String,
    #[prost(string, tag = "2")]
    pub hint: String,
    /// The request itself is wrong, so repeating it is useless.
    #[prost(bool, tag = "3")]
    pub invalid: bool,
}

/// How the agent's captures are doing.
#[derive(Clone, PartialEq, Message)]
pub struct Report {
    #[prost(message, repeated, tag = "1")]
    pub servers: Vec<ServerReport>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ServerReport {
    #[prost(bytes = "vec", tag = "1")]
    pub server: Vec<u8>,
    /// Name of the capture's state, for example `attached`.
    #[prost(string, tag = "2")]
    pub capture: String,
    /// What a person must do, when the capture cannot go on by itself.
    #[prost(string, tag = "3")]
    pub stalled: String,
    #[prost(enumeration = "Phase", tag = "4")]
    pub phase: i32,
    #[prost(uint64, tag = "5")]
    pub total_bytes: u64,
    #[prost(uint64, tag = "6")]
    pub done_bytes: u64,
    #[prost(uint64, tag = "7")]
    pub sent_bytes: u64,
    #[prost(uint64, tag = "8")]
    pub rate: u64,
    #[prost(message, repeated, tag = "9")]
    pub disks: Vec<Disk>,
    #[prost(string, repeated, tag = "10")]
    pub exports: Vec<String>,
    /// Captured and not acknowledged, in bytes: queue, unacknowledged and dirty.
    #[prost(uint64, tag = "11")]
    pub lag_bytes: u64,
    /// Part of it that waits in the spool on the agent's disk, as sent.
    #[prost(uint64, tag = "12")]
    pub spool_bytes: u64,
    /// Bytes of the source read and hashed since this process began.
    #[prost(uint64, tag = "13")]
    pub hashed_bytes: u64,
    #[prost(message, optional, tag = "14")]
    pub verify: Option<VerifyReport>,
    #[prost(enumeration = "SyncState", tag = "15")]
    pub sync_state: i32,
    /// Since when, by the source's clock, in nanoseconds; for a state that is not as wanted.
    #[prost(uint64, tag = "16")]
    pub sync_since: u64,
    #[prost(message, optional, tag = "17")]
    pub flushes: Option<Flushes>,
    /// The last time flushes went on without the site, when that is over: from and until, by the source's clock, in
    /// nanoseconds; 0 for never. The site may have been away all the while.
    #[prost(uint64, tag = "18")]
    pub degraded_from: u64,
    #[prost(uint64, tag = "19")]
    pub degraded_until: u64,
}

/// How a server in synchronous mode keeps its promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum SyncState {
    /// In asynchronous mode.
    Asynchronous = 0,
    /// No first copy yet, or catching up: flushes do not wait for the site.
    NotYet = 1,
    /// Every flush waits for the site.
    Synchronous = 2,
    /// Flushes wait, and the site does not answer.
    Blocked = 3,
    /// The policy let flushes go on without the site.
    Degraded = 4,
}

/// Sums over the flushes of a synchronous server since the agent began. Nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Flushes {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    /// The source's own flush.
    #[prost(uint64, tag = "2")]
    pub source: u64,
    /// From there until the frame with its last write was ready.
    #[prost(uint64, tag = "3")]
    pub encode: u64,
    /// From there until the site's acknowledgement: the link, the site's queue and its disk.
    #[prost(uint64, tag = "4")]
    pub site: u64,
    #[prost(uint64, tag = "5")]
    pub longest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Phase {
    Idle = 0,
    Scan = 1,
    Full = 2,
    Resync = 3,
    Live = 4,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Renew {
    /// PKCS#10, PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Renewed {
    /// Certificate chain, PEM; empty when refused.
    #[prost(string, tag = "1")]
    pub certificate: String,
    #[prost(string, tag = "2")]
    pub error: String,
}

/// Back these paths up, in a session of its own.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Backup {
    /// Random; the session names it.
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// `BackupSet` as JSON: the API's own form, understood in one place.
    #[prost(string, tag = "2")]
    pub set: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct BackupResult {
    /// Empty: the session is on its way. Else why there will be none.
    #[prost(string, tag = "1")]
    pub error: String,
}

/// The blobs of one backup the site asked for.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BackupSession {
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// Root of the tree the agent remembers from the last backup of the set: 32 bytes, or none.
    #[prost(bytes = "vec", tag = "2")]
    pub base: Vec<u8>,
}

/// Both ways in a backup's session. The agent offers what it has, the site asks for what it lacks; nothing goes the other
/// way, so a backup reads nothing.
#[derive(Clone, PartialEq, Message)]
pub struct BackupFrame {
    #[prost(oneof = "backup::Body", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub body: Option<backup::Body>,
}

pub mod backup {
    use super::{
        BackupBegin, BackupBlob, BackupDone, BackupEnd, BackupNeeded, BackupOffer, BackupProgress, Oneof,
    };

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Body {
        /// Site to agent, first.
        #[prost(message, tag = "1")]
        Begin(BackupBegin),
        /// Agent to site.
        #[prost(message, tag = "2")]
        Offer(BackupOffer),
        /// Site to agent: for each offer one, in their order.
        #[prost(message, tag = "3")]
        Needed(BackupNeeded),
        /// Agent to site.
        #[prost(message, tag = "4")]
        Blob(BackupBlob),
        /// Agent to site: a sign of life, too.
        #[prost(message, tag = "5")]
        Progress(BackupProgress),
        /// Agent to site, when every blob was sent.
        #[prost(message, tag = "6")]
        Done(BackupDone),
        /// Either way, last: it is in the vault, or why it is not.
        #[prost(message, tag = "7")]
        End(BackupEnd),
        /// Site to agent: a sign of life.
        #[prost(bool, tag = "8")]
        Ping(bool),
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct BackupBegin {
    /// The tree the agent remembers is that of the newest backup here: what it names need not be offered again.
    #[prost(bool, tag = "1")]
    pub base: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct BackupOffer {
    #[prost(message, repeated, tag = "1")]
    pub blobs: Vec<BlobRef>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct BlobRef {
    /// BLAKE3, 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub hash: Vec<u8>,
    /// A part of a tree; else content.
    #[prost(bool, tag = "2")]
    pub tree: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct BackupNeeded {
    /// Which blobs of the offer are needed.
    #[prost(uint32, repeated, tag = "1")]
    pub blobs: Vec<u32>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct BackupBlob {
    #[prost(bool, tag = "1")]
    pub tree: bool,
    #[prost(bytes = "bytes", tag = "2")]
    pub content: bytes::Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct BackupProgress {
    #[prost(uint64, tag = "1")]
    pub files: u64,
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct BackupDone {
    /// Root of the tree, 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub root: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub files: u64,
    #[prost(uint64, tag = "3")]
    pub directories: u64,
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
    #[prost(uint64, tag = "5")]
    pub files_read: u64,
    #[prost(uint64, tag = "6")]
    pub bytes_read: u64,
    /// What could not be read, as `PATH: why`; the first of it.
    #[prost(string, repeated, tag = "7")]
    pub problems: Vec<String>,
    #[prost(uint64, tag = "8")]
    pub problem_count: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct BackupEnd {
    /// Empty: it is in the vault.
    #[prost(string, tag = "1")]
    pub error: String,
}
