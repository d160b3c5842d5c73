//! The site with a vault: agents that speak the protocol, a store that may be away.
#![allow(clippy::unwrap_used)]

mod bad_days;

use super::*;
use crate::port::SiteHandle;
use crate::testing::*;
use bytes::Bytes;
use lifeboat_api::port::{ServerSpec, SitePort, VaultPort};
use lifeboat_api::types::{
    Catalogue, HoldRequest, PointInfo, RetentionRule, VaultJobRequest, VaultJobResult, VaultJobState,
    VaultState,
};
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{AgentId, Entropy, PointId};
use lifeboat_block::{Body, Codec};
use lifeboat_replicate::wire::hash_block;
use lifeboat_vault::Owner;
use lifeboat_vault::store::memory::MemoryStore;

const B: u64 = BLOCK as u64;
const KEY: [u8; 32] = [6; 32];

struct Vaulted {
    w: World,
    store: Arc<MemoryStore>,
}

fn settings(store: &Arc<MemoryStore>) -> VaultSettings {
    VaultSettings {
        index: None,
        base_bytes: 1,
        scrub_rate: 0,
        ..VaultSettings::new(store.clone(), vec![Secret(KEY)], PathBuf::new())
    }
}

impl Vaulted {
    fn new() -> Self {
        let mut w = World::new();
        let store = Arc::new(MemoryStore::new("memory"));
        Vault::create(&*store, &Secret(KEY), &*w.clock, &*w.entropy).unwrap();
        w.clock.set_wall(WallTime(1_790_000_000_000_000_000));
        w.site = open_site_with(w.dir.path(), &w.clock, &w.entropy, Some(settings(&store)));
        w.site.set_control(w.control.clone());
        let v = Self { w, store };
        v.open();
        v
    }

    fn open(&self) {
        self.w.site.vault.open_now().unwrap();
    }

    fn site(&self) -> &SiteHandle {
        &self.w.site
    }

    async fn server(&self, name: &str) -> (ServerSpec, AgentId) {
        let agent = self.w.agent();
        let mut spec = self.w.spec(name, agent, 1);
        spec.window.seconds = 60;
        self.site().ensure_server(&spec).await.unwrap();
        (spec, agent)
    }

    /// Everything ends in order and starts again over the same directory and store.
    async fn restart(&mut self, specs: &[&ServerSpec], vault: bool) {
        self.w.site.shutdown().await;
        let w = &self.w;
        self.w.site = open_site_with(w.dir.path(), &w.clock, &w.entropy, Some(settings(&self.store)));
        self.w.site.set_control(self.w.control.clone());
        if vault {
            self.open();
        }
        for spec in specs {
            let open = async {
                while let Err(e) = self.w.site.ensure_server(spec).await {
                    assert!(e.message.contains("open in another process"), "{e}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, open).await.unwrap();
        }
    }

    /// Until nobody has anything to do.
    async fn tier(&self) {
        for _ in 0..200 {
            if !self.site().tier_round().await {
                return;
            }
        }
        panic!("tiering comes to no rest");
    }

    async fn points(&self, spec: &ServerSpec) -> Vec<PointInfo> {
        self.site().points(spec.id, None, None, 1000).await.unwrap()
    }

    fn content(&self, spec: &ServerSpec, point: PointId) -> Vec<u8> {
        let device = self.site().open_disk(spec.id, point, DISK).unwrap();
        let mut content = vec![0xee; device.size() as usize];
        device.read(0, &mut content).unwrap();
        content
    }

    async fn job(&self, request: VaultJobRequest) -> VaultJobResult {
        let id = self.site().start(request).await.unwrap().id;
        let wait = async {
            loop {
                let job = self.site().job(&id).unwrap();
                if job.state != VaultJobState::Running {
                    break job;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let job = tokio::time::timeout(PATIENCE, wait).await.unwrap();
        assert_eq!(job.state, VaultJobState::Succeeded, "{:?}", job.error);
        job.result.unwrap()
    }
}

fn block(seed: u8) -> Vec<u8> {
    (0..BLOCK).map(|n| (n as u32).wrapping_mul(u32::from(seed) * 2 + 1).wrapping_add(7) as u8).collect()
}

fn bytes(offset: u64, content: &[u8]) -> Body {
    let crc = crc32c::crc32c(content);
    let payload = Bytes::copy_from_slice(content);
    Body::Data { disk: DISK, offset, len: content.len() as u32, codec: Codec::Raw, crc, payload }
}

fn now(v: &Vaulted) -> u64 {
    use lifeboat_base::Clock;
    v.w.clock.wall().0
}

/// A server with these blocks and one point.
async fn filled(v: &Vaulted, name: &str, blocks: &[u8]) -> (ServerSpec, AgentId, Wire, PointId) {
    let (spec, agent) = v.server(name).await;
    let mut wire = Wire::hello(v.site(), agent, spec.id, (1, 1), &[]).await.ok().unwrap();
    let mut bodies = vec![announce()];
    bodies.extend(blocks.iter().enumerate().map(|(n, seed)| bytes(n as u64 * B, &block(*seed))));
    bodies.push(barrier());
    let last = wire.send(now(v), &bodies).await;
    wire.acked(last).await;
    let point = PointId { epoch: wire.epoch, seq: last };
    (spec, agent, wire, point)
}

/// Ten clones of an image: their blocks are offered, found in the vault, and never sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_vault_has_is_not_asked_for_again() {
    let mut v = Vaulted::new();
    let (first, ..) = filled(&v, "web-1", &[1, 2, 3]).await;
    v.tier().await;
    let used = v.store.used();
    let hashes: Vec<[u8; 32]> = [1, 2, 3].iter().map(|s| hash_block(&block(*s))).collect();
    let mut clones = Vec::new();
    for n in 0..10 {
        let (spec, agent) = v.server(&format!("clone-{n}")).await;
        let mut wire = Wire::hello(v.site(), agent, spec.id, (5, 1), &[]).await.ok().unwrap();
        let last = wire.send(now(&v), &[announce()]).await;
        wire.acked(last).await;
        assert_eq!(wire.offer(0, false, &hashes).await, [false; 3], "all of it is here");
        let cell = v.site().cell(spec.id).unwrap();
        assert_eq!(cell.supplied.load(std::sync::atomic::Ordering::Relaxed), 3 * B);
        // The session breaks before a barrier: what was called present is, and the site does not count as empty.
        drop(wire);
        let mut wire = Wire::hello(v.site(), agent, spec.id, (5, 1), &[]).await.ok().unwrap();
        assert!(wire.welcome.has_content && wire.welcome.same_writer);
        let last = wire.send(now(&v), &[barrier()]).await;
        wire.acked(last).await;
        clones.push((spec, PointId { epoch: wire.epoch, seq: last }));
    }
    let specs: Vec<&ServerSpec> = clones.iter().map(|(s, _)| s).chain([&first]).collect();
    v.restart(&specs, true).await;
    v.tier().await;
    let image: Vec<u8> = [1, 2, 3].iter().flat_map(|s| block(*s)).chain(vec![0; BLOCK]).collect();
    for (spec, point) in &clones {
        assert!(v.content(spec, *point) == image, "{}", spec.name);
    }
    let added = v.store.used() - used;
    assert!(added < 10 * 6000, "ten clones took {added} bytes more");
    println!("one image {used} bytes stored, ten clones {added} more, 0 content bytes on the wire");
}

/// I1: a block that was written while it was read is offered with a hash from before; the write is what counts.
#[tokio::test(flavor = "multi_thread")]
async fn i1_an_old_hash_never_overtakes_a_write() {
    let v = Vaulted::new();
    filled(&v, "web-1", &[1, 2]).await;
    v.tier().await;
    let (spec, agent) = v.server("web-2").await;
    let mut wire = Wire::hello(v.site(), agent, spec.id, (5, 1), &[]).await.ok().unwrap();
    wire.send(now(&v), &[announce(), data(512, 9, 512)]).await;
    let hashes = [hash_block(&block(1)), hash_block(&block(2))];
    assert_eq!(wire.offer(0, false, &hashes).await, [true, false], "the first was touched");
    assert_eq!(wire.offer(0, true, &hashes).await, [true, false], "and in a comparison, by its content");
    let last = wire.send(now(&v), &[barrier()]).await;
    wire.acked(last).await;
    let content = v.content(&spec, PointId { epoch: wire.epoch, seq: last });
    assert!(content[512..1024] == [9; 512] && content[BLOCK..2 * BLOCK] == block(2)[..]);
    assert_eq!(content[..512], [0; 512]);
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_left_the_journal_are_found_and_open() {
    let mut v = Vaulted::new();
    let (mut spec, agent, mut wire, first) = filled(&v, "web-1", &[1]).await;
    spec.retention = RetentionSpec {
        preset: RetentionPreset::Own,
        rules: vec![RetentionRule { every_seconds: 60, keep_seconds: 3600 }],
        lock_seconds: 0,
    };
    v.site().ensure_server(&spec).await.unwrap();
    let mut points = vec![(first, 1, now(&v))];
    for seed in 2..8 {
        v.tier().await;
        v.w.clock.advance(Duration::from_secs(61));
        let last = wire.send(now(&v), &[bytes(0, &block(seed)), barrier()]).await;
        wire.acked(last).await;
        points.push((PointId { epoch: wire.epoch, seq: last }, seed, now(&v)));
    }
    v.tier().await;
    drop(wire);
    // The segment is finished, the window is a minute: the base moves.
    v.restart(&[&spec], true).await;
    v.w.clock.advance(Duration::from_secs(90));
    let mut wire = Wire::hello(v.site(), agent, spec.id, (1, 1), &[]).await.ok().unwrap();
    let last = wire.send(now(&v), &[barrier()]).await;
    wire.acked(last).await;
    v.w.clock.advance(Duration::from_secs(90));
    let last = wire.send(now(&v), &[barrier()]).await;
    wire.acked(last).await;
    v.tier().await;
    let cell = v.site().cell(spec.id).unwrap();
    assert!(cell.reader.base().is_some(), "the journal stands on the vault");
    let listed = v.points(&spec).await;
    for (id, seed, time) in &points {
        let p = listed.iter().find(|p| p.id == *id).unwrap_or_else(|| panic!("{id} is gone: {listed:?}"));
        assert!(p.vault.is_some(), "{p:?}");
        let by_time = v.site().resolve_point(spec.id, &WallTime(*time).to_string()).await.unwrap();
        assert_eq!(by_time.id, *id, "found by its time");
        assert!(v.content(&spec, *id)[..BLOCK] == block(*seed)[..], "{id}");
    }
    assert!(listed.windows(2).all(|w| w[0].id > w[1].id), "newest first, each once");
    let gone: Vec<_> = listed.iter().filter(|p| !p.journal).collect();
    assert!(!gone.is_empty() && listed[0].journal, "{listed:?}");
    let runtime = v.site().runtime(spec.id).unwrap();
    assert_eq!((runtime.oldest.unwrap().id, runtime.latest.unwrap().id), (first, listed[0].id));
    // A mount keeps its snapshot.
    let mount = v.site().mount(spec.id, "web-1", first, false).await.unwrap();
    assert_eq!(mount.disks.len(), 1);
    let vault = v.site().vault.open().unwrap();
    let snapshot = v.site().vault.snapshot_of(&vault, spec.id, first).unwrap();
    assert!(v.site().vault.uses.all().contains(&snapshot.id));
    v.site().unmount(&mount.id).await.unwrap();
    assert!(!v.site().vault.uses.all().contains(&snapshot.id));
}

/// Failure 18: a vault that is away keeps nothing else from working, and is caught up with when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_away_stops_nothing_else() {
    let mut v = Vaulted::new();
    let (spec, agent, wire, first) = filled(&v, "web-1", &[1]).await;
    v.tier().await;
    drop(wire);
    v.store.cut();
    v.restart(&[&spec], false).await;
    assert!(v.site().vault.open_now().is_err());
    let status = VaultPort::status(v.site());
    assert_eq!(status.state, VaultState::Unavailable, "{status:?}");
    assert!(!status.copies[0].reachable && status.reason.unwrap().contains("tried again"));
    let mut wire = Wire::hello(v.site(), agent, spec.id, (1, 1), &[]).await.ok().unwrap();
    let last = wire.send(now(&v), &[bytes(B, &block(2)), barrier()]).await;
    wire.acked(last).await;
    assert!(!v.site().tier_round().await);
    assert_eq!(v.points(&spec).await.len(), 2, "the journal's points are there");
    assert!(v.content(&spec, first)[..BLOCK] == block(1)[..]);
    assert_eq!(
        v.site().hold_point(spec.id, first, HoldRequest::default()).await.unwrap_err().code,
        ErrorCode::Unavailable
    );
    v.store.restore();
    v.open();
    assert_eq!(VaultPort::status(v.site()).state, VaultState::Ready);
    v.w.clock.advance(Duration::from_secs(700));
    let last = wire.send(now(&v), &[barrier()]).await;
    wire.acked(last).await;
    v.tier().await;
    assert_eq!(v.points(&spec).await.iter().filter(|p| p.vault.is_some()).count(), 2);
}

/// Failure 18: of many servers one finds out that the store does not answer, and the others do not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_asked_for_one_server() {
    let v = Vaulted::new();
    let mut wires = Vec::new();
    for n in 0..5 {
        wires.push(filled(&v, &format!("web-{n}"), &[1]).await);
    }
    v.store.cut();
    let calls = v.store.calls();
    v.site().tier_round().await;
    let first = v.store.calls() - calls;
    v.site().tier_round().await;
    assert_eq!(v.store.calls() - calls, first, "asked once");
    assert!(first < 5, "{first}");
    v.store.restore();
    v.w.clock.advance(Duration::from_secs(31));
    v.tier().await;
    for (spec, ..) in &wires {
        assert_eq!(v.points(spec).await.iter().filter(|p| p.vault.is_some()).count(), 1, "{}", spec.name);
    }
}

/// Failure 18: what is offered lies in a base whose store does not answer. The stream and its acknowledgements go on, the
/// source is asked for what cannot be compared, and nobody asks that store again before it answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_holds_up_no_stream() {
    let mut v = Vaulted::new();
    let (spec, agent, wire, _) = filled(&v, "web-1", &[1, 2, 3]).await;
    v.tier().await;
    drop(wire);
    v.restart(&[&spec], true).await;
    let mut wire = Wire::hello(v.site(), agent, spec.id, (1, 1), &[]).await.ok().unwrap();
    for _ in 0..2 {
        v.w.clock.advance(Duration::from_secs(700));
        let last = wire.send(now(&v), &[barrier()]).await;
        wire.acked(last).await;
    }
    v.tier().await;
    assert!(v.site().cell(spec.id).unwrap().reader.base().is_some());
    drop(wire);
    v.restart(&[&spec], true).await;
    let hashes: Vec<[u8; 32]> = [1, 9, 3].iter().map(|s| hash_block(&block(*s))).collect();
    let (gate, closed) = std::sync::mpsc::channel::<()>();
    let (closed, asked) = (Mutex::new(closed), Arc::new(Mutex::new(Vec::new())));
    let names = Arc::clone(&asked);
    v.store.on_call(move |call| {
        let first = {
            let mut names = names.lock();
            names.push(call.name.clone());
            names.len() == 1
        };
        if first {
            let _ = closed.lock().recv();
        }
    });
    let mut wire = Wire::hello(v.site(), agent, spec.id, (7, 1), &[]).await.ok().unwrap();
    for n in 0..5 {
        assert_eq!(wire.offer(0, false, &hashes).await, [true; 3]);
        let last = wire.send(now(&v), &[bytes(3 * B, &block(20 + n))]).await;
        wire.acked(last).await;
    }
    assert_eq!(
        wire.offer(0, true, &hashes).await,
        [false; 3],
        "what cannot be compared is not called different"
    );
    assert_eq!(asked.lock().len(), 1, "one waits, nobody else asks");
    drop(gate);
    let answered = async {
        while wire.offer(0, false, &hashes).await != [false, true, false] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap();
    // The map's nodes tell it: no content was read.
    let packs = v.site().vault.open().unwrap().index().packs().unwrap();
    let content = packs.iter().filter(|p| p.kind == lifeboat_vault::Kind::Data);
    let read = |id: String| asked.lock().iter().any(|name| name.ends_with(&id));
    assert!(content.clone().count() > 0 && !content.clone().any(|p| read(p.id.to_string())));
}

/// Failure 9: nothing goes into the vault for long; the journal stays within its bytes, and that is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_past_its_bytes_folds_when_the_vault_is_away() {
    let mut v = Vaulted::new();
    let (mut spec, agent, mut wire, _) = filled(&v, "web-1", &[1]).await;
    spec.window.bytes = 200 << 10;
    for round in 0..4u8 {
        for n in 0..4u8 {
            let mut content = vec![0; BLOCK];
            v.w.entropy.fill(&mut content);
            let last =
                wire.send(now(&v), &[bytes(0, &content), bytes(B, &block(round + n)), barrier()]).await;
            wire.acked(last).await;
            v.w.clock.advance(Duration::from_secs(10));
        }
        drop(wire);
        v.store.restore();
        v.restart(&[&spec], true).await;
        v.store.cut();
        wire = Wire::hello(v.site(), agent, spec.id, (1, 1), &[]).await.ok().unwrap();
        let last = wire.send(now(&v), &[barrier()]).await;
        wire.acked(last).await;
        v.site().tier_round().await;
    }
    let cell = v.site().cell(spec.id).unwrap();
    assert!(cell.reader.usage().bytes < 700 << 10, "{:?}", cell.reader.usage());
    let told = cell.watched.lock().troubles.newest(Duration::ZERO).unwrap().to_owned();
    assert!(told.contains("nothing goes into the vault"), "{told}");
    let newest = v.points(&spec).await[0].id;
    assert!(v.content(&spec, newest)[BLOCK..2 * BLOCK] == block(6)[..]);
}

/// Failure 36: what is held by a name or a lock stays, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn held_points_are_in_the_vault_and_stay() {
    let v = Vaulted::new();
    let (spec, _, mut wire, _) = filled(&v, "web-1", &[1]).await;
    v.tier().await;
    v.w.clock.advance(Duration::from_secs(5));
    let last = wire.send(now(&v), &[bytes(B, &block(3)), barrier()]).await;
    wire.acked(last).await;
    let point = PointId { epoch: wire.epoch, seq: last };
    let name = |n: &str| HoldRequest { name: Some(n.into()), ..HoldRequest::default() };
    let held = VaultPort::hold_point(v.site(), spec.id, point, name("before-upgrade")).await.unwrap();
    assert!(held.journal && held.vault.as_ref().unwrap().keep_until.is_none());
    assert_eq!(v.site().resolve_point(spec.id, "before-upgrade").await.unwrap().id, point);
    assert!(v.site().resolve_point(spec.id, "after-upgrade").await.is_err());
    let first = v.points(&spec).await.pop().unwrap().id;
    let twice = VaultPort::hold_point(v.site(), spec.id, first, name("before-upgrade")).await.unwrap_err();
    assert_eq!(twice.code, ErrorCode::Conflict);
    assert!(v.site().0.may_forget(spec.id).unwrap_err().message.contains("before-upgrade"));

    let lock = HoldRequest { release: true, lock_seconds: Some(3600), ..HoldRequest::default() };
    let locked = VaultPort::hold_point(v.site(), spec.id, point, lock).await.unwrap().vault.unwrap();
    assert_eq!((locked.name, locked.locked_until.map(|t| t.0)), (None, Some(now(&v) + 3600 * 1_000_000_000)));
    let refused = v.site().0.may_forget(spec.id).unwrap_err();
    assert!(refused.message.contains("locked until"), "{refused}");
    assert!(v.site().forget_server(spec.id).await.is_err(), "and the points stay");
    let vault = v.site().vault.open().unwrap();
    assert_eq!(vault.snapshots_of(&Owner::Server(spec.id)).len(), 2);
    // Failure 17: the machine's clock ten years on ends no lock.
    v.w.clock.set_wall(WallTime(now(&v) + 10 * 366 * 86_400 * 1_000_000_000));
    assert!(v.site().0.may_forget(spec.id).is_err());
    assert!(VaultPort::status(v.site()).reason.unwrap().contains("clock"));
    v.w.clock.advance(Duration::from_secs(3601));
    v.site().0.may_forget(spec.id).unwrap();
    v.site().forget_server(spec.id).await.unwrap();
    assert!(vault.snapshots_of(&Owner::Server(spec.id)).is_empty());
}

/// A new site over the same vault: points of servers it has no journal of.
/// The worker and a person put one point into the vault at the same time: what is held of it is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_is_there_twice_is_the_one_that_is_held() {
    let v = Vaulted::new();
    let (spec, _, _wire, point) = filled(&v, "web-1", &[1]).await;
    let vault = v.site().vault.open().unwrap();
    let cell = v.site().cell(spec.id).unwrap();
    let pace = v.site().tier_pace(&cell);
    let tier = Tier { vault: &vault, server: spec.id, reader: &cell.reader, pace: &pace };
    let info = cell.reader.resolve(&lifeboat_base::point::PointSpec::Id(point)).unwrap();
    let made: Vec<_> =
        (0..3).map(|n| v.site().put_point(&tier, &spec, &info, WallTime(now(&v) + n)).unwrap()).collect();
    for held in &made {
        let hold = lifeboat_vault::Hold { name: Some("kept".into()), ..Default::default() };
        vault.set_hold(&held.id, hold).unwrap();
        assert_eq!(v.site().vault.snapshot_of(&vault, spec.id, point).unwrap().id, held.id);
        let listed = v.points(&spec).await;
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].vault.as_ref().unwrap().name.as_deref(), Some("kept"));
        vault.set_hold(&held.id, lifeboat_vault::Hold::default()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_vault_gives_every_point() {
    let v = Vaulted::new();
    let (spec, _, _wire, point) = filled(&v, "web-1", &[1, 2]).await;
    v.tier().await;
    let catalogue = Catalogue {
        site: "a".into(),
        written: WallTime(1),
        agents: Vec::new(),
        servers: Vec::new(),
        groups: Vec::new(),
        backup_sets: Vec::new(),
    };
    v.site().put_catalogue(&catalogue).await.unwrap();
    let objects = v.store.names().len();
    v.site().put_catalogue(&Catalogue { written: WallTime(2), ..catalogue.clone() }).await.unwrap();
    assert_eq!(v.store.names().len(), objects, "nothing but the time differs");
    for n in 0..8 {
        v.site().put_catalogue(&Catalogue { site: format!("b{n}"), ..catalogue.clone() }).await.unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let other = open_site_with(dir.path(), &v.w.clock, &v.w.entropy, Some(settings(&v.store)));
    other.vault.open_now().unwrap();
    assert_eq!(VaultPort::catalogue(&other).await.unwrap().unwrap().site, "b7");
    let listed = other.points(spec.id, None, None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|p| p.id).collect::<Vec<_>>(), [point]);
    assert!(!listed[0].journal);
    let device = other.open_disk(spec.id, point, DISK).unwrap();
    let mut content = vec![0; 2 * BLOCK];
    device.read(0, &mut content).unwrap();
    assert!(content[..BLOCK] == block(1)[..] && content[BLOCK..] == block(2)[..]);
    // Known again, in a later epoch: the old points stay, and a stream begins anew from what the vault has.
    let again = ServerSpec { epoch: lifeboat_base::Epoch(2), ..spec.clone() };
    other.ensure_server(&again).await.unwrap();
    other.set_control(v.w.control.clone());
    assert_eq!(other.resolve_point(spec.id, "latest").await.unwrap().id, point);
    let mut wire = Wire::hello(&other, spec.agent, spec.id, (9, 2), &[]).await.ok().unwrap();
    let last = wire.send(now(&v), &[announce()]).await;
    wire.acked(last).await;
    let hashes = [hash_block(&block(1)), hash_block(&block(2))];
    assert_eq!(wire.offer(0, false, &hashes).await, [false, false]);
    let last = wire.send(now(&v), &[barrier()]).await;
    wire.acked(last).await;
    let latest = other.resolve_point(spec.id, "latest").await.unwrap().id;
    assert_eq!(latest, PointId { epoch: wire.epoch, seq: last });
    // Nobody knows how long the vault stood still: nothing expires by this clock until a person accepts it.
    v.w.clock.advance(Duration::from_secs(30 * 86_400));
    let third = open_site_with(
        tempfile::tempdir().unwrap().path(),
        &v.w.clock,
        &v.w.entropy,
        Some(settings(&v.store)),
    );
    third.vault.open_now().unwrap();
    let status = VaultPort::status(&third);
    assert_eq!(status.state, VaultState::Degraded);
    assert!(status.reason.unwrap().contains("lifeboat vault clock --accept"));
    let clock = third.clock().unwrap();
    assert!(clock.counted < clock.machine && clock.report.is_some());
    let clock = third.accept_clock().await.unwrap();
    assert_eq!((clock.counted, clock.report), (clock.machine, None));
    assert_eq!(VaultPort::status(&third).state, VaultState::Ready);
    // The other site's base is not this one's to delete.
    assert!(!other.tier_round().await || other.vault.open().is_ok());
}

/// Row 36: what is locked here is locked in a store that has locks, too, also after a restart and where it failed at first.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_locked_here_is_locked_in_the_store() {
    use lifeboat_vault::StoreError;
    let mut v = Vaulted::new();
    let store = Arc::new(MemoryStore::with_locks("locking", v.w.clock.clone() as Arc<dyn Clock>));
    Vault::create(&*store, &Secret(KEY), &*v.w.clock, &*v.w.entropy).unwrap();
    v.store = store;
    v.restart(&[], true).await;
    let (spec, _, _wire, point) = filled(&v, "web-1", &[1, 2]).await;
    v.tier().await;
    assert!(v.site().lock_due(), "nothing is locked");
    let lock = HoldRequest { lock_seconds: Some(3 * 86_400), ..HoldRequest::default() };
    v.site().hold_point(spec.id, point, lock).await.unwrap();
    let packs: Vec<_> = v.store.names().into_iter().filter(|n| n.as_str().starts_with("packs/")).collect();
    v.site().vault.ask_copies();
    v.store.cut();
    assert!(!v.site().lock_due());
    let status = VaultPort::status(v.site());
    assert!(status.reason.unwrap().contains("locks cannot be set in the store"));
    v.store.restore();
    v.restart(&[&spec], true).await;
    v.site().vault.ask_copies();
    assert!(v.site().lock_due());
    assert!(VaultPort::status(v.site()).reason.is_none());
    let locked = |name| matches!(v.store.delete(name), Err(StoreError::Locked { .. }));
    let (held, free): (Vec<_>, Vec<_>) = packs.iter().partition(|name| locked(name));
    assert!(!held.is_empty() && free.is_empty(), "{held:?} {free:?}");
    let calls = v.store.calls();
    assert!(v.site().lock_due());
    assert_eq!(v.store.calls(), calls, "once is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_look_at_the_vault_and_let_go_of_what_no_rule_keeps() {
    let v = Vaulted::new();
    let (mut spec, _, mut wire, first) = filled(&v, "web-1", &[1, 2]).await;
    v.tier().await;
    v.w.clock.advance(Duration::from_secs(3 * 86_400));
    let last = wire.send(now(&v), &[bytes(0, &block(9)), barrier()]).await;
    wire.acked(last).await;
    v.tier().await;
    let VaultJobResult::Check(report) = v.job(VaultJobRequest::Check { read_percent: 100 }).await else {
        panic!("a check's report");
    };
    assert!(report.findings.is_empty() && report.packs_read > 0, "{report:?}");
    let usage = VaultPort::usage(v.site(), true).await.unwrap();
    assert_eq!((usage.owners[0].owner.as_str(), usage.owners[0].points), ("web-1", 2));
    spec.retention = RetentionSpec { preset: RetentionPreset::None, ..RetentionSpec::default() };
    v.site().ensure_server(&spec).await.unwrap();
    let VaultJobResult::PrunePlan(plan) = v.job(VaultJobRequest::PrunePlan).await else { panic!("a plan") };
    assert_eq!(plan.forget_count, 1, "{plan:?}");
    assert!(plan.forget[0].starts_with(&format!("web-1 {first}")), "{plan:?}");
    let id = VaultPort::jobs(v.site())[0].id.clone();
    let VaultJobResult::Prune(done) = v.job(VaultJobRequest::Prune { plan: id.clone() }).await else {
        panic!("a report");
    };
    assert_eq!(done.forgotten, 1);
    let twice = v.site().start(VaultJobRequest::Prune { plan: id }).await.unwrap_err();
    assert_eq!(twice.code, ErrorCode::NotFound, "a plan is carried out once");
    let VaultJobResult::Check(report) = v.job(VaultJobRequest::Scrub).await else { panic!("a report") };
    assert!(report.findings.is_empty());
    assert!(matches!(v.job(VaultJobRequest::Reindex).await, VaultJobResult::Reindex { .. }));
    assert!(matches!(v.job(VaultJobRequest::Repair).await, VaultJobResult::Repair(r) if r.left.is_empty()));
    assert_eq!(VaultPort::rotate_key(v.site()).await.unwrap(), 2);
    let newest = v.points(&spec).await[0].id;
    assert!(v.content(&spec, newest)[..BLOCK] == block(9)[..]);
}

/// Failure 6: content the journal stands on is lost; the source still has it, and gives it back.
#[tokio::test(flavor = "multi_thread")]
async fn lost_content_comes_back_from_the_source() {
    let mut v = Vaulted::new();
    let (spec, agent, wire, _) = filled(&v, "web-1", &[1, 2]).await;
    drop(wire);
    v.restart(&[&spec], true).await;
    let mut wire = Wire::hello(v.site(), agent, spec.id, (1, 1), &[]).await.ok().unwrap();
    for _ in 0..2 {
        v.w.clock.advance(Duration::from_secs(90));
        let last = wire.send(now(&v), &[barrier()]).await;
        wire.acked(last).await;
    }
    v.tier().await;
    let cell = v.site().cell(spec.id).unwrap();
    assert!(cell.reader.base().is_some());
    let packs: Vec<_> = v.store.names().into_iter().filter(|n| n.as_str().starts_with("packs/")).collect();
    let vault = v.site().vault.open().unwrap();
    for info in vault.index().packs().unwrap() {
        if info.kind == lifeboat_vault::Kind::Data {
            let name = packs.iter().find(|n| n.as_str().ends_with(&info.id.to_string())).unwrap();
            v.store.remove(name);
        }
    }
    vault.drop_caches();
    let newest = v.points(&spec).await[0].id;
    let VaultJobResult::Repair(report) = v.job(VaultJobRequest::Repair).await else { panic!("a report") };
    assert!(
        !report.left.is_empty() && report.left[0].touches.iter().any(|t| t.contains("web-1")),
        "{report:?}"
    );
    assert_eq!(VaultPort::status(v.site()).state, VaultState::Degraded);
    assert!(wire.ended().await.message.contains("compared"));
    let mut wire = Wire::hello(v.site(), agent, spec.id, (1, 1), &[]).await.ok().unwrap();
    assert!(!wire.welcome.same_writer && !wire.welcome.follows, "it compares everything");
    let needed = wire.offer(0, false, &[hash_block(&block(1)), hash_block(&block(2))]).await;
    assert!(needed.contains(&true), "what is lost is asked for");
    let lost = needed.iter().enumerate().filter(|(_, n)| **n);
    let mut bodies: Vec<Body> = lost.map(|(n, _)| bytes(n as u64 * B, &block(n as u8 + 1))).collect();
    bodies.push(barrier());
    let last = wire.send(now(&v), &bodies).await;
    wire.acked(last).await;
    let VaultJobResult::Repair(report) = v.job(VaultJobRequest::Repair).await else { panic!("a report") };
    assert!(report.from_source > 0 && report.left.is_empty(), "{report:?}");
    assert_eq!(VaultPort::status(v.site()).state, VaultState::Ready);
    for point in [newest, PointId { epoch: wire.epoch, seq: last }] {
        let content = v.content(&spec, point);
        assert!(content[..BLOCK] == block(1)[..] && content[BLOCK..2 * BLOCK] == block(2)[..], "{point}");
    }
    drop(wire);
    let wire = Wire::hello(v.site(), agent, spec.id, (1, 1), &[]).await.ok().unwrap();
    assert!(wire.welcome.same_writer, "once is enough");
}
