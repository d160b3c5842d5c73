//! Reads the files that changed.

use super::node::Node;
use super::{LINKED, Linked, Walk, origin, settled};
use crate::cut::{CutError, Cutter};
use crate::sys::{self, On};
use crate::tree::{Content, Entry, EntryKind, Time};
use parking_lot::Mutex;
use rustix::fd::AsFd;
use rustix::fs::{FileType, SeekFrom, Stat, fstat, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

/// A file that is to be read.
pub struct Job {
    pub node: Arc<Node>,
    pub slot: usize,
    pub name: Vec<u8>,
}

/// How often a file that changes under the reader is read.
const ATTEMPTS: usize = 2;

impl Walk<'_> {
    pub fn read_jobs(&self, queue: &Mutex<Receiver<Job>>) {
        loop {
            // In a statement of its own: the lock is not held while the job is done.
            let job = queue.lock().recv();
            let Ok(job) = job else { return };
            if !self.over() {
                self.read_job(&job);
            }
            self.release(&job.node);
        }
    }

    fn read_job(&self, job: &Job) {
        let path = job.node.path_of(&job.name);
        let file = match sys::open_file(&job.node.fd, &job.name) {
            Ok(f) => f,
            Err(Errno::NOENT) => return self.problems.add(&path, "vanished while the backup was made"),
            Err(e) => return self.problems.add(&path, e),
        };
        let file = File::from(file);
        let mut attempt = 1;
        loop {
            let now = self.clock.wall();
            let before = match fstat(&file) {
                Ok(s) if FileType::from_raw_mode(s.st_mode) == FileType::RegularFile => s,
                Ok(_) => return self.problems.add(&path, "became something else while the backup was made"),
                Err(e) => return self.problems.add(&path, e),
            };
            let Linked { content, settled, .. } = match self.content(&file, &before, settled(&before, now)) {
                Ok(c) => c,
                Err(CutError::Blob(e)) => return self.fail(e.into()),
                Err(CutError::Read(e)) => return self.problems.add(&path, format!("cannot be read: {e}")),
            };
            let after = match fstat(&file) {
                Ok(s) => s,
                Err(e) => return self.problems.add(&path, e),
            };
            let still = same(&before, &after) && content.size == before.st_size as u64;
            if !still && attempt < ATTEMPTS {
                attempt += 1;
                continue;
            }
            let mut from = origin(&before);
            if !still || !settled {
                from.ctime = Time::default();
            }
            if !still {
                self.problems.add(&path, "changed while it was read; kept as it was read");
            }
            self.counts.bytes.fetch_add(content.size, Ordering::Relaxed);
            let meta = self.meta(&path, &before, On::File(file.as_fd()));
            let kind = EntryKind::File(content);
            return job.node.set(job.slot, Entry { name: job.name.clone(), kind, meta, origin: from });
        }
    }

    fn content(&self, file: &File, stat: &Stat, settled: bool) -> Result<Linked, CutError> {
        let link = (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
        let times = (sys::mtime(stat), sys::ctime(stat));
        if let Some(known) = link.and_then(|l| self.linked.lock().get(&l).cloned())
            && known.times == times
            && known.content.size == stat.st_size as u64
        {
            return Ok(known);
        }
        let read = Linked { times, content: self.read(file, stat)?, settled };
        if let Some(link) = link {
            let mut linked = self.linked.lock();
            if linked.len() < LINKED {
                linked.insert(link, read.clone());
            }
        }
        Ok(read)
    }

    fn read(&self, file: &File, stat: &Stat) -> Result<Content, CutError> {
        self.counts.files_read.fetch_add(1, Ordering::Relaxed);
        let size = stat.st_size as u64;
        let mut cutter = Cutter::new(self.sink);
        let source = Watched { walk: self, file };
        seek(file, SeekFrom::Start(0)).map_err(std::io::Error::from)?;
        if (stat.st_blocks as u64).saturating_mul(512) >= size {
            cutter.cut(source, size)?;
            return cutter.finish();
        }
        let mut at = 0;
        while at < size {
            let (data, end) = extent(file, at, size)?;
            cutter.hole(data - at);
            seek(file, SeekFrom::Start(data)).map_err(std::io::Error::from)?;
            let read = cutter.cut(&source, end - data)?;
            at = data + read;
            if read < end - data {
                // It became shorter; the caller sees that.
                break;
            }
        }
        cutter.finish()
    }
}

/// The next range with data from `at` on: where it begins and ends.
fn extent(file: &File, at: u64, size: u64) -> Result<(u64, u64), CutError> {
    let data = match seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        // A file system that does not know holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, size)),
        Err(e) => return Err(std::io::Error::from(e).into()),
    };
    let end = seek(file, SeekFrom::Hole(data)).map_err(std::io::Error::from)?;
    Ok((data, end.clamp(data, size)))
}

fn same(a: &Stat, b: &Stat) -> bool {
    a.st_size == b.st_size && sys::mtime(a) == sys::mtime(b) && sys::ctime(a) == sys::ctime(b)
}

/// Counts what is read, and ends when the walk is over.
struct Watched<'a> {
    walk: &'a Walk<'a>,
    file: &'a File,
}

impl Read for Watched<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        (&*self).read(into)
    }
}

impl Read for &Watched<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.walk.monitor.is_cancelled() {
            return Err(std::io::Error::other("it was cancelled"));
        }
        let mut file = self.file;
        let read = file.read(into)?;
        self.walk.counts.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        self.walk.monitor.moved(read as u64);
        Ok(read)
    }
}
