//! Who may do what: one table.
//!
//! Invariants: an endpoint without a row in [`RULES`] is refused to everybody; roles are ordered, and a higher one
//! may do all that a lower one may. A test holds the table against the generated OpenAPI document, both ways.

use lifeboat_api::types::TokenKind;
use lifeboat_base::limits;
use std::time::Duration;

/// What a person's token allows. Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Viewer,
    Operator,
    Admin,
}

impl Role {
    pub const ALL: [Role; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// `None` for a join token, which is no person's.
    pub fn of(kind: TokenKind) -> Option<Self> {
        match kind {
            TokenKind::Agent => None,
            TokenKind::Viewer => Some(Self::Viewer),
            TokenKind::Operator => Some(Self::Operator),
            TokenKind::Admin => Some(Self::Admin),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// As the audit log shows it: the token's name and id.
    pub name: String,
    pub role: Role,
    /// The id of the token, where one was used.
    pub token: Option<String>,
}

impl Actor {
    /// The site itself: what nobody asked for.
    pub fn site() -> Self {
        Self { name: "site".into(), role: Role::Admin, token: None }
    }
}

/// What an endpoint asks of the one who calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody; no token is looked at.
    Open,
    AtLeast(Role),
}

/// One endpoint's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub method: &'static str,
    pub path: &'static str,
    pub access: Access,
    /// Its name in the audit log.
    pub action: &'static str,
    /// How long its caller is kept waiting at most.
    pub limit: Duration,
}

const fn rule(method: &'static str, path: &'static str, access: Access, action: &'static str) -> Rule {
    slow(method, path, access, action, limits::API_REQUEST)
}

const fn slow(
    method: &'static str,
    path: &'static str,
    access: Access,
    action: &'static str,
    limit: Duration,
) -> Rule {
    Rule { method, path, access, action, limit }
}

const OPEN: Access = Access::Open;
const VIEWER: Access = Access::AtLeast(Role::Viewer);
const OPERATOR: Access = Access::AtLeast(Role::Operator);
const ADMIN: Access = Access::AtLeast(Role::Admin);

/// The table.
pub const RULES: &[Rule] = &[
    rule("GET", "/healthz", OPEN, "health.read"),
    rule("GET", "/v1/openapi.json", OPEN, "openapi.read"),
    rule("POST", "/v1/join", OPEN, "agent.join"),
    rule("GET", "/v1/status", VIEWER, "status.read"),
    rule("GET", "/v1/servers", VIEWER, "server.list"),
    rule("POST", "/v1/servers", OPERATOR, "server.protect"),
    rule("GET", "/v1/servers/{name}", VIEWER, "server.read"),
    // Recovery points go with the server, so this takes more than an operator.
    rule("DELETE", "/v1/servers/{name}", ADMIN, "server.delete"),
    rule("PATCH", "/v1/servers/{name}", OPERATOR, "server.set"),
    rule("POST", "/v1/servers/{name}/accept", OPERATOR, "server.accept"),
    rule("POST", "/v1/servers/{name}/verify", OPERATOR, "server.verify"),
    rule("GET", "/v1/servers/{name}/rpo", VIEWER, "server.rpo"),
    slow("GET", "/v1/servers/{name}/check", OPERATOR, "server.check", limits::API_CHECK),
    rule("GET", "/v1/servers/{name}/branches", VIEWER, "branch.list"),
    // What a stale writer left is nowhere else.
    rule("DELETE", "/v1/servers/{name}/branches/{branch}", ADMIN, "branch.delete"),
    rule("GET", "/v1/branches", VIEWER, "branch.list"),
    rule("GET", "/v1/groups", VIEWER, "group.list"),
    rule("POST", "/v1/groups", OPERATOR, "group.create"),
    rule("GET", "/v1/groups/{name}", VIEWER, "group.read"),
    rule("DELETE", "/v1/groups/{name}", OPERATOR, "group.delete"),
    rule("GET", "/v1/groups/{name}/points", VIEWER, "group.points"),
    rule("POST", "/v1/groups/{name}/points", OPERATOR, "group.point"),
    rule("POST", "/v1/groups/{name}/drills", OPERATOR, "group.drill"),
    rule("POST", "/v1/groups/{name}/failover", OPERATOR, "group.failover"),
    rule("POST", "/v1/servers/{name}/stop", OPERATOR, "server.stop"),
    rule("POST", "/v1/servers/{name}/resume", OPERATOR, "server.resume"),
    rule("GET", "/v1/servers/{name}/points", VIEWER, "point.list"),
    rule("GET", "/v1/servers/{name}/points/{point}", VIEWER, "point.read"),
    slow("POST", "/v1/servers/{name}/points/{point}/hold", OPERATOR, "point.hold", limits::API_CHECK),
    // Looking at files on a disk mounts what a stranger wrote, and gives content away, as a mount does.
    rule("GET", "/v1/servers/{name}/points/{point}/files", OPERATOR, "point.files"),
    rule("GET", "/v1/servers/{name}/points/{point}/content", OPERATOR, "point.read-file"),
    rule("GET", "/v1/vault", VIEWER, "vault.read"),
    slow("GET", "/v1/vault/usage", VIEWER, "vault.usage", limits::API_CHECK),
    rule("GET", "/v1/vault/jobs", VIEWER, "vault.jobs"),
    // A prune and a restore take an admin: the rules behind it say so.
    rule("POST", "/v1/vault/jobs", OPERATOR, "vault.job"),
    rule("GET", "/v1/vault/jobs/{id}", VIEWER, "vault.jobs"),
    rule("DELETE", "/v1/vault/jobs/{id}", OPERATOR, "vault.cancel"),
    rule("POST", "/v1/vault/key/rotate", ADMIN, "vault.key-rotate"),
    rule("GET", "/v1/vault/clock", VIEWER, "vault.clock"),
    // Points may expire, and locks end, by it.
    rule("POST", "/v1/vault/clock/accept", ADMIN, "vault.clock-accept"),
    // Who holds a kit can read everything that was ever kept.
    rule("POST", "/v1/vault/kit", ADMIN, "vault.kit"),
    rule("GET", "/v1/backup-sets", VIEWER, "backup.sets"),
    // Sets of the site's own host, and changes of what is kept, take an admin: the rules behind it say so.
    rule("POST", "/v1/backup-sets", OPERATOR, "backup.set"),
    // What keeps its backups goes with it.
    rule("DELETE", "/v1/backup-sets/{name}", ADMIN, "backup.set-delete"),
    rule("GET", "/v1/backups", VIEWER, "backup.list"),
    rule("GET", "/v1/backups/{id}", VIEWER, "backup.read"),
    rule("DELETE", "/v1/backups/{id}", ADMIN, "backup.delete"),
    rule("POST", "/v1/backups/{id}/hold", OPERATOR, "backup.hold"),
    slow("GET", "/v1/backups/{id}/diff/{newer}", VIEWER, "backup.diff", limits::API_CHECK),
    rule("GET", "/v1/backups/{id}/files", VIEWER, "backup.files"),
    // Of the site's own host it takes an admin.
    rule("GET", "/v1/backups/{id}/content", OPERATOR, "backup.read-file"),
    // It covers a directory of the site's host.
    rule("POST", "/v1/backups/{id}/mount", ADMIN, "backup.mount"),
    rule("DELETE", "/v1/backup-mounts", ADMIN, "backup.unmount"),
    rule("POST", "/v1/servers/{name}/drills", OPERATOR, "drill.start"),
    rule("POST", "/v1/servers/{name}/failover", OPERATOR, "failover.start"),
    rule("POST", "/v1/servers/{name}/commit", OPERATOR, "commit.start"),
    rule("GET", "/v1/mounts", VIEWER, "mount.list"),
    rule("POST", "/v1/mounts", OPERATOR, "mount.create"),
    rule("DELETE", "/v1/mounts/{id}", OPERATOR, "mount.delete"),
    rule("GET", "/v1/runs", VIEWER, "run.list"),
    rule("GET", "/v1/runs/{id}", VIEWER, "run.read"),
    rule("DELETE", "/v1/runs/{id}", OPERATOR, "run.clean-up"),
    rule("GET", "/v1/runs/{id}/screen.png", VIEWER, "run.screen"),
    rule("GET", "/v1/runs/{id}/serial", VIEWER, "run.serial"),
    rule("GET", "/v1/operations", VIEWER, "operation.list"),
    rule("GET", "/v1/operations/{id}", VIEWER, "operation.read"),
    rule("GET", "/v1/tokens", ADMIN, "token.list"),
    rule("POST", "/v1/tokens", ADMIN, "token.create"),
    rule("DELETE", "/v1/tokens/{id}", ADMIN, "token.revoke"),
    rule("GET", "/v1/agents", VIEWER, "agent.list"),
    rule("DELETE", "/v1/agents/{name}", ADMIN, "agent.revoke"),
    rule("GET", "/v1/audit", OPERATOR, "audit.read"),
    rule("GET", "/v1/audit/verify", OPERATOR, "audit.verify"),
];

/// The row of an endpoint; `path` is the route's pattern.
pub fn find(method: &str, path: &str) -> Option<&'static Rule> {
    RULES.iter().find(|r| r.method == method && r.path == path)
}
