use super::*;
use crate::testing::Rig;
use lifeboat_base::DiskId;

#[test]
fn extents_are_those_of_the_map_and_cost_no_content() {
    let rig = Rig::new();
    let s = rig.snapshot(&[(0, 1), (1, 2), (600, 3)]);
    let device = rig.vault.device(&s, DiskId(0)).unwrap();
    let k = BLOCK as u64;
    let runs = device.status(0, device.size()).unwrap();
    let plain: Vec<(u64, bool)> = runs.iter().map(|r| (r.len / k, r.kind == ExtentKind::Data)).collect();
    assert_eq!(plain, [(2, true), (598, false), (1, true), (399, false)]);
    assert_eq!(device.status(k + 10, 20).unwrap(), [Extent { len: 20, kind: ExtentKind::Data }]);
    assert!(device.write(0, Bytes::new()).is_err() && device.status(1, device.size()).is_err());
    let mut buf = vec![9; 3 * BLOCK];
    device.read(k - 5, &mut buf).unwrap();
    assert!(buf[..5].iter().all(|b| *b == 1) && buf[5..5 + BLOCK].iter().all(|b| *b == 2));
    assert!(buf[5 + BLOCK..].iter().all(|b| *b == 0));
}
