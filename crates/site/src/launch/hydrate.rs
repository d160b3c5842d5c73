//! Hydration: copies what a run still reads from its mounts into its overlays, while it runs.
//!
//! Reconciling: each call looks at QEMU's jobs and at the overlays and does what is missing, so it
//! may be repeated, and resumed by another process. The overlay's own header is the truth; see
//! overlay.rs.

use super::command::{disk_node, mount_node};
use super::error::LaunchError;
use super::overlay::Header;
use super::run::RunHandle;
use super::spec::RunDisk;
use lifeboat_qmp::{BlockJob, OnError, Qmp, StreamJob};

/// How far one disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskHydration {
    /// Nobody copies it: [`RunHandle::hydrate_start`] was not called, or QEMU was started anew.
    Waiting,
    /// Bytes looked at, of all.
    Copying { done: u64, of: u64 },
    /// Held on an I/O error; [`RunHandle::hydrate_start`] tries again.
    Stalled { done: u64, of: u64, why: String },
    /// The disk needs its mount no more.
    Done,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hydration {
    pub disks: Vec<DiskHydration>,
    /// 0 to 100; 100 exactly when every disk is done.
    pub percent: u8,
}

impl Hydration {
    /// The run needs no mount any more.
    pub fn complete(&self) -> bool {
        self.disks.iter().all(|d| *d == DiskHydration::Done)
    }
}

impl RunHandle {
    /// Starts, resumes or changes the speed of hydration of every disk. `speed` is in bytes per
    /// second and disk; 0 is no limit.
    ///
    /// # Errors
    /// [`LaunchError::NotRunning`] when something is left to copy and the machine does not run.
    pub fn hydrate_start(&self, speed: u64) -> Result<(), LaunchError> {
        let spec = self.record()?.spec;
        if !spec.disks.iter().map(needs_mount).collect::<Result<Vec<_>, _>>()?.contains(&true) {
            return Ok(());
        }
        let qmp = self.live_qmp()?;
        let jobs = qmp.query_block_jobs()?;
        for (index, disk) in spec.disks.iter().enumerate() {
            let id = job_id(index);
            match jobs.iter().find(|j| j.device == id) {
                Some(job) => {
                    qmp.set_job_speed(&id, speed)?;
                    if job.paused {
                        qmp.job_resume(&id)?;
                    }
                }
                None if needs_mount(disk)? => {
                    let device = disk_node(index);
                    let job = StreamJob { job_id: &id, device: &device, speed, on_error: OnError::Stop };
                    qmp.block_stream(&job)?;
                }
                None => {}
            }
        }
        Ok(())
    }

    /// How far it is. Lets go of the mounts of disks that are done.
    ///
    /// # Errors
    /// When the overlays cannot be read or the monitor does not answer.
    pub fn hydrate_progress(&self) -> Result<Hydration, LaunchError> {
        let record = self.record()?;
        let qmp = match self.living(&record) {
            Some(_) => Some(self.qmp()?),
            None => None,
        };
        let jobs = qmp.as_ref().map(Qmp::query_block_jobs).transpose()?.unwrap_or_default();
        let mut disks = Vec::new();
        for (index, disk) in record.spec.disks.iter().enumerate() {
            let id = job_id(index);
            disks.push(match jobs.iter().find(|j| j.device == id) {
                Some(job) => progress(job),
                None if needs_mount(disk)? => DiskHydration::Waiting,
                None => {
                    if let Some(qmp) = &qmp {
                        release(qmp, index)?;
                    }
                    DiskHydration::Done
                }
            });
        }
        let percent = percent(&record.spec.disks, &disks);
        Ok(Hydration { disks, percent })
    }
}

fn job_id(index: usize) -> String {
    format!("hydrate{index}")
}

fn needs_mount(disk: &RunDisk) -> Result<bool, LaunchError> {
    Ok(Header::read(&disk.overlay)?.is_none_or(|h| h.needs_backing))
}

fn progress(job: &BlockJob) -> DiskHydration {
    let (done, of) = (job.offset, job.len);
    match job.io_status.as_str() {
        "nospace" => {
            DiskHydration::Stalled { done, of, why: "there is no room for the disk: make some".into() }
        }
        "failed" => {
            DiskHydration::Stalled { done, of, why: "the mount or the overlay reported an I/O error".into() }
        }
        _ => DiskHydration::Copying { done, of },
    }
}

/// Closes the connection to a mount nothing reads any more.
fn release(qmp: &Qmp, index: usize) -> Result<(), LaunchError> {
    match qmp.blockdev_del(&mount_node(index)) {
        Err(e) if e.is_not_found() => Ok(()),
        other => Ok(other?),
    }
}

fn percent(disks: &[RunDisk], states: &[DiskHydration]) -> u8 {
    let total: u128 = disks.iter().map(|d| u128::from(d.size)).sum();
    let done: u128 = disks
        .iter()
        .zip(states)
        .map(|(disk, state)| match state {
            DiskHydration::Waiting => 0,
            DiskHydration::Copying { done, .. } | DiskHydration::Stalled { done, .. } => {
                u128::from(*done.min(&disk.size))
            }
            DiskHydration::Done => u128::from(disk.size),
        })
        .sum();
    if states.iter().all(|s| *s == DiskHydration::Done) {
        return 100;
    }
    // Not 100 while anything is left, whatever rounding says.
    let percent = (done * 100).checked_div(total).unwrap_or(0).min(99);
    u8::try_from(percent).unwrap_or(99)
}

#[cfg(test)]
mod tests;
