//! What a new site needs to know to recover everything, as it is kept in the vault.
//!
//! Read back by later versions: fields are only ever added, with a default.

use super::{
    BackupSet, CaptureSpec, DiskInfo, GroupRequest, LaunchSettings, ReplicationSpec, RetentionSpec,
    WatchSpec, WindowSpec,
};
use lifeboat_base::{AgentId, ServerId, WallTime};
use serde::{Deserialize, Serialize};

/// Everything a new site needs to know. No secrets: those are in the recovery kit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Catalogue {
    pub site: String,
    pub written: WallTime,
    #[serde(default)]
    pub agents: Vec<CatalogueAgent>,
    pub servers: Vec<CatalogueServer>,
    pub groups: Vec<GroupRequest>,
    pub backup_sets: Vec<BackupSet>,
}

/// An agent the site's CA has certified: a new site with that CA lets it in again, or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueAgent {
    pub id: AgentId,
    pub name: String,
    pub joined: WallTime,
    /// Serial number of its newest certificate, hex, and when that ends.
    pub serial: String,
    pub certificate_expires: WallTime,
    pub revoked: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CatalogueServer {
    pub id: ServerId,
    pub name: String,
    #[serde(default)]
    pub agent: Option<AgentId>,
    pub disks: Vec<DiskInfo>,
    pub capture: CaptureSpec,
    pub window: WindowSpec,
    pub retention: RetentionSpec,
    #[serde(default)]
    pub replication: ReplicationSpec,
    #[serde(default)]
    pub watch: WatchSpec,
    pub launch: LaunchSettings,
    /// As the server was when it was written.
    pub epoch: u64,
}
