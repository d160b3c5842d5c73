#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{DISK, SIZE, Wire, World, announce, barrier, data, zero};
use lifeboat_api::port::{ServerSpec, SitePort};
use lifeboat_base::AgentId;
use lifeboat_base::point::PointSpec;
use lifeboat_block::storage::{MemoryStorage, StorageFault};
use lifeboat_replicate::wire::{ZERO_HASH, hash_block};

/// A server in epoch 2, with the writes of epoch 1 in its line; the old agent has said nothing since.
struct Story {
    w: World,
    spec: ServerSpec,
    old: AgentId,
    /// Last record of epoch 1.
    base: Seq,
    /// The line's content then.
    then: Vec<u8>,
}

fn read(device: &dyn BlockDevice) -> Vec<u8> {
    let mut content = vec![0; device.size() as usize];
    device.read(0, &mut content).unwrap();
    content
}

fn fill(content: &mut [u8], offset: usize, byte: u8, len: usize) {
    content[offset..offset + len].fill(byte);
}

impl Story {
    async fn new() -> Self {
        Self::of(World::new()).await
    }

    async fn of(w: World) -> Self {
        let old = w.agent();
        let mut spec = w.spec("web-1", old, 1);
        w.site.ensure_server(&spec).await.unwrap();
        let mut line = Wire::hello(&w.site, old, spec.id, (1, 1), &[]).await.unwrap();
        line.send(1, &[announce(), data(0, 1, 4096), data(100_000, 2, 5000), barrier()]).await;
        // Content after the last barrier belongs to the base too.
        let base = line.send(2, &[data(8192, 3, 512)]).await;
        line.acked(base).await;
        drop(line);
        let mut then = vec![0; SIZE as usize];
        fill(&mut then, 0, 1, 4096);
        fill(&mut then, 100_000, 2, 5000);
        fill(&mut then, 8192, 3, 512);
        (spec.epoch, spec.active) = (Epoch(2), false);
        w.site.ensure_server(&spec).await.unwrap();
        Self { w, spec, old, base, then }
    }

    async fn stale(&self, instance: u64, lineage: &[u64]) -> Result<Wire, No> {
        Wire::hello(&self.w.site, self.old, self.spec.id, (instance, 1), lineage).await
    }

    async fn branches(&self) -> Vec<BranchInfo> {
        SitePort::branches(&self.w.site, self.spec.id).await.unwrap()
    }

    /// The newest state of a branch, as a mount would serve it.
    fn content(&self, id: &str) -> Vec<u8> {
        let branch = self.w.site.branch(self.spec.id, id).unwrap();
        let cell = branch.cell.as_ref().unwrap();
        let line = self.w.site.cell(self.spec.id).unwrap();
        let below = Arc::new(line.reader.open_at(DISK, branch.about.base).unwrap());
        let newest = cell.reader.usage().newest.unwrap();
        read(&cell.reader.open_over(below, newest.id.seq).unwrap())
    }

    /// Everything of the line: points and content.
    fn line(&self) -> (Vec<lifeboat_journal::PointInfo>, Vec<u8>, Seq) {
        let cell = self.w.site.cell(self.spec.id).unwrap();
        let points = cell.reader.points(&lifeboat_journal::PointQuery { limit: 1000, ..Default::default() });
        (points, read(&cell.reader.open_live(DISK).unwrap()), cell.reader.durable_seq())
    }
}

/// I4, failures 13 and 22.
#[tokio::test]
async fn a_stale_writers_data_is_a_branch_and_the_line_does_not_change() {
    let s = Story::new().await;
    let before = s.line();
    let mut stale = s.stale(1, &[]).await.unwrap();
    assert!(stale.welcome.branch && stale.welcome.same_writer && stale.welcome.has_content);
    assert_eq!(stale.welcome.durable, s.base.0, "its numbers go on");
    let last = stale.send(3, &[zero(0, 1024), data(100_100, 9, 100), data(200_000, 8, 512), barrier()]).await;
    stale.acked(last).await;
    assert_eq!(s.line(), before, "byte for byte");

    let mut wanted = s.then.clone();
    fill(&mut wanted, 0, 0, 1024);
    fill(&mut wanted, 100_100, 9, 100);
    fill(&mut wanted, 200_000, 8, 512);
    let [b] = &s.branches().await[..] else { panic!("one branch") };
    assert!(s.content(&b.id) == wanted, "its own writes, zeros too, over what was before");
    assert_eq!((b.id.as_str(), b.epoch, b.base.seq), ("b1.0000", 1, s.base));
    assert_eq!((b.records, b.content_bytes, b.mountable), (3, 612, true));
    assert_eq!(s.w.site.runtime(s.spec.id).unwrap().branches, 1);
    assert!(s.w.noted("branch.begun web-1 begun: b1.0000"));

    // A session of the new epoch does not touch it, nor it that one.
    let mut spec = s.spec.clone();
    spec.active = true;
    s.w.site.ensure_server(&spec).await.unwrap();
    let mut new = Wire::hello(&s.w.site, s.old, spec.id, (2, 2), &[]).await.unwrap();
    assert!(!new.welcome.branch && new.welcome.durable == s.base.0);
    let line = new.send(4, &[announce(), data(0, 77, 512), barrier()]).await;
    new.acked(line).await;
    let last = stale.send(5, &[data(512, 5, 512), barrier()]).await;
    stale.acked(last).await;
    fill(&mut wanted, 512, 5, 512);
    assert!(s.content(&b.id) == wanted);
    assert_eq!(s.line().1[..1024], [[77; 512], [1; 512]].concat());
}

/// Failure 3 and 22: killed in the middle, it goes on where it was.
#[tokio::test]
async fn a_branch_goes_on_after_a_restart_of_the_site() {
    let mut s = Story::new().await;
    let mut stale = s.stale(1, &[]).await.unwrap();
    let last = stale.send(3, &[data(0, 9, 512), barrier(), data(512, 10, 512)]).await;
    stale.acked(last).await;
    let spec = s.spec.clone();
    s.w.restart(&spec).await;
    let mut again = s.stale(1, &[]).await.unwrap();
    assert!(again.welcome.branch && again.welcome.same_writer);
    assert_eq!(again.welcome.durable, last.0);
    let last = again.send(4, &[data(1024, 11, 512), barrier()]).await;
    again.acked(last).await;
    let mut wanted = s.then.clone();
    for n in 0..3u8 {
        fill(&mut wanted, usize::from(n) * 512, 9 + n, 512);
    }
    let [b] = &s.branches().await[..] else { panic!("one branch") };
    assert!(s.content(&b.id) == wanted);
}

/// Failure 24: who is not known to follow the one before gets a branch of its own.
#[tokio::test]
async fn a_second_stale_writer_gets_a_second_branch_and_a_follower_goes_on() {
    let s = Story::new().await;
    let mut first = s.stale(1, &[]).await.unwrap();
    let last = first.send(3, &[data(0, 9, 512), barrier()]).await;
    first.acked(last).await;
    drop(first);
    // Restarted, with tracking of what the first had not seen acknowledged.
    let mut follower = s.stale(2, &[7, 1]).await.unwrap();
    assert!(follower.welcome.follows && !follower.welcome.same_writer);
    assert_eq!(follower.welcome.durable, last.0);
    let last = follower.send(4, &[announce(), data(512, 9, 512), barrier()]).await;
    follower.acked(last).await;

    let mut other = s.stale(0xabcd_0000_0000_0000, &[]).await.unwrap();
    assert!(!other.welcome.follows && !other.welcome.same_writer);
    assert_eq!(other.welcome.durable, s.base.0);
    let last = other.send(5, &[announce(), data(0, 66, 512), barrier()]).await;
    other.acked(last).await;
    let ids: Vec<String> = s.branches().await.into_iter().map(|b| b.id).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(s.content("b1.0000")[..1024], [9; 1024]);
    assert_eq!(s.content("b1.abcd")[..1024], [[66; 512], [1; 512]].concat());

    // One that said hello and sent nothing finds its own again.
    drop(s.stale(0x1234_0000_0000_0000, &[]).await.unwrap());
    drop(s.stale(0x1234_0000_0000_0000, &[]).await.unwrap());
    assert_eq!(s.branches().await.len(), 3);
}

#[tokio::test]
async fn only_the_agent_that_owned_the_server_then_may_leave_a_branch() {
    let mut s = Story::new().await;
    let mut spec = s.spec.clone();
    let new = s.w.agent();
    (spec.agent, spec.epoch, spec.active) = (new, Epoch(3), true);
    s.w.site.ensure_server(&spec).await.unwrap();
    s.w.restart(&spec).await;
    for epoch in [1, 2] {
        let no = Wire::hello(&s.w.site, new, spec.id, (5, epoch), &[]).await.err().unwrap();
        assert_eq!(no.code, RefuseCode::NotAssigned, "epoch {epoch} was another's");
    }
    let stale = Wire::hello(&s.w.site, s.old, spec.id, (1, 1), &[]).await.unwrap();
    assert!(stale.welcome.branch);
    let no = Wire::hello(&s.w.site, s.old, spec.id, (1, 3), &[]).await.err().unwrap();
    assert_eq!(no.code, RefuseCode::NotAssigned);
}

/// A sync into a branch sends only what differs from what is there, on it and below it.
#[tokio::test]
async fn offers_are_compared_with_the_branch_over_its_base() {
    let s = Story::new().await;
    let mut stale = s.stale(0x99, &[]).await.unwrap();
    let hashes = |content: &[u8]| content.chunks(1 << 16).map(hash_block).collect::<Vec<_>>();
    let then = hashes(&s.then);
    assert_eq!(then[2..], [ZERO_HASH; 2], "zeros have a hash of their own");
    assert_eq!(stale.offer(0, false, &then).await, [false; 4]);
    let last = stale.send(3, &[announce(), data(0, 9, 512), zero(65536, 65536), barrier()]).await;
    stale.acked(last).await;
    assert_eq!(stale.offer(0, true, &then).await, [true, true, false, false]);
    let mut now = s.then.clone();
    fill(&mut now, 0, 9, 512);
    let now = [hash_block(&now[..65536]), ZERO_HASH, ZERO_HASH, ZERO_HASH];
    assert_eq!(stale.offer(0, true, &now).await, [false; 4]);
}

#[tokio::test]
async fn a_branch_whose_base_left_the_window_is_listed_and_not_mountable() {
    let s = Story::new().await;
    let mut stale = s.stale(1, &[]).await.unwrap();
    let last = stale.send(3, &[data(0, 9, 512), barrier()]).await;
    stale.acked(last).await;
    let mut spec = s.spec.clone();
    spec.active = true;
    spec.window.seconds = 60;
    s.w.site.ensure_server(&spec).await.unwrap();
    let mut line = Wire::hello(&s.w.site, s.old, spec.id, (2, 2), &[]).await.unwrap();
    for n in 0..4 {
        s.w.clock.advance(Duration::from_secs(61));
        let seq = line.send(10 + n, &[data(0, n as u8, 512), barrier()]).await;
        line.acked(seq).await;
    }
    assert!(s.branches().await[0].mountable);
    // The smaller window counts at once, for a journal that is open.
    let cell = s.w.site.cell(spec.id).unwrap();
    cell.keeper.trim(&cell.keeper.plan_trim().unwrap()).unwrap();
    let [b] = &s.branches().await[..] else { panic!("still listed") };
    assert!(!b.mountable && b.content_bytes == 512);
    let e = s.w.site.mount_branch(spec.id, "web-1", &b.id, false).await.err().unwrap();
    assert!(e.message.contains("has left the window"), "{e}");
    let last = stale.send(30, &[data(512, 9, 512), barrier()]).await;
    stale.acked(last).await;
}

#[tokio::test]
async fn a_mounted_branch_is_not_deleted_and_a_deleted_one_is_gone() {
    let mut s = Story::new().await;
    let mut stale = s.stale(1, &[]).await.unwrap();
    let id = s.branches().await[0].id.clone();
    let e = s.w.site.mount_branch(s.spec.id, "web-1", &id, false).await.err().unwrap();
    assert!(e.message.contains("nothing whole has arrived"), "{e}");
    let last = stale.send(3, &[data(0, 9, 512), barrier()]).await;
    stale.acked(last).await;
    let mount = s.w.site.mount_branch(s.spec.id, "web-1", &id, true).await.unwrap();
    assert_eq!((mount.disks.len(), mount.disks[0].size, mount.point.id.seq), (1, SIZE, last));
    let e = s.w.site.delete_branch(s.spec.id, &id).await.err().unwrap();
    assert_eq!(e.code, ErrorCode::Conflict);
    s.w.site.unmount(&mount.id).await.unwrap();
    s.w.site.delete_branch(s.spec.id, &id).await.unwrap();
    assert_eq!(stale.ended().await.code, RefuseCode::StaleEpoch);
    assert!(s.branches().await.is_empty());
    // Its writer tries again at once, as it was told to; a process that follows it does too.
    for (instance, lineage) in [(1, &[][..]), (7, &[1][..])] {
        let no = s.stale(instance, lineage).await.err().unwrap();
        assert!(no.code == RefuseCode::StaleEpoch && no.message.contains("deleted"), "{}", no.message);
    }
    assert!(s.branches().await.is_empty());
    assert_eq!(s.w.site.delete_branch(s.spec.id, &id).await.err().unwrap().code, ErrorCode::NotFound);
    let spec = s.spec.clone();
    s.w.restart(&spec).await;
    assert!(s.branches().await.is_empty());
    let point = s.w.site.cell(spec.id).unwrap().reader.resolve(&PointSpec::Latest).unwrap();
    assert!(point.id.seq < s.base);
}

#[tokio::test]
async fn branches_are_few_and_leave_room() {
    let s = Story::new().await;
    for n in 1..=MAX_BRANCHES as u64 {
        drop(s.stale(n << 48, &[]).await.unwrap());
    }
    let no = s.stale(99 << 48, &[]).await.err().unwrap();
    assert_eq!(no.code, RefuseCode::Storage);
    assert!(no.message.contains("delete some"), "{}", no.message);
    assert!(s.stale(3 << 48, &[]).await.is_ok(), "one that has its branch goes on");
    let taken = |id: &str| id.len() < 9;
    assert_eq!(Branch::name(Epoch(3), 0x7f3a_1122_3344_5566, |_| false).unwrap(), "b3.7f3a");
    assert_eq!(Branch::name(Epoch(3), 0x7f3a_1122_3344_5566, taken).unwrap(), "b3.7f3a11");
    assert_eq!(Branch::name(Epoch(3), 5, |_| true), None);
}

#[tokio::test]
async fn a_disk_that_is_almost_full_takes_no_branch_and_says_so() {
    assert!(roomy(0, 0) && roomy(10, 100) && !roomy(9, 100) && roomy(u64::MAX, u64::MAX));
    let mut w = World::new();
    Arc::get_mut(&mut w.site.0).unwrap().space = |_| (9 << 30, 100 << 30);
    let s = Story::of(w).await;
    let before = s.line();
    let no = s.stale(1, &[]).await.err().unwrap();
    assert_eq!(no.code, RefuseCode::Storage);
    assert!(no.message.contains("make room, or delete branches"), "{}", no.message);
    assert!(s.branches().await.is_empty());
    assert_eq!(s.line(), before);
}

/// Failures 1, 8 and 9 on the way into a branch: what it acknowledged is there, and the line was never touched.
#[tokio::test]
async fn a_branch_that_fails_at_any_call_loses_nothing_acknowledged_and_harms_no_line() {
    use crate::server::{Job, ServerCore, SessionOut, journal_config};
    use lifeboat_block::Record;
    use tokio::sync::{mpsc, oneshot, watch};
    let s = Story::new().await;
    let before = s.line();
    let line = s.w.site.cell(s.spec.id).unwrap();
    let mut spec = s.spec.clone();
    spec.epoch = Epoch(1);
    let open = |journal: &MemoryStorage, own: &MemoryStorage| {
        ServerCore::open_branch(
            &OpenServer {
                beyond: None,
                storage: ServerStorage { journal: Arc::new(journal.clone()), own: Arc::new(own.clone()) },
                key: s.w.site.journal_key.clone(),
                spec: &spec,
                config: journal_config(&spec.window),
                clock: s.w.clock.clone(),
                entropy: s.w.entropy.clone(),
            },
            Trunk { line: line.reader.clone(), base: s.base },
        )
    };
    for errno in [5, 28] {
        for nth in 1.. {
            let (journal, own) = (MemoryStorage::new(), MemoryStorage::new());
            journal.fail(StorageFault { call: None, nth, forever: false, errno, half: true });
            let mut acknowledged = s.base;
            let mut work = || {
                let (mut core, _queue) = open(&journal, &own).ok()?;
                let (acks, heard) = watch::channel(Default::default());
                let (answers, _answers) = mpsc::channel(1);
                let (end, ended) = watch::channel(None);
                let (reply, mut opened) = oneshot::channel();
                let out = SessionOut { acks, answers, end };
                let disks =
                    vec![lifeboat_replicate::message::Disk { index: 0, name: "d".into(), size: SIZE }];
                let lineage = Vec::new();
                core.handle(Job::Open {
                    session: 1,
                    instance: 1,
                    lineage,
                    epoch: Epoch(1),
                    disks,
                    out,
                    reply,
                });
                let (welcome, _) = opened.try_recv().ok()?.ok()?;
                assert!(welcome.branch && welcome.durable == s.base.0);
                for n in 1..=6u64 {
                    let body = if n % 2 == 0 { barrier() } else { data(n * 512, n as u8, 512) };
                    let seq = Seq(s.base.0 + n);
                    let record = Record { epoch: Epoch(1), seq, time: WallTime(n), body };
                    core.handle(Job::Records { session: 1, records: vec![record], room: None });
                    core.commit();
                    acknowledged = acknowledged.max(heard.borrow().durable);
                    if ended.borrow().is_some() {
                        return None;
                    }
                }
                core.close().ok()
            };
            let whole = work().is_some();
            let reached = journal.calls() >= nth;
            for left in [journal.after_power_loss(), journal.after_kill()] {
                let (core, _queue) = open(&left, &own.after_kill()).unwrap();
                let reader = &core.cell().reader;
                assert!(reader.durable_seq() >= acknowledged, "call {nth}");
                let below = Arc::new(line.reader.open_at(DISK, s.base).unwrap());
                let content = read(&reader.open_over(below, reader.durable_seq()).unwrap());
                let mut wanted = s.then.clone();
                for n in (1..=6u64).filter(|n| n % 2 == 1 && s.base.0 + n <= reader.durable_seq().0) {
                    fill(&mut wanted, n as usize * 512, n as u8, 512);
                }
                assert!(content == wanted, "call {nth}");
            }
            assert_eq!(s.line(), before);
            if !reached {
                assert!(whole);
                break;
            }
        }
    }
}
