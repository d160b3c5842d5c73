//! What is behind a capture, without changing anything there.

use super::CaptureError;
use super::mirror::{find_disks, qmp_error};
use super::splitter::{Listen, open_source};
use lifeboat_api::types::{CaptureSpec, DiskInfo};
use lifeboat_base::limits::{MAX_DISK, MAX_DISKS};
use lifeboat_block::BlockDevice;
use lifeboat_qmp::Qmp;
use std::path::Path;
use std::time::Duration;

/// The disks a capture would protect.
///
/// # Errors
/// What a person must change, in words.
pub fn probe(spec: &CaptureSpec) -> Result<Vec<DiskInfo>, CaptureError> {
    let disks: Vec<(String, u64)> = match spec {
        CaptureSpec::Mirror { qmp, disks } => {
            let qmp = Qmp::connect(Path::new(qmp), Duration::from_secs(5)).map_err(|e| qmp_error(&e))?;
            find_disks(&qmp, disks)?.into_iter().map(|d| (d.name, d.size)).collect()
        }
        CaptureSpec::Splitter { paths, listen } => {
            if paths.is_empty() {
                return Err(CaptureError::invalid(
                    "no file or device was given",
                    "name at least one with --export",
                ));
            }
            if let Some(listen) = listen {
                Listen::parse(listen)?;
            }
            for (i, p) in paths.iter().enumerate() {
                if !Path::new(p).is_absolute() {
                    return Err(CaptureError::invalid(
                        format!("'{p}' is not an absolute path"),
                        "write it from /",
                    ));
                }
                if paths[..i].contains(p) {
                    return Err(CaptureError::invalid(format!("{p} is named twice"), "name each disk once"));
                }
            }
            paths
                .iter()
                .map(|p| open_source(Path::new(p)).map(|(device, _lock)| (p.clone(), device.size())))
                .collect::<Result<_, _>>()?
        }
    };
    if disks.len() > MAX_DISKS {
        return Err(CaptureError::invalid(
            format!("{} disks were found, at most {MAX_DISKS} can be protected together", disks.len()),
            "name fewer disks",
        ));
    }
    if let Some((name, size)) = disks.iter().find(|d| d.1 == 0 || d.1 > MAX_DISK) {
        return Err(CaptureError::invalid(
            format!("disk '{name}' has {size} bytes, which cannot be protected"),
            "a disk must have between 1 byte and 1 PiB",
        ));
    }
    Ok(disks
        .into_iter()
        .enumerate()
        .map(|(i, (name, size))| DiskInfo { index: i as u16, name, size })
        .collect())
}
