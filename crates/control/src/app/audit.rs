//! Reading the audit log.

use super::App;
use super::servers::row_limit;
use lifeboat_api::types::{ApiError, AuditEntry, AuditQuery, AuditVerification};

const DEFAULT_ENTRIES: u32 = 100;

impl App {
    pub async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, ApiError> {
        Ok(self.store.audit(row_limit(query.limit, DEFAULT_ENTRIES)?, query.before).await?)
    }

    pub async fn verify_audit(&self) -> Result<AuditVerification, ApiError> {
        Ok(self.store.verify_audit().await?)
    }
}
