//! Every bound of the system, by name. A queue, frame or request without a name here is a bug.

use std::time::Duration;

pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * KIB;

/// Unit of the hash negotiation and of the dirty map, in bytes.
pub const BLOCK: usize = 64 * KIB;

/// Most bytes of disk content one stream record carries. A larger write becomes several records
/// that no barrier separates.
pub const MAX_RECORD: usize = 256 * KIB;

/// Most disks one server may have.
pub const MAX_DISKS: usize = 64;

/// Largest disk, in bytes (1 PiB). Keeps every offset + length far from overflow.
pub const MAX_DISK: u64 = 1 << 50;

/// Largest frame on the replication wire, header excluded.
pub const MAX_FRAME: usize = 8 * MIB;

/// Largest frame accepted from a peer that has not finished its handshake.
pub const MAX_HELLO: usize = 64 * KIB;

/// Largest NBD read or write request, in bytes.
pub const MAX_NBD_REQUEST: usize = 32 * MIB;

/// Largest NBD option payload, in bytes.
pub const MAX_NBD_OPTION: usize = 64 * KIB;

/// Flushes one NBD connection may have under way; a client that sends more waits.
pub const MAX_NBD_FLUSHES: usize = 1024;

/// NBD connections one export serves at a time.
pub const MAX_NBD_CONNECTIONS: usize = 16;

/// Captured writes an agent holds in memory for one server that are not sent yet, in bytes. Past this the dirty
/// map takes over.
pub const AGENT_QUEUE: usize = 32 * MIB;

/// Sent but unacknowledged bytes an agent keeps for one server, so that a reconnect resends them.
pub const AGENT_UNACKED: usize = 24 * MIB;

/// Sealed bytes an agent keeps on disk for one server while the link is down or slow, unless its settings say
/// otherwise. Past this the dirty map takes over.
pub const AGENT_SPOOL: u64 = 4 << 30;

/// Earlier processes of an agent a stream's hello may name.
pub const MAX_LINEAGE: usize = 8;

/// Branches of stale writers a site keeps for one server.
pub const MAX_BRANCHES: usize = 8;

/// Ranges a comparison names; what differs beyond is counted.
pub const MAX_DIFFERENCES: usize = 256;

/// Ranges noted as written under one background read; past this the read is made again.
pub const MAX_TOUCHED: usize = 256;

/// Regions a disk's write-intent log has at most.
pub const MAX_REGIONS: u64 = 1 << 20;

/// Most servers in one group.
pub const MAX_GROUP: usize = 64;

/// Longest time a group's barrier may hold writes.
pub const MAX_HOLD: Duration = Duration::from_secs(2);

/// How often a server to which nothing is written gets a barrier all the same: the measured RPO is proven by
/// points, not by words.
pub const CANARY_EVERY: Duration = Duration::from_secs(10);

/// Content read for a sync and not yet sent, per server, in bytes.
pub const AGENT_SYNC_WINDOW: usize = 24 * MIB;

/// Received records waiting for the journal's writer, per server, in bytes.
pub const SITE_QUEUE: usize = 32 * MIB;

/// Largest API request body, in bytes.
pub const MAX_API_BODY: usize = MIB;

/// Largest API response body a client accepts, in bytes.
pub const MAX_API_RESPONSE: usize = 32 * MIB;

/// API connections a site serves at a time; further ones wait in the listener's backlog.
pub const MAX_API_CONNECTIONS: usize = 256;

/// Most rows one listing of the API returns.
pub const MAX_API_ROWS: u32 = 10_000;

/// Bytes of paths in one comparison of backups; as JSON a byte may be six.
pub const MAX_DIFF: usize = 4 * MIB;

/// Largest certificate request an agent may hand in, in bytes of PEM.
pub const MAX_CSR: usize = 16 * KIB;

/// Longest free text (a path, a check, a point as written) in an API request.
pub const MAX_TEXT: usize = 4 * KIB;

/// Most checks one drill or failover runs.
pub const MAX_CHECKS: usize = 32;

/// Longest name of a server, agent, run or token.
pub const MAX_NAME: usize = 64;

/// How often a barrier is cut while writes flow.
pub const BARRIER_EVERY: Duration = Duration::from_millis(200);

/// How often an idle session says that nothing was written.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);

/// How long a peer may say nothing before its session is given up.
pub const SESSION_SILENCE: Duration = Duration::from_secs(10);

/// How long one API request may take at the site.
pub const API_REQUEST: Duration = Duration::from_secs(90);

/// How long a check of a journal may take at the site.
pub const API_CHECK: Duration = Duration::from_secs(4 * 3600);

/// How long an API client waits for an answer; longer than the site's own limit, so that the site's error is seen.
pub const API_ANSWER: Duration = Duration::from_secs(100);

/// Time allowed from accept to the end of the handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// Largest single message accepted from QEMU's monitor, in bytes.
pub const MAX_QMP_MESSAGE: usize = 8 * MIB;

/// Monitor events kept for one listener that does not take them; the oldest give way.
pub const QMP_EVENTS: usize = 1024;

/// Largest object of a vault's store that is read or written as one, in bytes. Packs are about 32 MiB.
pub const MAX_OBJECT: u64 = 1 << 30;

/// Content an agent holds for a backup that the site has not answered for, in bytes.
pub const BACKUP_WINDOW: usize = 24 * MIB;

/// Offers of a backup an agent has out at a time, and blobs in each.
pub const BACKUP_OFFERS: usize = 32;
pub const BACKUP_OFFER: usize = 256;

/// Largest frame of a session of a backup or a restore: a blob and what is around it.
pub const MAX_BACKUP_FRAME: usize = MIB + 64 * KIB;

/// Frames of a backup or a restore that wait at the site.
pub const BACKUP_QUEUE: usize = 4;

/// Content an agent asks for ahead in a restore, and has not written yet, in bytes.
pub const RESTORE_WINDOW: usize = 16 * MIB;

/// The same for the blobs of trees. How long they are is known when they come: so many are under way at a time.
pub const RESTORE_TREE_WINDOW: usize = 8 * MIB;
pub const RESTORE_TREES: usize = 32;

/// Blobs an agent asks for in one frame of a restore, and those it may have asked for and not been given.
pub const RESTORE_GET: usize = 64;
pub const RESTORE_ASKED: usize = 1024;

/// Restores an agent does at a time.
pub const MAX_RESTORES: usize = 2;

/// Largest tree an agent remembers for the next backup, in bytes of its blobs.
pub const MAX_REMEMBERED_TREE: u64 = 256 << 20;

/// Bytes of writes to one copy of a vault that go on after its writer was answered.
pub const COPY_BACKLOG: u64 = 128 << 20;
