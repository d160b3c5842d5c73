//! Load by fio's NBD engine.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::process::{Child, Command, Stdio};

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// fio's name of the pattern, e.g. `randwrite`.
    pub pattern: &'static str,
    /// Bytes of a request.
    pub block: u64,
    pub depth: u32,
    pub seconds: u64,
    /// Bytes of the disk that are used.
    pub size: u64,
    /// Bytes a second at most.
    pub rate: Option<u64>,
    /// A flush after so many writes.
    pub flush: Option<u32>,
    /// Where the used part of the disk begins.
    pub offset: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Requests a second.
    pub iops: f64,
    /// MB (10^6 bytes) a second.
    pub mbps: f64,
    /// 99th percentile of completion latency, in milliseconds.
    pub p99_ms: f64,
}

/// Runs a job against an NBD URI.
///
/// # Errors
/// When fio fails or a request does.
pub fn run(uri: &str, job: &Job) -> Result<Outcome> {
    let output = command(uri, job).output().context("fio is missing; run scripts/setup.sh bench")?;
    if !output.status.success() {
        bail!("fio against {uri}: {}", String::from_utf8_lossy(&output.stderr));
    }
    parse(
        &String::from_utf8_lossy(&output.stdout),
        if job.pattern.ends_with("read") { "read" } else { "write" },
    )
}

/// A job under way. Dropping it ends it.
#[derive(Debug)]
pub struct Load(Child);

impl Load {
    /// Waits for its end.
    ///
    /// # Errors
    /// As the system reports.
    pub fn wait(&mut self) -> Result<()> {
        self.0.wait()?;
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// As the system reports.
    pub fn kill(&mut self) -> Result<()> {
        Ok(self.0.kill()?)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a job that is ended by hand.
///
/// # Errors
/// When fio is not there.
pub fn start(uri: &str, job: &Job) -> Result<Load> {
    let child = command(uri, job).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Ok(Load(child.context("fio is missing; run scripts/setup.sh bench")?))
}

fn command(uri: &str, job: &Job) -> Command {
    let mut command = Command::new("fio");
    if let Some(rate) = job.rate {
        command.arg(format!("--rate={rate}"));
    }
    if let Some(writes) = job.flush {
        command.arg(format!("--fsync={writes}"));
    }
    command
        // In this process: ended by its number, nothing of it stays.
        .args(["--name=load", "--thread", "--ioengine=nbd", "--randrepeat=0", "--time_based"])
        .arg("--output-format=json")
        .arg(format!("--uri={uri}"))
        .arg(format!("--rw={}", job.pattern))
        .arg(format!("--bs={}", job.block))
        .arg(format!("--iodepth={}", job.depth))
        .arg(format!("--runtime={}", job.seconds))
        .arg(format!("--offset={}", job.offset))
        .arg(format!("--size={}", job.size));
    command
}

/// `way` is `read` or `write`.
fn parse(text: &str, way: &str) -> Result<Outcome> {
    // The NBD engine may print a line of its own before the JSON.
    let json = text.find('{').map_or("", |at| &text[at..]);
    let value: Value = serde_json::from_str(json).context("fio's output")?;
    let job = &value["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        bail!("fio reports error {}", job["error"]);
    }
    let done = &job[way];
    let get = |v: &Value, what: &str| v.as_f64().with_context(|| format!("fio's output has no {what}"));
    Ok(Outcome {
        iops: get(&done["iops"], "iops")?,
        mbps: get(&done["bw_bytes"], "bandwidth")? / 1e6,
        p99_ms: get(&done["clat_ns"]["percentile"]["99.000000"], "99th percentile")? / 1e6,
    })
}

#[cfg(test)]
mod tests;
