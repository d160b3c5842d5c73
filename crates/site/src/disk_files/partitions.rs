//! Partition tables and what is in a partition, by its first bytes. Everything here comes from a recovered disk and is
//! believed only as far as it lies within it.
//!
//! ```text
//! MBR: 446 + 16 * n: type at 4, first sector u32 at 8, sectors u32 at 12; 55 aa at 510
//! GPT: sector 1: "EFI PART", first sector of entries u64 at 72, how many u32 at 80, their size u32 at 84
//!      entry: type GUID at 0, first sector u64 at 32, last sector u64 at 40
//! ```

use lifeboat_block::{BlockDevice, BlockError};

const MOST: u32 = 128;
/// Sizes of a sector that are looked for.
const SECTORS: [u64; 2] = [512, 4096];
/// Extended partitions that follow each other, at most.
const CHAIN: usize = 64;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// A partition's number, as Linux counts, and where it is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    pub number: u32,
    pub offset: u64,
    pub len: u64,
}

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// A file system, by the kernel's name for it.
    Files(&'static str),
    /// Something else, in words.
    Other(&'static str),
    Unknown,
}

fn u32_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, |b| u64::from(u32::from_le_bytes(b)))
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Bytes of the device; fewer at its end.
fn read(device: &dyn BlockDevice, offset: u64, len: usize) -> Result<Vec<u8>, BlockError> {
    let len = device.size().saturating_sub(offset).min(len as u64);
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(0)];
    if !buffer.is_empty() {
        device.read(offset, &mut buffer)?;
    }
    Ok(buffer)
}

/// Partitions of a disk; none when it has no table.
pub fn partitions(device: &dyn BlockDevice) -> Result<Vec<Partition>, BlockError> {
    for sector in SECTORS {
        if let Some(found) = gpt(device, sector)? {
            return Ok(found);
        }
    }
    let first = read(device, 0, 512)?;
    if first.get(510..512) != Some(&[0x55, 0xaa][..]) || holds(device, 0, device.size())? != Holds::Unknown {
        return Ok(Vec::new());
    }
    mbr(device, &first)
}

fn within(device: &dyn BlockDevice, number: u32, first: u64, count: u64, sector: u64) -> Option<Partition> {
    let (offset, len) = (first.checked_mul(sector)?, count.checked_mul(sector)?);
    let fits = len > 0 && offset > 0 && offset.checked_add(len)? <= device.size();
    fits.then_some(Partition { number, offset, len })
}

fn gpt(device: &dyn BlockDevice, sector: u64) -> Result<Option<Vec<Partition>>, BlockError> {
    let header = read(device, sector, 512)?;
    if header.get(..8) != Some(&b"EFI PART"[..]) {
        return Ok(None);
    }
    let (at, count, size) = (u64_at(&header, 72), u32_at(&header, 80) as u32, u32_at(&header, 84));
    if !(128..=4096).contains(&size) {
        return Ok(None);
    }
    let Some(at) = at.checked_mul(sector).filter(|at| *at < device.size()) else { return Ok(None) };
    let count = count.min(MOST);
    let table = read(device, at, count as usize * size as usize)?;
    let entries = table.chunks_exact(size as usize).zip(1..);
    let used = entries.filter(|(e, _)| e[..16].iter().any(|b| *b != 0));
    let found = used.filter_map(|(e, number)| {
        let (first, last) = (u64_at(e, 32), u64_at(e, 40));
        within(device, number, first, last.checked_sub(first)?.checked_add(1)?, sector)
    });
    Ok(Some(found.collect()))
}

/// Type, first sector and sectors of an MBR's entry.
fn mbr_entry(sector: &[u8], n: usize) -> (u8, u64, u64) {
    let at = 446 + 16 * n;
    (sector.get(at + 4).copied().unwrap_or(0), u32_at(sector, at + 8), u32_at(sector, at + 12))
}

fn mbr(device: &dyn BlockDevice, first: &[u8]) -> Result<Vec<Partition>, BlockError> {
    let mut found = Vec::new();
    let mut extended = None;
    for n in 0..4 {
        let (kind, begin, count) = mbr_entry(first, n);
        if EXTENDED.contains(&kind) {
            extended = extended.or(Some(begin));
        } else if kind != 0 {
            found.extend(within(device, n as u32 + 1, begin, count, 512));
        }
    }
    let Some(start) = extended else { return Ok(found) };
    let (mut at, mut number) = (start, 5);
    // A chain that leads back to itself ends here as well.
    for _ in 0..CHAIN {
        let sector = read(device, at.saturating_mul(512), 512)?;
        if sector.get(510..512) != Some(&[0x55, 0xaa][..]) {
            break;
        }
        let (kind, begin, count) = mbr_entry(&sector, 0);
        if kind != 0 {
            found.extend(within(device, number, at.saturating_add(begin), count, 512));
            number += 1;
        }
        let (next, begin, _) = mbr_entry(&sector, 1);
        if !EXTENDED.contains(&next) {
            break;
        }
        at = start.saturating_add(begin);
    }
    Ok(found)
}

/// What begins at `offset`.
pub fn holds(device: &dyn BlockDevice, offset: u64, len: u64) -> Result<Holds, BlockError> {
    let head = read(device, offset, usize::try_from(len).unwrap_or(usize::MAX).min(68 * 1024))?;
    let is = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    let known: &[(usize, &[u8], Holds)] = &[
        (0, b"XFSB", Holds::Files("xfs")),
        (0x438, &[0x53, 0xef], Holds::Files("ext4")),
        (0x10040, b"_BHRfS_M", Holds::Files("btrfs")),
        (3, b"NTFS    ", Holds::Files("ntfs3")),
        (3, b"EXFAT   ", Holds::Files("exfat")),
        (82, b"FAT32   ", Holds::Files("vfat")),
        (54, b"FAT16   ", Holds::Files("vfat")),
        (54, b"FAT12   ", Holds::Files("vfat")),
        (0x400, &[0x10, 0x20, 0xf5, 0xf2], Holds::Files("f2fs")),
        (0x400, &[0xe2, 0xe1, 0xf5, 0xe0], Holds::Files("erofs")),
        (0, b"hsqs", Holds::Files("squashfs")),
        (0x8001, b"CD001", Holds::Files("iso9660")),
        (0, b"LUKS\xba\xbe", Holds::Other("an encrypted volume (LUKS)")),
        (0x200, b"LABELONE", Holds::Other("a volume of LVM")),
        (4086, b"SWAPSPACE2", Holds::Other("swap space")),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9], Holds::Other("a member of a RAID array")),
    ];
    Ok(known.iter().find(|(at, magic, _)| is(*at, magic)).map_or(Holds::Unknown, |(_, _, holds)| *holds))
}

#[cfg(test)]
mod tests;
