use super::*;

fn sample(lines: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut chain = 0;
    for n in 1..=lines {
        let (text, crc) = line(n, "2026-11-20T07:01:02.123Z", chain);
        out.extend(text.into_bytes());
        chain = crc;
    }
    out
}

#[test]
fn golden_line() {
    assert_eq!(line(1, "2026-11-20T07:01:02.123Z", 0).0, "0000000001 2026-11-20T07:01:02.123Z a7c2067a\n");
}

#[test]
fn every_torn_tail_is_cut_and_nothing_more() {
    let whole = sample(3);
    let two = sample(2).len();
    for cut in two..whole.len() {
        let seen = verify(&whole[..cut]).unwrap();
        assert_eq!((seen.last, seen.good, seen.tail), (2, two as u64, (cut - two) as u64));
    }
    assert_eq!(verify(&whole).unwrap().last, 3);
}

#[test]
fn damage_before_the_tail_is_named() {
    let mut bytes = sample(5);
    let at = sample(2).len();
    bytes[at + 3] ^= 1;
    let fault = verify(&bytes).unwrap_err();
    assert_eq!((fault.number, fault.at), (3, at as u64));
}

#[test]
fn swapped_or_missing_lines_are_damage() {
    let bytes = sample(4);
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    let swapped = [lines[0], lines[2], lines[1], lines[3]].concat();
    assert_eq!(verify(&swapped).unwrap_err().number, 2);
    let missing = [lines[0], lines[2], lines[3]].concat();
    assert_eq!(verify(&missing).unwrap_err().number, 2);
}

#[test]
fn reopening_goes_on_after_the_last_whole_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.log");
    let mut ledger = Ledger::open(&path).unwrap();
    for _ in 0..3 {
        ledger.append("2026-11-20T07:01:02.123Z").unwrap();
    }
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 5);
    std::fs::write(&path, &bytes).unwrap();
    let mut ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.contents().last, 2);
    assert_eq!(ledger.append("2026-11-20T07:01:03.000Z").unwrap(), 3);
    assert_eq!(verify(&std::fs::read(&path).unwrap()).unwrap().last, 3);
}
