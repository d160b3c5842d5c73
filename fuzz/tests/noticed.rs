//! The campaign's own test: each way to break a promise is noticed. In a program of its own, since others'
//! targets would notice it too.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_fuzz::{Target, bound, campaign};

#[global_allocator]
static WATCHED: bound::Watched = bound::Watched;

const TARGET: Target = Target {
    name: "none",
    run: |input| match input.first() {
        Some(1) => panic!("on purpose"),
        Some(2) => drop(std::thread::spawn(|| panic!("elsewhere, on purpose")).join()),
        Some(3) => drop(std::hint::black_box(vec![0u8; bound::MOST + 1])),
        _ => {}
    },
    seeds: Vec::new,
    tries: 0,
};

#[test]
fn panics_and_allocations_are_noticed() {
    assert_eq!(campaign::try_one(&TARGET, &[0]), Ok(()));
    assert!(campaign::try_one(&TARGET, &[1]).unwrap_err().contains("on purpose"));
    assert!(campaign::try_one(&TARGET, &[2]).unwrap_err().contains("elsewhere"));
    assert!(campaign::try_one(&TARGET, &[3]).unwrap_err().contains("allocation"));
    let found = campaign::mutations(TARGET, vec![vec![9; 4]], 7, 100_000, || false).unwrap_err();
    assert!((1..=3).contains(&found.input[0]), "{found:?}");
}
