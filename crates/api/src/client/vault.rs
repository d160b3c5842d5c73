//! The vault and the backups of files.

use super::{Client, ClientError, Query, encoded, escape};
use crate::types::*;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use lifeboat_base::limits;

impl Client {
    pub async fn vault(&self) -> Result<VaultStatus, ClientError> {
        self.get("/v1/vault").await
    }

    /// What the vault holds by server and set; takes its time where it holds much.
    pub async fn vault_usage(&self, points: bool) -> Result<VaultUsage, ClientError> {
        self.patient().get(&format!("/v1/vault/usage?points={points}")).await
    }

    /// Starts long work. Follow the answer with [`vault_job`](Self::vault_job).
    pub async fn start_vault_job(&self, request: &VaultJobRequest) -> Result<VaultJob, ClientError> {
        self.post("/v1/vault/jobs", request).await
    }

    /// Newest first.
    pub async fn vault_jobs(&self) -> Result<Vec<VaultJob>, ClientError> {
        self.get("/v1/vault/jobs").await
    }

    pub async fn vault_job(&self, id: &str) -> Result<VaultJob, ClientError> {
        self.get(&format!("/v1/vault/jobs/{}", escape(id))).await
    }

    /// Asks long work to end; what it has done stays.
    pub async fn cancel_vault_job(&self, id: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/vault/jobs/{}", escape(id))).await
    }

    pub async fn rotate_vault_key(&self) -> Result<RotatedKey, ClientError> {
        self.post("/v1/vault/key/rotate", &()).await
    }

    /// The time that retention and locks count by.
    pub async fn vault_clock(&self) -> Result<VaultClock, ClientError> {
        self.get("/v1/vault/clock").await
    }

    /// Says that the clock of the site's host is right.
    pub async fn accept_vault_clock(&self) -> Result<VaultClock, ClientError> {
        self.post("/v1/vault/clock/accept", &()).await
    }

    pub async fn recovery_kit(&self, to: &KitRequest) -> Result<Kit, ClientError> {
        self.post("/v1/vault/kit", to).await
    }

    /// Names, releases or locks a point; one the vault has not is put there first, which takes its time.
    pub async fn hold_point(
        &self,
        server: &str,
        point: &str,
        hold: &HoldRequest,
    ) -> Result<PointInfo, ClientError> {
        let path = format!("/v1/servers/{}/points/{}/hold", escape(server), escape(point));
        self.patient().post(&path, hold).await
    }

    // ---- backups of files

    pub async fn backup_sets(&self) -> Result<Vec<BackupSetInfo>, ClientError> {
        self.get("/v1/backup-sets").await
    }

    /// Makes a set, or changes the one of that name.
    pub async fn put_backup_set(&self, set: &BackupSet) -> Result<BackupSet, ClientError> {
        self.post("/v1/backup-sets", set).await
    }

    /// Forgets a set; its backups stay until they are deleted.
    pub async fn delete_backup_set(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/backup-sets/{}", escape(name))).await
    }

    /// Newest first.
    pub async fn backups(&self, set: Option<&str>) -> Result<Vec<Backup>, ClientError> {
        let mut q = Query::default();
        q.add("set", set);
        self.get(&q.on("/v1/backups")).await
    }

    /// A backup by its id, the start of it, or a set's name for its newest.
    pub async fn backup(&self, id: &str) -> Result<Backup, ClientError> {
        self.get(&format!("/v1/backups/{}", escape(id))).await
    }

    pub async fn delete_backup(&self, id: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/backups/{}", escape(id))).await
    }

    pub async fn hold_backup(&self, id: &str, hold: &HoldRequest) -> Result<Backup, ClientError> {
        self.post(&format!("/v1/backups/{}/hold", escape(id)), hold).await
    }

    pub async fn diff_backups(&self, older: &str, newer: &str) -> Result<FileChanges, ClientError> {
        let path = format!("/v1/backups/{}/diff/{}", escape(older), escape(newer));
        self.patient().get(&path).await
    }

    pub async fn backup_files(&self, id: &str, path: &str) -> Result<Vec<FileEntry>, ClientError> {
        self.get(&files(&format!("/v1/backups/{}/files", escape(id)), path)).await
    }

    pub async fn point_files(
        &self,
        server: &str,
        point: &str,
        path: &str,
    ) -> Result<Vec<FileEntry>, ClientError> {
        self.get(&files(&format!("/v1/servers/{}/points/{}/files", escape(server), escape(point)), path))
            .await
    }

    /// A file of a backup, piece by piece. When this fails, what was given to `sink` is not the whole file.
    pub async fn backup_content(
        &self,
        id: &str,
        path: &str,
        sink: &mut dyn FnMut(Bytes) -> std::io::Result<()>,
    ) -> Result<(), ClientError> {
        self.download(&files(&format!("/v1/backups/{}/content", escape(id)), path), sink).await
    }

    /// A file of a disk's file system at a point, piece by piece, as [`backup_content`](Self::backup_content).
    pub async fn point_content(
        &self,
        server: &str,
        point: &str,
        path: &str,
        sink: &mut dyn FnMut(Bytes) -> std::io::Result<()>,
    ) -> Result<(), ClientError> {
        let at = format!("/v1/servers/{}/points/{}/content", escape(server), escape(point));
        self.download(&files(&at, path), sink).await
    }

    pub async fn mount_backup(&self, id: &str, directory: &str) -> Result<(), ClientError> {
        let body = encoded(&BackupMountRequest { directory: directory.into() })?;
        let path = format!("/v1/backups/{}/mount", escape(id));
        self.call(Method::POST, &path, Some(body)).await.map(drop)
    }

    pub async fn unmount_backup(&self, directory: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/backup-mounts?directory={}", escape(directory))).await
    }

    /// For what the site takes its time with.
    fn patient(&self) -> Self {
        self.clone().with_timeout(limits::API_CHECK + limits::HANDSHAKE)
    }

    /// A body of any length: the client's limit counts for each piece, not for the whole.
    async fn download(
        &self,
        path: &str,
        sink: &mut dyn FnMut(Bytes) -> std::io::Result<()>,
    ) -> Result<(), ClientError> {
        let slow = |seconds: u64| ClientError::Unreachable {
            url: self.url(),
            why: format!("nothing more came within {seconds} s"),
        };
        let request = self.build(Method::GET, path, None)?;
        let response = super::within(self.timeout, self.send(request), slow).await?;
        if !response.status().is_success() {
            let status = response.status();
            let body = http_body_util::Limited::new(response.into_body(), limits::MAX_API_RESPONSE);
            let body = async {
                body.collect().await.map_err(|e| self.protocol(format!("the answer broke off: {e}")))
            };
            let bytes = super::within(self.timeout, body, slow).await?.to_bytes();
            return Err(self.refused(path, status, &bytes));
        }
        let mut body = response.into_body();
        loop {
            let next = async { Ok(body.frame().await) };
            let Some(frame) = super::within(self.timeout, next, slow).await? else { return Ok(()) };
            let frame =
                frame.map_err(|e| self.protocol(format!("the content broke off before its end: {e}")))?;
            if let Ok(piece) = frame.into_data() {
                sink(piece).map_err(|e| ClientError::Settings(format!("cannot write what came: {e}")))?;
            }
        }
    }
}

fn files(base: &str, path: &str) -> String {
    format!("{base}?path={}", escape(path))
}
