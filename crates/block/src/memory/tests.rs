#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

const SIZE: u64 = 3 * PAGE + 100;

proptest! {
    #[test]
    fn equals_a_byte_array(ops in prop::collection::vec((0..SIZE, 0..2 * PAGE, 0..4u8), 0..30)) {
        let d = MemoryDevice::new(SIZE);
        let mut want = vec![0u8; SIZE as usize];
        for (at, len, fill) in ops {
            let len = len.min(SIZE - at);
            want[at as usize..(at + len) as usize].fill(fill);
            if fill == 0 {
                d.trim(at, len).unwrap();
            } else {
                d.write(at, vec![fill; len as usize].into()).unwrap();
            }
            let mut got = vec![0xff; SIZE as usize];
            d.read(0, &mut got).unwrap();
            prop_assert!(got == want);
            let mut told = 0;
            for run in d.status(0, SIZE).unwrap() {
                let bytes = &want[told as usize..(told + run.len) as usize];
                prop_assert!(run.kind == ExtentKind::Data || bytes.iter().all(|b| *b == 0));
                told += run.len;
            }
            prop_assert_eq!(told, SIZE);
        }
    }
}

#[test]
fn whole_pages_given_back_become_holes() {
    let d = MemoryDevice::new(SIZE);
    d.write(0, vec![1; 2 * PAGE as usize].into()).unwrap();
    d.trim(0, PAGE).unwrap();
    assert_eq!(d.status(0, PAGE).unwrap(), [Extent { len: PAGE, kind: ExtentKind::Hole }]);
    assert_eq!(d.status(PAGE, PAGE).unwrap(), [Extent { len: PAGE, kind: ExtentKind::Data }]);
    assert!(matches!(d.write(SIZE, vec![1].into()), Err(BlockError::OutOfRange { .. })));
}
