//! The log's bytes. See the layout in the parent's text.

use super::TrackSpec;
use super::regions::Regions;
use lifeboat_base::limits::{MAX_DISKS, MAX_LINEAGE};
use lifeboat_block::storage::{LogFile, read_most};
use prost::Message;
use std::io;

pub const PAGE: usize = 4096;
const PAGE_HEADER: usize = 16;
/// Regions one page covers.
pub const PAGE_REGIONS: usize = (PAGE - PAGE_HEADER) * 8;
const MAGIC: &[u8; 8] = b"LBTRACK1";

/// What is kept besides the marks.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// Random; pages of another log are not taken for this one's.
    #[prost(fixed64, tag = "1")]
    pub log: u64,
    /// Grows by one with each change.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub server: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub epoch: u32,
    #[prost(uint64, repeated, tag = "5")]
    pub sizes: Vec<u64>,
    /// Processes whose unacknowledged writes the marks cover, newest first.
    #[prost(fixed64, repeated, tag = "6")]
    pub lineage: Vec<u64>,
    /// Marks were taken back knowing that the site has everything up to this record.
    #[prost(uint64, tag = "7")]
    pub floor: u64,
    #[prost(bool, tag = "8")]
    pub armed: bool,
    #[prost(uint64, tag = "9")]
    pub base: u64,
    #[prost(bool, tag = "10")]
    pub intents: bool,
    /// The process lived then, by its clock: nanoseconds since 1970.
    #[prost(uint64, tag = "11")]
    pub alive: u64,
    /// It ended properly then.
    #[prost(bool, tag = "12")]
    pub stopped: bool,
}

impl Header {
    pub fn new(spec: &TrackSpec, log: u64) -> Self {
        Self {
            log,
            count: 1,
            server: spec.server.as_bytes().to_vec(),
            epoch: spec.epoch.0,
            sizes: spec.sizes.clone(),
            lineage: Vec::new(),
            floor: 0,
            armed: false,
            base: 0,
            intents: spec.intents,
            alive: 0,
            stopped: false,
        }
    }

    fn fits(&self, spec: &TrackSpec) -> bool {
        self.server == spec.server.as_bytes()
            && self.epoch == spec.epoch.0
            && self.sizes == spec.sizes
            && self.intents == spec.intents
            && self.lineage.len() <= MAX_LINEAGE
            && self.sizes.len() <= MAX_DISKS
    }

    /// One slot.
    pub fn encode(&self) -> Vec<u8> {
        let body = self.encode_to_vec();
        debug_assert!(body.len() <= PAGE - 16);
        let mut out = Vec::with_capacity(PAGE);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&body);
        out.resize(PAGE, 0);
        out
    }

    pub fn decode(slot: &[u8]) -> Option<Self> {
        let (fixed, rest) = slot.split_at_checked(16)?;
        let (magic, numbers) = fixed.split_at(8);
        let crc = u32::from_le_bytes(numbers[..4].try_into().ok()?);
        let len = u32::from_le_bytes(numbers[4..].try_into().ok()?);
        let body = rest.get(..len as usize)?;
        if magic != MAGIC || crc32c::crc32c(body) != crc {
            return None;
        }
        Self::decode_body(body)
    }

    fn decode_body(body: &[u8]) -> Option<Self> {
        Message::decode(body).ok()
    }
}

/// A log that fits its server.
pub struct Loaded {
    pub header: Header,
    pub slot: usize,
    pub disks: Vec<Regions>,
}

/// Reads a log; `None` when it is damaged or about something else.
pub fn load(file: &dyn LogFile, spec: &TrackSpec) -> io::Result<Option<Loaded>> {
    let mut slots = [0; 2 * PAGE];
    let n = read_most(file, &mut slots, 0)?;
    let newest = slots[..n]
        .chunks(PAGE)
        .enumerate()
        .filter_map(|(slot, bytes)| Header::decode(bytes).map(|h| (h, slot)))
        .max_by_key(|(h, _)| h.count);
    let Some((header, slot)) = newest.filter(|(h, _)| h.fits(spec)) else { return Ok(None) };
    let mut disks = Vec::new();
    let mut first_page = 0;
    for size in &spec.sizes {
        let mut regions = Regions::new(*size, first_page, false);
        for page in 0..regions.pages() {
            let number = first_page + page;
            let mut bytes = vec![0; PAGE];
            let read = if spec.intents {
                read_most(file, &mut bytes, super::page_offset(number)).unwrap_or(0)
            } else {
                0
            };
            match decode_page(&bytes[..read], number, header.log) {
                Some(words) => regions.load_page(number, &words),
                None => regions.suspect_page(number),
            }
        }
        first_page += regions.pages();
        disks.push(regions);
    }
    Ok(Some(Loaded { header, slot, disks }))
}

pub fn encode_page(page: u32, log: u64, words: &[u64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(PAGE);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&page.to_le_bytes());
    out.extend_from_slice(&log.to_le_bytes());
    words.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
    out.resize(PAGE, 0);
    let crc = crc32c::crc32c(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The page's marks, if it is that page of that log and whole.
pub fn decode_page(bytes: &[u8], page: u32, log: u64) -> Option<Vec<u64>> {
    if bytes.len() != PAGE {
        return None;
    }
    let crc = u32::from_le_bytes(bytes[..4].try_into().ok()?);
    let number = u32::from_le_bytes(bytes[4..8].try_into().ok()?);
    let its_log = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
    if crc != crc32c::crc32c(&bytes[4..]) || number != page || its_log != log {
        return None;
    }
    Some(bytes[PAGE_HEADER..].as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w)).collect())
}
