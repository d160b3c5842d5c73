//! The vault: points that last, what they take and how long they stay.

use super::{Backup, RestoreReport, RestoreRequest};
use lifeboat_base::WallTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which points of a server outlive its journal, and how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSpec {
    /// Name of a preset: `aws`, `hbr24`, `gfs`, `none`; or `own` with `rules`.
    pub preset: RetentionPreset,
    /// For `own`: at most 16.
    pub rules: Vec<RetentionRule>,
    /// New points cannot be deleted by anybody for so long, in seconds; 0 for no lock. Never made shorter for points that
    /// exist.
    pub lock_seconds: u64,
}

impl Default for RetentionSpec {
    fn default() -> Self {
        Self { preset: RetentionPreset::Aws, rules: Vec::new(), lock_seconds: 0 }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RetentionPreset {
    /// Every 10 minutes for an hour, hourly for 24 hours, daily for 7 days.
    #[default]
    Aws,
    /// 24 hourly points.
    Hbr24,
    /// Hourly for a day, daily for a week, weekly for 5 weeks, monthly for a year, yearly for 7 years.
    Gfs,
    /// Only `rules`.
    Own,
    /// Nothing but what a person names.
    None,
}

/// One point out of each period of `every_seconds` is kept for `keep_seconds`, by the site's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionRule {
    /// 60 to 31,622,400 (366 days).
    pub every_seconds: u64,
    /// At least `every_seconds`; at most 100 years.
    pub keep_seconds: u64,
}

/// What is kept of a point in the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultHold {
    /// Name of the object in the vault: 32 hexadecimal digits.
    pub snapshot: String,
    /// The name a person gave; it stays until released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// No rule keeps it beyond this; `None` while a name does.
    #[schema(value_type = Option<String>)]
    pub keep_until: Option<WallTime>,
    /// Nobody can delete it before.
    #[schema(value_type = Option<String>)]
    pub locked_until: Option<WallTime>,
    /// Bytes it added to the vault when it was made.
    pub added_bytes: u64,
}

/// `POST /v1/servers/{name}/points/{point}/hold` and `POST /v1/backups/{id}/hold`: what is not given stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HoldRequest {
    /// Keeps it until the name is released.
    pub name: Option<String>,
    /// Takes the name away; retention by rule counts again.
    pub release: bool,
    /// Locks it from now for so long, in seconds; a longer lock stays.
    pub lock_seconds: Option<u64>,
}

/// `GET /v1/vault`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultStatus {
    pub state: VaultState,
    /// Why the state is not `ready`, and what to do.
    pub reason: Option<String>,
    /// 32 hexadecimal digits.
    pub id: Option<String>,
    pub format: u16,
    /// The first is the one named in `[vault]`.
    pub copies: Vec<VaultCopy>,
    /// Copies a write must reach.
    pub quorum: u32,
    pub key_generation: u32,
    pub packs: u64,
    pub chunks: u64,
    pub stored_bytes: u64,
    pub snapshots: u64,
    /// While the local index is being made: how much of it, 0 to 100.
    pub index_percent: u8,
    /// Journal bytes that are due to go to the vault and have not yet.
    pub backlog_bytes: u64,
    #[schema(value_type = Option<String>)]
    pub last_scrub: Option<WallTime>,
    /// Share of all packs whose content was read back since the present round of the scrub began, 0 to 100.
    pub scrub_percent: u8,
    /// What is damaged or missing, as last found; at most 100.
    pub findings: Vec<VaultFinding>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VaultState {
    /// There is none: `[vault]` says so.
    Off,
    /// The local index is being made.
    Opening,
    Ready,
    /// It works, and something needs a person: a copy is away, something is damaged.
    Degraded,
    /// Nothing can be read or written now.
    Unavailable,
}

/// One place the vault is kept in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultCopy {
    /// Directory or URL.
    pub location: String,
    pub reachable: bool,
    /// Why not.
    pub error: Option<String>,
    /// Objects it lacks, as far as known: `repair` brings them.
    pub lacking: u64,
    /// Objects can be locked there against everybody.
    pub locks: bool,
}

/// Something damaged or missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultFinding {
    /// Name of the object.
    pub object: String,
    pub what: String,
    /// Points and backups it touches, as `SERVER POINT` or `SET BACKUP`; at most 100.
    pub touches: Vec<String>,
    /// Whether another copy or the source brought it back.
    pub repaired: bool,
}

/// `GET /v1/vault/usage`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VaultUsage {
    pub total: VaultUsageRow,
    /// By server and backup set, the largest first.
    pub owners: Vec<VaultUsageRow>,
    /// Bytes the points stand for, by bytes of different content.
    pub dedup_ratio: f64,
    /// Bytes of different content, by bytes stored.
    pub compression_ratio: f64,
    /// What a prune would free now.
    pub reclaimable_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultUsageRow {
    pub owner: String,
    pub points: u64,
    /// Bytes of disk and file content all its points stand for, holes left out.
    pub logical_bytes: u64,
    /// Bytes of different content among them.
    pub unique_bytes: u64,
    /// What that takes in the vault, compressed and sealed.
    pub stored_bytes: u64,
    /// Part of it that no other owner uses: what deleting this one would free.
    pub own_bytes: u64,
    /// By point, newest first, where asked for with `?points=true`.
    #[serde(default)]
    pub by_point: Vec<VaultPointUsage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultPointUsage {
    pub point: String,
    pub logical_bytes: u64,
    /// Stored bytes no other point uses.
    pub own_bytes: u64,
}

/// `POST /v1/vault/jobs`: long work. Every kind may be started again after it failed or was cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VaultJobRequest {
    /// Structure, and the content of so many percent of the packs.
    Check {
        /// 0 to 100.
        #[serde(default)]
        read_percent: u8,
    },
    /// Reads all packs back within the scrub's budget.
    Scrub,
    /// Brings back what is damaged or missing, from copies and sources.
    Repair,
    /// What a prune would do; changes nothing.
    PrunePlan,
    /// Carries a plan out: the job id of a `prune-plan`.
    Prune {
        plan: String,
    },
    /// Makes the local index anew from the vault.
    Reindex,
    /// Makes a backup of a set now.
    Backup {
        set: String,
    },
    Restore(RestoreRequest),
}

/// Work on the vault: under way, or how it ended. Kept until `serve` restarts, the last 100.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultJob {
    pub id: String,
    pub kind: String,
    /// What it works on, for people.
    pub subject: String,
    pub state: VaultJobState,
    #[schema(value_type = String)]
    pub started: WallTime,
    #[schema(value_type = Option<String>)]
    pub ended: Option<WallTime>,
    /// In `unit`; `total` 0 where it is not known.
    pub done: u64,
    pub total: u64,
    /// `bytes`, `packs`, `files`, ...
    pub unit: String,
    /// The step it is at.
    pub step: String,
    pub error: Option<String>,
    /// What came of it, once it has ended well.
    pub result: Option<VaultJobResult>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VaultJobState {
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum VaultJobResult {
    Check(VaultCheckReport),
    Repair(VaultRepairReport),
    PrunePlan(PrunePlan),
    Prune(PruneReport),
    Reindex { packs: u64, chunks: u64 },
    Backup(Backup),
    Restore(RestoreReport),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultCheckReport {
    pub snapshots: u64,
    pub packs: u64,
    pub chunks: u64,
    /// Packs whose content was read back, and the bytes of it.
    pub packs_read: u64,
    pub bytes_read: u64,
    pub findings: Vec<VaultFinding>,
    /// Findings beyond those listed.
    pub more: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultRepairReport {
    /// Objects brought to copies that lacked them or had them damaged.
    pub copied: u64,
    pub copied_bytes: u64,
    /// Chunks taken from a source again.
    pub from_source: u64,
    /// What is still damaged or missing.
    pub left: Vec<VaultFinding>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrunePlan {
    /// Points no rule keeps any more, as `OWNER POINT (why)`; at most 1000.
    pub forget: Vec<String>,
    pub forget_count: u64,
    /// Kept although no rule asks for it, and why: locked, named, newest of its server.
    pub kept: Vec<String>,
    pub packs_deleted: u64,
    pub packs_repacked: u64,
    pub freed_bytes: u64,
    /// Bytes that have to be copied for it.
    pub copied_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PruneReport {
    pub forgotten: u64,
    pub packs_deleted: u64,
    pub packs_repacked: u64,
    pub freed_bytes: u64,
    /// Left for the next prune, and why.
    pub left: Vec<String>,
}

/// `GET /v1/vault/usage?points=`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// By point, too.
    #[serde(default)]
    pub points: bool,
}

/// `POST /v1/vault/key/rotate`: new content is sealed with the new key from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotatedKey {
    pub generation: u32,
}

/// `GET /v1/vault/clock`: the time that retention and locks count by. `POST /v1/vault/clock/accept` answers with it, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultClock {
    /// What expires and what is locked goes by this.
    #[schema(value_type = String)]
    pub counted: WallTime,
    /// The clock of the site's host.
    #[schema(value_type = String)]
    pub machine: WallTime,
    /// What a person has to know, where the two differ.
    pub report: Option<String>,
}

/// `POST /v1/vault/kit`: a recovery kit, encrypted to one of these.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum KitRequest {
    /// At least 12 characters.
    Passphrase(String),
    /// An age recipient (`age1...`).
    Recipient(String),
}

impl std::fmt::Debug for KitRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passphrase(_) => f.write_str("Passphrase(..)"),
            Self::Recipient(r) => write!(f, "Recipient({r})"),
        }
    }
}

/// Answer to it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Kit {
    /// An armored age file.
    pub text: String,
    pub vault: String,
    pub key_generation: u32,
}
