use super::*;

#[test]
fn the_numbers_are_found_behind_the_engines_chatter() {
    let text = r#"load: NBD size 1073741824
{"jobs":[{"error":0,"write":{"iops":17012.5,"bw_bytes":69683200,"clat_ns":{"percentile":{"99.000000":2500000}}}}]}"#;
    assert_eq!(parse(text, "write").unwrap(), Outcome { iops: 17012.5, mbps: 69.6832, p99_ms: 2.5 });
    assert!(parse(r#"{"jobs":[{"error":5,"write":{}}]}"#, "write").is_err());
    assert!(parse("fio: nothing", "write").is_err());
}
