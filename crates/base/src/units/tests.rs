use super::*;

#[test]
fn point_ids_round_trip_and_refuse_nonsense() {
    let p = PointId { epoch: Epoch(3), seq: Seq(4711) };
    assert_eq!(p.to_string(), "p3.4711");
    assert_eq!("p3.4711".parse::<PointId>(), Ok(p));
    for bad in ["", "p", "p1", "p1.", "p.1", "1.2", "p-1.2", "p1.+2", "p1.99999999999999999999999", "p1.2 "] {
        assert!(bad.parse::<PointId>().is_err(), "{bad:?}");
    }
}

#[test]
fn bytes_are_written_for_people() {
    assert_eq!(format_bytes(0), "0 B");
    assert_eq!(format_bytes(1023), "1023 B");
    assert_eq!(format_bytes(1536), "1.5 KiB");
    assert_eq!(format_bytes(u64::MAX), "16384.0 PiB");
}
