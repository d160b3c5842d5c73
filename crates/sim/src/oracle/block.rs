//! One block of the oracle.
//!
//! ```text
//! offset  size  field (little-endian)
//!      0     8  magic "LBORACLE"
//!      8     8  run: which workload wrote this
//!     16     4  disk
//!     20     4  reign: which turn of the writer, from 1
//!     24     8  block: its own address, in blocks
//!     32     8  seq: number of the write, from 1
//!     40     8  epoch: newest flush that had completed when the write was issued
//!     48  2000  payload, made from run, disk, block and seq
//!   2048  2044  zeros, so that compression has something to do
//!   4092     4  CRC32C of bytes 0..4092
//! ```

/// Bytes in a block.
pub const BLOCK: usize = 4096;

const MAGIC: &[u8; 8] = b"LBORACLE";
const PAYLOAD: std::ops::Range<usize> = 48..2048;
const CRC_AT: usize = BLOCK - 4;

/// What a block says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub run: u64,
    pub disk: u32,
    pub reign: u32,
    pub block: u64,
    pub seq: u64,
    pub epoch: u64,
}

/// What 4 KiB of a disk hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Zero,
    Ours(Stamp),
    /// Neither zeros nor a whole block of ours.
    Damaged,
}

impl Stamp {
    /// # Panics
    /// When `out` is not [`BLOCK`] bytes long.
    pub fn fill(&self, out: &mut [u8]) {
        assert_eq!(out.len(), BLOCK);
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.run.to_le_bytes());
        out[16..20].copy_from_slice(&self.disk.to_le_bytes());
        out[20..24].copy_from_slice(&self.reign.to_le_bytes());
        out[24..32].copy_from_slice(&self.block.to_le_bytes());
        out[32..40].copy_from_slice(&self.seq.to_le_bytes());
        out[40..48].copy_from_slice(&self.epoch.to_le_bytes());
        let mut state =
            self.run ^ self.seq.rotate_left(32) ^ self.block.rotate_left(16) ^ u64::from(self.disk);
        for part in out[PAYLOAD].chunks_mut(8) {
            part.copy_from_slice(&next(&mut state).to_le_bytes());
        }
        out[PAYLOAD.end..CRC_AT].fill(0);
        let crc = crc32c::crc32c(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }
}

impl Content {
    /// # Panics
    /// When `bytes` is not [`BLOCK`] bytes long.
    pub fn read(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), BLOCK);
        if bytes.iter().all(|b| *b == 0) {
            return Self::Zero;
        }
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if &bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..CRC_AT]) != u32_at(CRC_AT) {
            return Self::Damaged;
        }
        Self::Ours(Stamp {
            run: u64_at(8),
            disk: u32_at(16),
            reign: u32_at(20),
            block: u64_at(24),
            seq: u64_at(32),
            epoch: u64_at(40),
        })
    }
}

/// SplitMix64: small, fast and the same everywhere.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `H(disk, block, seq)`: the sum of it over all written blocks, modulo 2^128, names the whole state of the disks.
pub fn fingerprint(disk: u32, block: u64, seq: u64) -> u128 {
    let mut input = [0; 20];
    input[..4].copy_from_slice(&disk.to_le_bytes());
    input[4..12].copy_from_slice(&block.to_le_bytes());
    input[12..].copy_from_slice(&seq.to_le_bytes());
    let hash = blake3::hash(&input);
    let mut out = [0; 16];
    out.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_le_bytes(out)
}
