//! Points served to people.

use super::{App, not_found};
use crate::policy::Actor;
use crate::store::{Note, ServerRow};
use crate::validate;
use lifeboat_api::types::{ApiError, Mount, MountRequest};

impl App {
    pub fn mounts(&self) -> Vec<Mount> {
        self.site.mounts()
    }

    pub async fn mount(&self, actor: &Actor, request: &MountRequest) -> Result<Mount, ApiError> {
        validate::text("the point", &request.point)?;
        let server = self.named(&request.server).await?;
        if let Some(branch) = &request.branch {
            return self.mount_branch(actor, &server, branch, request.writable).await;
        }
        let point = self.site.resolve_point(server.id, &request.point).await?;
        let mount = self.site.mount(server.id, &server.name, point.id, request.writable).await?;
        let kind = if request.writable { "writable overlay" } else { "read-only" };
        let detail = format!("{} at {}, {kind}, mount {}", server.name, point.id, mount.id);
        self.note(Note::done(&actor.name, "mount.create", &server.name, detail)).await;
        Ok(mount)
    }

    async fn mount_branch(
        &self,
        actor: &Actor,
        server: &ServerRow,
        branch: &str,
        writable: bool,
    ) -> Result<Mount, ApiError> {
        validate::text("the branch", branch)?;
        let mount = self.site.mount_branch(server.id, &server.name, branch, writable).await?;
        let kind = if writable { "writable overlay" } else { "read-only" };
        let detail = format!("{} branch {branch}, {kind}, mount {}", server.name, mount.id);
        self.note(Note::done(&actor.name, "mount.create", &server.name, detail)).await;
        Ok(mount)
    }

    pub async fn unmount(&self, actor: &Actor, id: &str) -> Result<(), ApiError> {
        let unknown = || not_found("mount", id).hint("`lifeboat mounts` lists them");
        let mount = self.site.mounts().into_iter().find(|m| m.id == id).ok_or_else(unknown)?;
        self.site.unmount(&mount.id).await?;
        let detail = format!("{} at {}", mount.server, mount.point.id);
        self.note(Note::done(&actor.name, "mount.delete", id, detail)).await;
        Ok(())
    }
}
