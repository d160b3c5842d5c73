//! All disks of a point as images in a directory: a server of its own.

use super::Session;
use super::export::asked_to_stop;
use crate::args::{CloneArgs, ImageFormat};
use crate::failure::{Exit, Failure, Outcome};
use crate::image::Draft;
use lifeboat_api::types::{Mount, MountRequest};
use std::fmt::Write;
use std::path::PathBuf;

impl Session {
    pub(super) async fn clone_point(&self, args: CloneArgs) -> Outcome {
        claim(&args)?;
        let request = MountRequest {
            server: args.name.clone(),
            point: args.point.clone(),
            writable: false,
            branch: None,
        };
        let mount = tokio::select! {
            mount = self.client.mount(&request) => mount?,
            () = asked_to_stop() => return Err(Failure::failed("stopped; nothing was written")),
        };
        let written = self.write_disks(&args, &mount).await;
        let unmounted = self.client.unmount(&mount.id).await;
        let written = written?;
        if let Err(e) = unmounted {
            self.out.note(format!("the clone is whole, but mount {} could not be ended: {e}", mount.id));
        }
        let answer = serde_json::json!({
            "server": mount.server, "point": mount.point.id.to_string(), "disks": written,
        });
        self.out.answer(&answer, |_, _| {
            let mut text = format!("{} at {} is in {}\n", mount.server, mount.point.id, args.to.display());
            let _ = write!(text, "run it:      qemu-system-x86_64 -m 1G");
            for disk in &written {
                let _ = write!(
                    text,
                    " -drive file={},if=virtio,format={}",
                    disk.display(),
                    extension(args.format)
                );
            }
            let _ =
                write!(text, "\nprotect it:  lifeboat protect NAME --agent AGENT --qmp SOCKET, once it runs");
            text
        })
    }

    async fn write_disks(&self, args: &CloneArgs, mount: &Mount) -> Outcome<Vec<PathBuf>> {
        let mut written = Vec::new();
        for disk in &mount.disks {
            let path = args.to.join(format!("disk{}.{}", disk.index, extension(args.format)));
            let draft = Draft::new(&path, false)?;
            self.copy_disk(disk, args.format, &draft).await?;
            draft.finish()?;
            self.out.note(format!("{} holds {}", path.display(), crate::render::text::one_line(&disk.name)));
            written.push(path);
        }
        Ok(written)
    }
}

fn extension(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
    }
}

/// Makes the directory, or takes it when it is empty.
fn claim(args: &CloneArgs) -> Outcome {
    let dir = &args.to;
    std::fs::create_dir_all(dir).map_err(|e| Failure::io(format_args!("make {}", dir.display()), &e))?;
    let mut inside =
        std::fs::read_dir(dir).map_err(|e| Failure::io(format_args!("list {}", dir.display()), &e))?;
    match inside.next() {
        None => Ok(()),
        Some(_) => Err(Failure::new(Exit::Refused, format!("{} is not empty", dir.display()))
            .hint("choose an empty directory, or one that does not exist yet")),
    }
}
