#![allow(clippy::unwrap_used)]

use super::*;
use crate::listen::tests::Agent;
use crate::testing::{DISK, SIZE, Wire, World, announce, barrier, data, zero};
use lifeboat_api::port::SitePort;
use lifeboat_api::types::Health;
use lifeboat_base::point::PointSpec;

fn hashes(content: &[u8]) -> Vec<[u8; 32]> {
    content.chunks(BLOCK).map(hash_block).collect()
}

/// An exact offer tells what is there now, also of what has just been written; one of a sync only what is lacking.
#[tokio::test]
async fn an_exact_offer_is_answered_for_its_place_in_the_stream() {
    let w = World::new();
    let spec = w.spec("web-1", w.agent(), 1);
    w.site.ensure_server(&spec).await.unwrap();
    let mut line = Wire::hello(&w.site, spec.agent, spec.id, (1, 1), &[]).await.unwrap();
    let mut content = vec![0; SIZE as usize];
    let last = line.send(1, &[announce(), data(0, 1, 4096), barrier()]).await;
    line.acked(last).await;
    content[..4096].fill(1);
    assert_eq!(line.offer(0, true, &hashes(&content)).await, [false; 4]);
    // Many rounds of writes, barriers and comparisons of everything.
    for n in 0..40usize {
        let (at, byte) = ((n * 37_000) % (SIZE as usize - 9000), n as u8 + 2);
        content[at..at + 9000].fill(byte);
        content[at + 100..at + 200].fill(0);
        let mut records = vec![data(at as u64, byte, 9000), zero(at as u64 + 100, 100)];
        if n % 3 == 0 {
            records.push(barrier());
        }
        // Not yet committed when the offer comes.
        line.send(2, &records).await;
        assert_eq!(line.offer(0, true, &hashes(&content)).await, [false; 4], "round {n}");
        let mut wrong = hashes(&content);
        wrong[n % 4] = [1; 32];
        let answer = line.offer(0, true, &wrong).await;
        assert_eq!(answer, std::array::from_fn::<_, 4, _>(|i| i == n % 4), "round {n}");
        if n == 20 {
            // What was trimmed away under the comparison changes nothing.
            w.clock.advance(Duration::from_secs(7200));
            let last = line.send(3, &[barrier()]).await;
            line.acked(last).await;
            let cell = w.site.cell(spec.id).unwrap();
            cell.keeper.trim(&cell.keeper.plan_trim().unwrap()).unwrap();
        }
    }
    let stale = line.offer(0, false, &hashes(&content)).await;
    assert_eq!(stale, [false; 4], "a sync begins with what is there");
    line.send(4, &[data(0, 200, 512)]).await;
    content[..512].fill(200);
    assert_eq!(line.offer(0, false, &hashes(&content)).await, [true, false, false, false]);
}

/// I3 and I5, failures 5 and 6: damage found at a start is told to the agent as content that is not there; what it sends makes
/// the points whole again, and a break in the middle does not make it begin anew.
#[tokio::test]
async fn damage_is_mended_by_what_the_agent_sends() {
    let mut w = World::new();
    let spec = w.spec("web-1", w.agent(), 1);
    w.site.ensure_server(&spec).await.unwrap();
    let mut line = Wire::hello(&w.site, spec.agent, spec.id, (1, 1), &[]).await.unwrap();
    let last = line.send(1, &[announce(), data(0, 1, 512), barrier(), data(512, 2, 512), barrier()]).await;
    line.acked(last).await;
    let old = w.site.cell(spec.id).unwrap().reader.resolve(&PointSpec::Latest).unwrap().id;
    drop(line);
    w.restart(&spec).await;
    w.site.shutdown().await;
    // A segment without its index, with a byte of its second write changed.
    let journal = w.site.server_dir(spec.id).join("journal");
    let files = || std::fs::read_dir(&journal).unwrap().map(|e| e.unwrap().path());
    let with = |ending: &str| files().find(|p| p.extension().is_some_and(|e| e == ending)).unwrap();
    std::fs::remove_file(with("idx")).unwrap();
    let segment = with("seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.len() - 80 - 100;
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    w.restart(&spec).await;
    assert!(w.noted("journal.damaged web-1 found"));

    let _agent = Agent::connect(&w.site, spec.agent, 1).await.unwrap();
    let runtime = || w.site.runtime(spec.id).unwrap();
    assert_eq!(runtime().health, Health::Stalled);
    assert!(runtime().reason.unwrap().contains(&format!("point {old} needs what is lost")));
    let mut line = Wire::hello(&w.site, spec.agent, spec.id, (1, 1), &[]).await.unwrap();
    assert!(!line.welcome.same_writer && line.welcome.has_content, "it has to compare everything");
    assert_eq!(line.welcome.durable, last.0, "and no number is given twice");
    let mut content = vec![0; SIZE as usize];
    content[..512].fill(1);
    content[512..1024].fill(2);
    assert_eq!(line.offer(0, false, &hashes(&content)).await, [true; 4], "nobody knows what was lost");
    let half = BLOCK as u64 * 2;
    let sent = line.send(2, &[announce(), data(0, 1, 512), data(512, 2, 512), zero(1024, half - 1024)]).await;
    line.acked(sent).await;
    drop(line);

    let mut line = Wire::hello(&w.site, spec.agent, spec.id, (1, 1), &[]).await.unwrap();
    assert!(!line.welcome.same_writer, "half is still unknown");
    assert_eq!(line.offer(0, false, &hashes(&content)).await, [false, false, true, true]);
    let sent = line.send(3, &[announce(), zero(half, SIZE - half), barrier()]).await;
    line.acked(sent).await;
    let cell = w.site.cell(spec.id).unwrap();
    let newest = cell.reader.resolve(&PointSpec::Latest).unwrap().id;
    let mut read = vec![9; SIZE as usize];
    cell.reader.open_point(newest, DISK).unwrap().read(0, &mut read).unwrap();
    assert!(read == content);
    assert!(cell.reader.open_point(old, DISK).is_err(), "the old point stays refused");
    drop(line);
    let mut line = Wire::hello(&w.site, spec.agent, spec.id, (1, 1), &[]).await.unwrap();
    assert!(line.welcome.same_writer, "and everything is as ever");
    w.clock.advance(Duration::from_secs(31));
    line.ping(lifeboat_base::Clock::wall(&*w.clock)).await;
    w.site.watch(&cell);
    let reason = runtime().reason.unwrap();
    assert!(
        reason.contains(&format!("point {old} needs")) && reason.contains("newer points are whole"),
        "{reason}"
    );
    let report = w.site.check_journal(spec.id, true).await.unwrap();
    let [finding] = &report.findings[..] else { panic!("{report:?}") };
    assert_eq!((finding.first_point, finding.last_point), (Some(old), Some(old)));
    assert!(finding.what.contains("is damaged at byte"), "{}", finding.what);
}
