//! Load by fio's NBD engine.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::process::Command;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// fio's name of the pattern, e.g. `randwrite`.
    pub pattern: &'static str,
    /// Bytes of a request.
    pub block: u64,
    pub depth: u32,
    pub seconds: u64,
    /// Bytes of the disk that are written.
    pub size: u64,
    /// Bytes a second at most.
    pub rate: Option<u64>,
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
    let mut command = Command::new("fio");
    if let Some(rate) = job.rate {
        command.arg(format!("--rate={rate}"));
    }
    let output = command
        .args(["--name=load", "--ioengine=nbd", "--randrepeat=0", "--time_based", "--output-format=json"])
        .arg(format!("--uri={uri}"))
        .arg(format!("--rw={}", job.pattern))
        .arg(format!("--bs={}", job.block))
        .arg(format!("--iodepth={}", job.depth))
        .arg(format!("--runtime={}", job.seconds))
        .arg(format!("--size={}", job.size))
        .output()
        .context("fio is missing; run scripts/setup.sh bench")?;
    if !output.status.success() {
        bail!("fio against {uri}: {}", String::from_utf8_lossy(&output.stderr));
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(text: &str) -> Result<Outcome> {
    // The NBD engine may print a line of its own before the JSON.
    let json = text.find('{').map_or("", |at| &text[at..]);
    let value: Value = serde_json::from_str(json).context("fio's output")?;
    let job = &value["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        bail!("fio reports error {}", job["error"]);
    }
    let write = &job["write"];
    let get = |v: &Value, what: &str| v.as_f64().with_context(|| format!("fio's output has no {what}"));
    Ok(Outcome {
        iops: get(&write["iops"], "write iops")?,
        mbps: get(&write["bw_bytes"], "write bandwidth")? / 1e6,
        p99_ms: get(&write["clat_ns"]["percentile"]["99.000000"], "99th percentile")? / 1e6,
    })
}

#[cfg(test)]
mod tests;
