#![allow(clippy::unwrap_used)]

use super::*;
use bytes::Bytes;
use lifeboat_block::MemoryDevice;

fn device(parts: &[(u64, Vec<u8>)]) -> MemoryDevice {
    let device = MemoryDevice::new(1 << 20);
    for (at, bytes) in parts {
        device.write(*at, Bytes::copy_from_slice(bytes)).unwrap();
    }
    device
}

fn mbr_sector(entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut sector = vec![0; 512];
    for (n, (kind, begin, count)) in entries.iter().enumerate() {
        let at = 446 + 16 * n;
        sector[at + 4] = *kind;
        sector[at + 8..at + 12].copy_from_slice(&begin.to_le_bytes());
        sector[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn gpt_table(sector: u64, entries: &[(u64, u64)]) -> Vec<(u64, Vec<u8>)> {
    let mut header = b"EFI PART".to_vec();
    header.resize(512, 0);
    header[72..80].copy_from_slice(&2u64.to_le_bytes());
    header[80..84].copy_from_slice(&u32::MAX.to_le_bytes());
    header[84..88].copy_from_slice(&128u32.to_le_bytes());
    let mut table = Vec::new();
    for (first, last) in entries {
        let mut entry = vec![0; 128];
        entry[0] = u8::from(*last > 0);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        table.extend(entry);
    }
    vec![(0, mbr_sector(&[(0xee, 1, u32::MAX)])), (sector, header), (2 * sector, table)]
}

fn found(device: &MemoryDevice) -> Vec<(u32, u64, u64)> {
    partitions(device).unwrap().iter().map(|p| (p.number, p.offset / 512, p.len / 512)).collect()
}

#[test]
fn tables_are_read_as_linux_numbers_them() {
    assert_eq!(found(&device(&[])), []);
    let plain = device(&[(0, mbr_sector(&[(0x83, 64, 100), (0, 0, 0), (0x82, 200, 8)]))]);
    assert_eq!(found(&plain), [(1, 64, 100), (3, 200, 8)]);
    let logical = device(&[
        (0, mbr_sector(&[(0x83, 64, 100), (0x05, 200, 900)])),
        (200 * 512, mbr_sector(&[(0x83, 2, 50), (0x05, 100, 60)])),
        (300 * 512, mbr_sector(&[(0x83, 2, 30)])),
    ]);
    assert_eq!(found(&logical), [(1, 64, 100), (5, 202, 50), (6, 302, 30)]);
    let gpt = device(&gpt_table(512, &[(40, 49), (0, 0), (100, 119)]));
    assert_eq!(found(&gpt), [(1, 40, 10), (3, 100, 20)]);
    let large = device(&gpt_table(4096, &[(5, 6)]));
    assert_eq!(found(&large), [(1, 40, 16)]);
}

/// A table comes from a recovered disk: nothing in it leads outside, or round in circles.
#[test]
fn hostile_tables_lead_nowhere() {
    let outside = device(&[(0, mbr_sector(&[(0x83, 64, u32::MAX), (0x83, 0, 10), (0x83, 5, 0)]))]);
    assert_eq!(found(&outside), []);
    let circle = device(&[
        (0, mbr_sector(&[(0x05, 200, 900)])),
        (200 * 512, mbr_sector(&[(0x83, 2, 5), (0x05, 0, 60)])),
    ]);
    assert_eq!(found(&circle).len(), CHAIN);
    let wild = [(u64::MAX, 0), (0, u64::MAX), (10, 9), (40, 41)];
    let gpt = device(&gpt_table(512, &wild));
    assert_eq!(found(&gpt), [(4, 40, 2)]);
    let mut far = gpt_table(512, &[(40, 49)]);
    far[1].1[72..80].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(found(&device(&far)), []);
}

#[test]
fn what_is_in_a_partition_is_told_by_its_first_bytes() {
    let ext = device(&[(4096 + 0x438, vec![0x53, 0xef])]);
    assert_eq!(holds(&ext, 4096, 1 << 19).unwrap(), Holds::Files("ext4"));
    assert_eq!(holds(&ext, 0, 1 << 19).unwrap(), Holds::Unknown);
    assert_eq!(holds(&ext, 4096, 100).unwrap(), Holds::Unknown, "not beyond its end");
    let lvm = device(&[(0x200, b"LABELONE".to_vec())]);
    assert_eq!(holds(&lvm, 0, 1 << 20).unwrap(), Holds::Other("a volume of LVM"));
    // The boot sector of a file system looks like a table, and is none.
    let mut boot = mbr_sector(&[(0x83, 64, 100)]);
    boot[82..90].copy_from_slice(b"FAT32   ");
    assert_eq!(found(&device(&[(0, boot)])), []);
}
