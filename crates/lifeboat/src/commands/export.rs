//! A point as an image file: mount through the API, copy from the NBD socket, unmount.

use super::Session;
use crate::args::{ExportArgs, ImageFormat};
use crate::failure::{Exit, Failure, Outcome};
use crate::image::{Draft, Progress, copy_raw};
use indicatif::{ProgressBar, ProgressStyle};
use lifeboat_api::types::{Mount, MountRequest, MountedDisk};
use lifeboat_nbd::{Client, ClientSettings};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

impl Session {
    pub(super) async fn export(&self, args: ExportArgs) -> Outcome {
        let draft = Draft::new(&args.output, args.force)?;
        let request = MountRequest {
            server: args.name.clone(),
            point: args.point.clone(),
            writable: false,
            branch: args.branch.clone(),
        };
        let mount = tokio::select! {
            mount = self.client.mount(&request) => mount?,
            () = asked_to_stop() => return Err(Failure::failed("stopped; nothing was written")),
        };
        let copied = self.copy(&args, &mount, &draft).await;
        let unmounted = self.client.unmount(&mount.id).await;
        copied?;
        draft.finish()?;
        if let Err(e) = unmounted {
            self.out.note(format!("the image is whole, but mount {} could not be ended: {e}", mount.id));
        }
        let state = match &args.branch {
            Some(branch) => format!("branch {branch}"),
            None => mount.point.id.to_string(),
        };
        self.out.note(format!("{} holds {} at {state}", args.output.display(), mount.server));
        Ok(())
    }

    async fn copy(&self, args: &ExportArgs, mount: &Mount, draft: &Draft) -> Outcome {
        let disk = choose(mount, args.disk)?;
        self.copy_disk(disk, args.format, draft).await
    }

    pub(super) async fn copy_disk(&self, disk: &MountedDisk, format: ImageFormat, draft: &Draft) -> Outcome {
        reachable(&disk.socket)?;
        let bar = self.byte_bar();
        let done = match format {
            ImageFormat::Raw => raw(disk, draft.path(), &bar).await,
            ImageFormat::Qcow2 => qcow2(disk, draft.path(), &bar).await,
        };
        bar.finish_and_clear();
        done
    }

    /// A bar of bytes at the bottom of a terminal; hidden where there is none.
    pub(super) fn byte_bar(&self) -> ProgressBar {
        if !self.out.live || self.out.json {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(0);
        let template = "  [{bar:30}] {percent} %  {bytes} of {total_bytes}  {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("##-"));
        }
        bar
    }
}

fn choose(mount: &Mount, wanted: Option<u16>) -> Outcome<&MountedDisk> {
    let list =
        || mount.disks.iter().map(|d| format!("{} ({})", d.index, d.name)).collect::<Vec<_>>().join(", ");
    match (wanted, mount.disks.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => Err(Failure::usage(format!("{} has several disks: {}", mount.server, list()))
            .hint("choose one with --disk N")),
        (Some(n), disks) => disks.iter().find(|d| d.index == n).ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("{} has no disk {n}; it has {}", mount.server, list()))
        }),
    }
}

/// A mount's socket is on the site's host only.
fn reachable(socket: &str) -> Outcome {
    match std::fs::metadata(socket) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err(Failure::io("reach the mounted disk", &e)
                .hint("run this as the user that runs `lifeboat serve`"))
        }
        Err(_) => {
            Err(Failure::new(Exit::Unavailable, format!("the mounted disk at {socket} is not on this host"))
                .hint("run this on the site's own host"))
        }
    }
}

/// Resolves when a person or the system wants the command to end.
pub(super) async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

async fn raw(disk: &MountedDisk, to: &Path, bar: &ProgressBar) -> Outcome {
    let cancel = Arc::new(AtomicBool::new(false));
    let (socket, to, bar, flag) =
        (PathBuf::from(&disk.socket), to.to_path_buf(), Bar(bar.clone()), cancel.clone());
    let mut copying = tokio::task::spawn_blocking(move || {
        let source = Client::connect_unix(&socket, "", &ClientSettings::default())
            .map_err(|e| Failure::new(Exit::Unavailable, e.to_string()))?;
        copy_raw(&source, &to, &bar, &flag)
    });
    let ended = tokio::select! {
        ended = &mut copying => ended,
        () = asked_to_stop() => {
            cancel.store(true, Ordering::Relaxed);
            copying.await
        }
    };
    ended.map_err(|e| Failure::failed(format!("the copy broke off: {e}")))?
}

async fn qcow2(disk: &MountedDisk, to: &Path, bar: &ProgressBar) -> Outcome {
    let mut child = tokio::process::Command::new("qemu-img")
        .args(["convert", "-p", "-f", "raw", "-O", "qcow2", &disk.uri])
        .arg(to)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Failure::failed("qemu-img is not installed").hint("install qemu-utils, or use --format raw")
            }
            _ => Failure::io("start qemu-img", &e),
        })?;
    bar.set_length(disk.size);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let watch = async {
        let Some(out) = stdout else { return };
        let mut parts = BufReader::new(out).split(b'\r');
        while let Ok(Some(part)) = parts.next_segment().await {
            if let Some(percent) = qemu_percent(&part) {
                bar.set_position((disk.size as f64 * percent / 100.0) as u64);
            }
        }
    };
    let errors = async {
        let mut text = Vec::new();
        if let Some(err) = stderr {
            let _ = err.take(64 << 10).read_to_end(&mut text).await;
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    let work = async {
        let (status, (), errors) = tokio::join!(child.wait(), watch, errors);
        (status, errors)
    };
    let (status, errors) = tokio::select! {
        ended = work => ended,
        // Dropping the child ends it.
        () = asked_to_stop() => return Err(Failure::failed("stopped; nothing was written")),
    };
    match status {
        Ok(s) if s.success() => Ok(()),
        Ok(_) => Err(qemu_failure(&errors)),
        Err(e) => Err(Failure::io("wait for qemu-img", &e)),
    }
}

/// `    (12.34/100%)`
fn qemu_percent(part: &[u8]) -> Option<f64> {
    std::str::from_utf8(part).ok()?.trim().strip_prefix('(')?.split_once('/')?.0.parse().ok()
}

fn qemu_failure(errors: &str) -> Failure {
    let why = crate::render::text::one_line(errors.trim());
    let failure = Failure::failed(format!("qemu-img could not write the image: {why}"));
    if errors.contains("No space left") {
        return failure.hint("make room on that file system, or write to another one");
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_qemu_img_is_understood() {
        assert_eq!(qemu_percent(b"    (12.34/100%)"), Some(12.34));
        assert_eq!(qemu_percent(b"\n"), None);
    }
}
