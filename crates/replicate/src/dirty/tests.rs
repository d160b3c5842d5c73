use super::*;
use proptest::prelude::*;

proptest! {
    /// Against a plain list of booleans.
    #[test]
    fn equals_a_reference(
        size in 1u64..40 * B,
        ops in proptest::collection::vec((any::<bool>(), 0u64..45 * B, 0u64..9 * B), 0..60),
        probe in 0u64..40 * B, max in 1u64..6 * B,
    ) {
        let mut map = DirtyMap::new(size);
        let mut reference = vec![false; size.div_ceil(B) as usize];
        for (mark, offset, len) in ops {
            let end = (offset + len).min(size);
            for (i, bit) in reference.iter_mut().enumerate() {
                let (from, to) = (i as u64 * B, ((i as u64 + 1) * B).min(size));
                if mark && len > 0 && from < end && offset < to { *bit = true; }
                if !mark && offset <= from && to <= end { *bit = false; }
            }
            if mark { map.mark(offset, len) } else { map.clear(offset, len) }
        }
        prop_assert_eq!(map.count(), reference.iter().filter(|b| **b).count() as u64);
        let first = reference.iter().enumerate().position(|(i, b)| *b && i as u64 >= probe / B);
        let run = map.next_run(probe, max);
        prop_assert_eq!(run.map(|r| r.0 / B), first.map(|f| f as u64));
        let end = (probe + max).min(size);
        let any = reference.iter().enumerate().any(|(i, b)| {
            let (from, to) = (i as u64 * B, ((i as u64 + 1) * B).min(size));
            *b && probe < end && from < end && probe < to
        });
        prop_assert_eq!(map.any(probe, max), any);
        if let Some((offset, len)) = run {
            prop_assert!(len <= max.max(B) && offset + len <= size && len > 0);
            prop_assert!(map.covers(offset, len));
        }
    }
}
