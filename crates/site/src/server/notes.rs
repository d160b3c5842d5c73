//! Small files beside a journal: which agent process wrote last, and where each earlier epoch ended.
//!
//! Invariants: a file is replaced at once, never changed. One that cannot be read says nothing: then records are
//! compared, or a stale writer refused, but never taken for another's.
//!
//! ```text
//! writer   <number of the process, 16 hex digits>
//! epochs   per earlier epoch, newest last: <epoch> <last record> <writer, or ->
//!          sum <16 hex digits of the BLAKE3 of the lines above>
//! ```

use lifeboat_base::{Epoch, Seq};
use lifeboat_block::storage::{Storage, read_whole, write_all};
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

const WRITER: &str = "writer";
const EPOCHS: &str = "epochs";
/// Earlier epochs kept; a writer of an older one is refused.
const MOST_EPOCHS: usize = 64;
/// More than either file can be, in bytes.
const LONGEST: u64 = 8 << 10;

/// Where an epoch's reign over the line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    pub epoch: Epoch,
    /// Its last record, on stable storage.
    pub last: Seq,
    /// The process that wrote then.
    pub writer: Option<u64>,
}

/// See the module's text.
pub(super) struct Notes(pub Arc<dyn Storage>);

impl Notes {
    fn read(&self, name: &str) -> Option<String> {
        let bytes = self.0.open(name).and_then(|f| read_whole(&*f, LONGEST)).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// On stable storage when it returns.
    fn put(&self, name: &str, text: &str) -> io::Result<()> {
        let temporary = format!("{name}.new");
        match self.0.remove(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.0.create(&temporary)?;
        write_all(&*file, text.as_bytes(), 0)?;
        file.sync()?;
        self.0.rename(&temporary, name)?;
        self.0.sync_dir()
    }

    /// Which agent process wrote the newest record. It outlives this process, so that after a restart the agent's
    /// unacknowledged records go on where they were, and no other's are taken for them.
    pub(super) fn writer(&self) -> Option<u64> {
        let text = self.read(WRITER)?;
        let digits = text.trim_ascii();
        if digits.len() == 16 { u64::from_str_radix(digits, 16).ok() } else { None }
    }

    pub(super) fn set_writer(&self, instance: u64) -> io::Result<()> {
        self.put(WRITER, &format!("{instance:016x}\n"))
    }

    /// Where earlier epochs ended, oldest first.
    pub(super) fn ends(&self) -> Vec<EpochEnd> {
        match self.read(EPOCHS) {
            None => Vec::new(),
            Some(text) => parse(&text).unwrap_or_else(|| {
                tracing::warn!("where earlier epochs ended cannot be read; their writers are refused");
                Vec::new()
            }),
        }
    }

    pub(super) fn set_ends(&self, ends: &[EpochEnd]) -> io::Result<()> {
        let skip = ends.len().saturating_sub(MOST_EPOCHS);
        let mut text = String::new();
        for e in &ends[skip..] {
            let writer = e.writer.map_or_else(|| "-".into(), |w| format!("{w:016x}"));
            let _ = writeln!(text, "{} {} {writer}", e.epoch, e.last);
        }
        let sum = sum(&text);
        let _ = writeln!(text, "sum {sum}");
        self.put(EPOCHS, &text)
    }
}

fn sum(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

fn parse(text: &str) -> Option<Vec<EpochEnd>> {
    let at = text.rfind("sum ")?;
    let (lines, last) = text.split_at(at);
    if last.strip_prefix("sum ")?.trim_end() != sum(lines) {
        return None;
    }
    let line = |line: &str| {
        let mut words = line.split(' ');
        let epoch = Epoch(words.next()?.parse().ok()?);
        let last = Seq(words.next()?.parse().ok()?);
        let writer = match words.next()? {
            "-" => None,
            digits => Some(u64::from_str_radix(digits, 16).ok()?),
        };
        words.next().is_none().then_some(EpochEnd { epoch, last, writer })
    };
    lines.lines().map(line).collect()
}

#[cfg(test)]
mod tests;
