//! Which agent owned a server in its earlier epochs: only that one may leave a branch of them.
//!
//! Kept beside the server's spec as JSON, newest last. A file that cannot be read says nothing; then the present owner is
//! taken for the earlier ones.

use crate::Site;
use crate::watch::replace;
use lifeboat_api::port::ServerSpec;
use lifeboat_base::{AgentId, Epoch, ServerId};
use std::fs;
use std::io;
use std::path::Path;

const FILE: &str = "owners.json";
/// Earlier epochs kept.
const MOST: usize = 64;

pub(crate) type Owners = Vec<(Epoch, AgentId)>;

pub(crate) fn load(dir: &Path) -> Owners {
    let path = dir.join(FILE);
    match fs::read(&path).map(|b| serde_json::from_slice(&b)) {
        Ok(Ok(owners)) => owners,
        Ok(Err(e)) => {
            tracing::warn!("{} is left aside: {e}", path.display());
            Owners::new()
        }
        Err(_) => Owners::new(),
    }
}

impl Site {
    /// Another spec replaces `known`: when its epoch is over, its agent is remembered.
    pub(crate) fn remember_owner(
        &self,
        known: Option<&ServerSpec>,
        next: &ServerSpec,
        dir: &Path,
    ) -> io::Result<()> {
        let Some(known) = known.filter(|k| k.epoch < next.epoch) else { return Ok(()) };
        let mut owners = self.owners.lock().get(&next.id).cloned().unwrap_or_default();
        owners.retain(|(epoch, _)| *epoch < known.epoch);
        owners.push((known.epoch, known.agent));
        owners.drain(..owners.len().saturating_sub(MOST));
        replace(dir, FILE, &serde_json::to_vec(&owners)?)?;
        // Before the spec that makes it needed.
        std::fs::File::open(dir.join(FILE))?.sync_all()?;
        self.owners.lock().insert(next.id, owners);
        Ok(())
    }

    /// The agent that owned a server in an epoch that is over; `None` when that is not known.
    pub(crate) fn owner_then(&self, server: ServerId, epoch: Epoch) -> Option<AgentId> {
        let owners = self.owners.lock();
        owners.get(&server)?.iter().find(|(e, _)| *e == epoch).map(|(_, agent)| *agent)
    }
}
