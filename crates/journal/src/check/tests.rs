#![allow(clippy::unwrap_used)]

use crate::testing::{Rig, Source};
use lifeboat_block::storage::Storage;

#[test]
fn a_check_names_what_is_damaged_and_the_points_it_may_touch() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(1);
    for _ in 0..6 {
        source.random(10).barrier().send(&mut journal);
    }
    let clean = journal.reader().check(true).unwrap();
    assert!(clean.is_clean(), "{clean:?}");
    assert!(clean.segments > 2 && clean.records == source.seq.0);

    let victim = rig.names(".seg").remove(1);
    rig.storage.tamper(&victim, |b| b[400] ^= 1);
    assert!(journal.reader().check(false).unwrap().is_clean(), "a quick check reads no records");
    let full = journal.reader().check(true).unwrap();
    let [finding] = &full.findings[..] else { panic!("{full:?}") };
    assert_eq!(finding.damage.segment, victim);
    let (first, last) = finding.points.unwrap();
    let affected = source.points.iter().find(|(id, _)| id.seq >= finding.damage.first).unwrap().0;
    assert_eq!((first, last), (affected, source.points.last().unwrap().0));
    assert!(finding.damage.to_string().contains("are lost"));

    rig.storage.tamper(&victim, |b| b[3] ^= 1);
    assert_eq!(journal.reader().check(false).unwrap().findings.len(), 1, "but it reads headers");
    rig.storage.tamper(&victim, |b| {
        b[3] ^= 1;
        b[400] ^= 1;
    });
    let index = rig.names(".idx").remove(0);
    rig.storage.remove(&index).unwrap();
    let quick = journal.reader().check(false).unwrap();
    assert_eq!((quick.findings.len(), &quick.bad_indexes[..]), (0, &[index][..]));
    source.verify(&journal.reader());
}
