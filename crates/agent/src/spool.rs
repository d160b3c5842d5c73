//! Frames that the site does not take now, on the agent's disk.
//!
//! Invariants:
//! - What is read back is what was written, or an error: each frame is sealed, with its number as associated data.
//! - The key lives in this process only. What is left of another process is of no use to anybody and is removed; what its
//!   frames held is covered by tracking.
//! - It never takes the last of the disk's room: a full disk is an error of [`Spool::write`], the frame stays with its owner.
//!
//! Frames are appended to files of [`FILE`] bytes; a file is removed when its last frame was released.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::Bytes;
use lifeboat_base::Entropy;
use lifeboat_replicate::sender::Slot;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file is closed when it is this long.
const FILE: u64 = 64 << 20;
/// Part of the file system that is left free, of what processes may have of it, as `df` counts.
const FREE: u64 = 20;

struct Segment {
    number: u64,
    file: Arc<File>,
    len: u64,
}

#[derive(Clone, Copy)]
struct Place {
    segment: u64,
    offset: u64,
    /// Sealed length.
    len: u32,
    nonce: u64,
}

/// See the module's text.
pub struct Spool {
    dir: PathBuf,
    key: LessSafeKey,
    segments: VecDeque<Segment>,
    next_segment: u64,
    /// Places of frames from number `first` on.
    places: VecDeque<Place>,
    first: u64,
    /// Never the same twice under one key, also where a write failed.
    next_nonce: u64,
}

/// A sealed frame that is still to be read.
pub struct Sealed {
    file: Arc<File>,
    place: Place,
    id: u64,
}

impl Spool {
    /// An empty spool in `dir`; what was there is removed.
    ///
    /// # Errors
    /// What the system reports.
    pub fn open(dir: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes);
        let key =
            UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| io::Error::other("no key for the spool"))?;
        Ok(Self {
            dir: dir.to_owned(),
            key: LessSafeKey::new(key),
            segments: VecDeque::new(),
            next_segment: 0,
            places: VecDeque::new(),
            first: 0,
            next_nonce: 0,
        })
    }

    fn nonce(number: u64) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Keeps a frame. Not synced: the spool is of no use after a crash.
    ///
    /// # Errors
    /// What the system reports; `StorageFull` when only the reserve is left. Nothing is kept then.
    pub fn write(&mut self, frame: &[u8]) -> io::Result<Slot> {
        let id = self.first + self.places.len() as u64;
        let mut sealed = frame.to_vec();
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        self.key
            .seal_in_place_append_tag(Self::nonce(nonce), Aad::from(id.to_le_bytes()), &mut sealed)
            .map_err(|_| io::Error::other("a frame could not be sealed"))?;
        let len = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        self.check_room()?;
        if self.segments.back().is_none_or(|s| s.len >= FILE) {
            let number = self.next_segment;
            let path = self.path(number);
            let mut options = File::options();
            let file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
            self.segments.push_back(Segment { number, file: Arc::new(file), len: 0 });
            self.next_segment += 1;
        }
        let Some(segment) = self.segments.back_mut() else { return Err(io::ErrorKind::NotFound.into()) };
        segment.file.write_all_at(&sealed, segment.len)?;
        self.places.push_back(Place { segment: segment.number, offset: segment.len, len, nonce });
        segment.len += sealed.len() as u64;
        Ok(Slot { id, len: frame.len() })
    }

    fn check_room(&self) -> io::Result<()> {
        let fs = nix::sys::statvfs::statvfs(&self.dir)?;
        let free = fs.blocks_available();
        let all = fs.blocks().saturating_sub(fs.blocks_free()).saturating_add(free);
        if free < all / FREE {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:08x}.spool"))
    }

    /// Where a frame is; it stays readable however much is released meanwhile.
    ///
    /// # Errors
    /// When it was released.
    pub fn find(&self, slot: Slot) -> io::Result<Sealed> {
        let place = slot.id.checked_sub(self.first).and_then(|i| self.places.get(usize::try_from(i).ok()?));
        let segment = place.and_then(|p| self.segments.iter().find(|s| s.number == p.segment));
        match (place, segment) {
            (Some(place), Some(s)) => Ok(Sealed { file: Arc::clone(&s.file), place: *place, id: slot.id }),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Reads a frame back.
    ///
    /// # Errors
    /// What the system reports; `InvalidData` when it is not what was written.
    pub fn open_sealed(&self, (id, nonce): (u64, u64), mut sealed: Vec<u8>) -> io::Result<Bytes> {
        let opened = self.key.open_in_place(Self::nonce(nonce), Aad::from(id.to_le_bytes()), &mut sealed);
        let len = opened
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a spooled frame is damaged"))?
            .len();
        sealed.truncate(len);
        Ok(sealed.into())
    }

    /// Frames below this number are needed no more.
    pub fn release(&mut self, below: u64) {
        while self.first < below && self.places.pop_front().is_some() {
            self.first += 1;
        }
        // Numbers go on where the owner is.
        self.first = self.first.max(below);
        let needed = self.places.front().map_or(self.next_segment, |p| p.segment);
        while self.segments.front().is_some_and(|s| s.number < needed) {
            if let Some(s) = self.segments.pop_front()
                && let Err(e) = fs::remove_file(self.path(s.number))
            {
                tracing::warn!("a spool file cannot be removed: {e}");
            }
        }
    }
}

impl Sealed {
    /// The frame's number and nonce and its sealed bytes, for [`Spool::open_sealed`].
    ///
    /// # Errors
    /// What the system reports.
    pub fn read(&self) -> io::Result<((u64, u64), Vec<u8>)> {
        let mut bytes = vec![0; self.place.len as usize];
        self.file.read_exact_at(&mut bytes, self.place.offset)?;
        Ok(((self.id, self.place.nonce), bytes))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests;
