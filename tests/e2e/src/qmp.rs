//! A few words of QMP, spoken independently of the product.

use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// One connection to a QEMU.
#[derive(Debug)]
pub struct Qmp {
    input: BufReader<UnixStream>,
    output: UnixStream,
    /// Events heard while waiting for replies.
    pub events: Vec<Value>,
}

impl Qmp {
    /// `None` when nobody listens.
    pub fn connect(socket: &Path) -> Option<Self> {
        let output = UnixStream::connect(socket).ok()?;
        output.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        let mut qmp = Self { input: BufReader::new(output.try_clone().ok()?), output, events: Vec::new() };
        qmp.line()?.get("QMP")?;
        qmp.call("qmp_capabilities", json!({})).ok()?;
        Some(qmp)
    }

    fn line(&mut self) -> Option<Value> {
        let mut text = String::new();
        self.input.read_line(&mut text).ok().filter(|n| *n > 0)?;
        serde_json::from_str(&text).ok()
    }

    /// # Errors
    /// What QEMU answers, or that it is gone.
    pub fn call(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let text = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.output.write_all(text.as_bytes()).map_err(|e| e.to_string())?;
        loop {
            let mut line = self.line().ok_or("QEMU is gone")?;
            if line.get("event").is_some() {
                self.events.push(line);
            } else if let Some(error) = line.get("error") {
                return Err(error["desc"].as_str().unwrap_or("?").to_owned());
            } else {
                return Ok(line["return"].take());
            }
        }
    }
}
