//! Points and mounts.

use super::{Session, now};
use crate::args::{MountArgs, PointsArgs};
use crate::failure::Outcome;
use crate::render::points;
use lifeboat_api::types::{MountRequest, PointsQuery};

impl Session {
    pub(super) async fn points(&self, args: PointsArgs) -> Outcome {
        if let Some(at) = &args.at {
            let point = self.client.point(&args.name, at).await?;
            return self.out.answer(&point, |p, _| points::table(std::slice::from_ref(p), now()));
        }
        let query = PointsQuery { from: args.from, to: args.to, limit: Some(args.limit) };
        let found = self.client.points(&args.name, &query).await?;
        self.out.answer(&found, |p, _| points::table(p, now()))
    }

    pub(super) async fn mount(&self, args: MountArgs) -> Outcome {
        let request = MountRequest {
            server: args.name,
            point: args.point,
            writable: args.writable,
            branch: args.branch,
        };
        let mount = self.client.mount(&request).await?;
        self.out.answer(&mount, |m, _| points::mounted(m, now()))
    }

    pub(super) async fn unmount(&self, id: &str) -> Outcome {
        self.client.unmount(id).await?;
        self.out.note(format!("mount {id} is ended"));
        Ok(())
    }
}
