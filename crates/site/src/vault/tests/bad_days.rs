//! Damage, a store that is away, and what happens at one moment with something else.

use super::*;

/// Row 36: one damaged snapshot keeps no other from being locked in the store, and is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_point_keeps_no_other_from_being_locked() {
    use lifeboat_vault::StoreError;
    let mut v = Vaulted::new();
    let store = Arc::new(MemoryStore::with_locks("locking", v.w.clock.clone() as Arc<dyn Clock>));
    Vault::create(&*store, &Secret(KEY), &*v.w.clock, &*v.w.entropy).unwrap();
    v.store = store;
    v.restart(&[], true).await;
    let lock = || HoldRequest { lock_seconds: Some(3 * 86_400), ..HoldRequest::default() };
    let (older, _, _wire, point) = filled(&v, "web-1", &[1]).await;
    v.tier().await;
    let packs = |v: &Vaulted| {
        let names = v.store.names();
        names.into_iter().filter(|n| n.as_str().starts_with("packs/")).collect::<HashSet<_>>()
    };
    let of_older = packs(&v);
    v.site().hold_point(older.id, point, lock()).await.unwrap();
    v.w.clock.advance(Duration::from_secs(5));
    let (newer, _, _wire2, point) = filled(&v, "web-2", &[2]).await;
    v.tier().await;
    v.site().hold_point(newer.id, point, lock()).await.unwrap();
    let vault = v.site().vault.open().unwrap();
    let data = vault.index().packs().unwrap();
    let data = data.iter().find(|p| {
        p.kind == lifeboat_vault::Kind::Data
            && of_older.iter().any(|n| n.as_str().ends_with(&p.id.to_string()))
    });
    let lost = of_older.iter().find(|n| n.as_str().ends_with(&data.unwrap().id.to_string())).unwrap();
    v.store.remove(lost);
    vault.refresh(&|_, _| {}).unwrap();
    v.site().vault.ask_copies();
    assert!(v.site().lock_due(), "the store answers");
    let told = VaultPort::status(v.site()).reason.unwrap();
    assert!(told.contains("locks cannot be set in the store"), "{told}");
    for name in packs(&v).difference(&of_older) {
        assert!(matches!(v.store.delete(name), Err(StoreError::Locked { .. })), "{name}");
    }
    let calls = v.store.calls();
    assert!(v.site().lock_due());
    assert_eq!(v.store.calls(), calls, "the damaged one is not walked all the time");
}

/// After the vault was away, the points rules ask for go into it before the journal lets go of them.
#[tokio::test(flavor = "multi_thread")]
async fn points_that_rules_ask_for_outlive_a_vault_that_was_away() {
    let mut v = Vaulted::new();
    let (mut spec, agent, mut wire, _) = filled(&v, "web-1", &[1]).await;
    spec.retention = RetentionSpec {
        preset: RetentionPreset::Own,
        rules: vec![RetentionRule { every_seconds: 60, keep_seconds: 3600 }],
        ..RetentionSpec::default()
    };
    v.site().ensure_server(&spec).await.unwrap();
    v.tier().await;
    v.store.cut();
    let mut points = Vec::new();
    for n in 0..10u8 {
        v.w.clock.advance(Duration::from_secs(60));
        let last = wire.send(now(&v), &[bytes(0, &block(10 + n)), barrier()]).await;
        wire.acked(last).await;
        points.push((PointId { epoch: wire.epoch, seq: last }, 10 + n));
        v.site().tier_round().await;
    }
    drop(wire);
    v.store.restore();
    // What ends its segments.
    v.restart(&[&spec], true).await;
    let mut wire = Wire::hello(v.site(), agent, spec.id, (1, 1), &[]).await.ok().unwrap();
    for _ in 0..2 {
        v.w.clock.advance(Duration::from_secs(90));
        let last = wire.send(now(&v), &[barrier()]).await;
        wire.acked(last).await;
    }
    v.tier().await;
    let known = v.points(&spec).await;
    for (point, value) in points {
        let info = known.iter().find(|p| p.id == point).unwrap_or_else(|| panic!("{point} is gone"));
        assert!(info.vault.is_some(), "{info:?}");
        assert!(v.content(&spec, point)[..BLOCK] == block(value)[..]);
    }
    assert!(v.site().cell(spec.id).unwrap().reader.base().is_some(), "and the journal moves on");
}

/// I3: a point that cannot be read is told, and the next of its period takes its place.
#[tokio::test(flavor = "multi_thread")]
async fn i3_an_unreadable_point_keeps_no_other_out_of_the_vault() {
    let v = Vaulted::new();
    let (mut spec, _, mut wire, _) = filled(&v, "web-1", &[1]).await;
    spec.retention = RetentionSpec {
        preset: RetentionPreset::Own,
        rules: vec![RetentionRule { every_seconds: 3600, keep_seconds: 86_400 }],
        ..RetentionSpec::default()
    };
    v.site().ensure_server(&spec).await.unwrap();
    v.tier().await;
    v.w.clock.advance(Duration::from_secs(3600));
    let segment = || {
        let dir = std::fs::read_dir(v.site().server_dir(spec.id).join("journal")).unwrap();
        let mut segments: Vec<_> = dir.map(|e| e.unwrap().path()).collect();
        segments.retain(|p| p.extension().is_some_and(|e| e == "seg"));
        segments.sort();
        segments.pop().unwrap()
    };
    let before = std::fs::read(segment()).unwrap();
    let bad = wire.send(now(&v), &[bytes(0, &block(4)), barrier()]).await;
    wire.acked(bad).await;
    v.w.clock.advance(Duration::from_secs(1));
    let good = wire.send(now(&v), &[bytes(0, &block(5)), barrier()]).await;
    wire.acked(good).await;
    let epoch = wire.epoch;
    // The content of the first one is damaged on the disk.
    let mut content = std::fs::read(segment()).unwrap();
    let from = content.iter().zip(&before).position(|(now, then)| now != then).unwrap();
    content[from + 1000] ^= 1;
    std::fs::write(segment(), content).unwrap();
    v.tier().await;
    let known = v.points(&spec).await;
    let is_in = |seq| known.iter().any(|p| p.id == PointId { epoch, seq } && p.vault.is_some());
    assert!(!is_in(bad) && is_in(good), "{known:?}");
    let cell = v.site().cell(spec.id).unwrap();
    let told = cell.watched.lock().troubles.newest(Duration::ZERO).unwrap().to_owned();
    assert!(told.contains("cannot go into the vault"), "{told}");
}

/// What a scrub found is told though it did not come to its end, and after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn damage_a_scrub_found_is_told_whatever_ends_it() {
    let mut v = Vaulted::new();
    let (spec, ..) = filled(&v, "web-1", &[1]).await;
    v.tier().await;
    let vault = v.site().vault.open().unwrap();
    let mut packs = vault.index().packs().unwrap();
    packs.sort_by_key(|p| p.id);
    assert!(packs.len() > 1);
    let object = |n: usize| {
        let id = packs[n].id.to_string();
        v.store.names().into_iter().find(|name| name.as_str().ends_with(&id)).unwrap()
    };
    let (first, second) = (object(0), object(1));
    v.store.damage(&first, 8 * 60);
    vault.drop_caches();
    drop(vault);
    let store = Arc::downgrade(&v.store);
    let (wanted, seen) = (second.to_string(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let once = seen.clone();
    v.store.on_call(move |c| {
        if c.name == wanted && !once.swap(true, std::sync::atomic::Ordering::SeqCst) {
            let store = store.upgrade().unwrap();
            store.fail(store.calls(), lifeboat_vault::store::memory::Fault::Before);
        }
    });
    let id = v.site().start(VaultJobRequest::Scrub).await.unwrap().id;
    let wait = async {
        while v.site().job(&id).unwrap().state == VaultJobState::Running {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
    v.store.no_hook();
    assert!(seen.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(v.site().job(&id).unwrap().state, VaultJobState::Failed);
    let told = |v: &Vaulted| VaultPort::status(v.site()).findings.iter().any(|f| f.object == first.as_str());
    assert!(told(&v));
    v.restart(&[&spec], true).await;
    assert!(told(&v), "after a restart, too");
    v.job(VaultJobRequest::Scrub).await;
    assert!(told(&v), "the rest of the round does not clear it");
}

/// A server is deleted while something of it goes into the vault: nothing of it stays there.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_deleted_server_comes_after_its_end() {
    let v = Vaulted::new();
    let (spec, ..) = filled(&v, "web-1", &[1, 2]).await;
    let gate = Arc::new((parking_lot::Mutex::new((false, true)), parking_lot::Condvar::new()));
    let at = gate.clone();
    v.store.on_call(move |c| {
        if c.method == lifeboat_vault::store::memory::Method::Put && c.name.starts_with("snapshots/") {
            let mut state = at.0.lock();
            state.0 = true;
            at.1.notify_all();
            while state.1 {
                at.1.wait(&mut state);
            }
        }
    });
    let site = v.site().0.clone();
    let tiering = tokio::spawn(async move { site.tier_round().await });
    let reached = gate.clone();
    tokio::task::spawn_blocking(move || {
        let mut state = reached.0.lock();
        while !state.0 {
            reached.1.wait(&mut state);
        }
    })
    .await
    .unwrap();
    let site = v.site().clone();
    let id = spec.id;
    let deleting = tokio::spawn(async move { site.forget_server(id).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.0.lock().1 = false;
    gate.1.notify_all();
    tiering.await.unwrap();
    deleting.await.unwrap().unwrap();
    v.store.no_hook();
    let left: Vec<_> = v.store.names().into_iter().filter(|n| n.as_str().starts_with("snapshots/")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(v.site().vault.standing.lock().is_empty());
}

/// What cannot be deleted of old catalogues is not a catalogue that could not be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_is_written_once_though_old_ones_stay() {
    let mut v = Vaulted::new();
    let store = Arc::new(MemoryStore::with_locks("locking", v.w.clock.clone() as Arc<dyn Clock>));
    Vault::create(&*store, &Secret(KEY), &*v.w.clock, &*v.w.entropy).unwrap();
    v.store = store;
    v.restart(&[], true).await;
    let catalogue = |n: u64| Catalogue {
        site: format!("site-{n}"),
        written: WallTime(0),
        agents: Vec::new(),
        servers: Vec::new(),
        groups: Vec::new(),
        backup_sets: Vec::new(),
    };
    v.site().vault.put_catalogue(&catalogue(0)).unwrap();
    let first = v.store.names().into_iter().find(|n| n.as_str().starts_with("catalogue/")).unwrap();
    let until = WallTime(now(&v)).saturating_add(Duration::from_secs(86_400));
    v.store.lock(&first, until).unwrap();
    let count = || v.store.names().iter().filter(|n| n.as_str().starts_with("catalogue/")).count();
    for n in 1..9 {
        v.site().vault.put_catalogue(&catalogue(n)).unwrap();
    }
    let there = count();
    v.site().vault.put_catalogue(&catalogue(8)).unwrap();
    assert_eq!(count(), there, "the same is not written again");
}

/// Work by schedule that a clock from the future did does not keep off the next for years.
#[tokio::test(flavor = "multi_thread")]
async fn work_done_in_the_future_is_done_again_now() {
    let v = Vaulted::new();
    let future = WallTime(now(&v)).saturating_add(Duration::from_secs(3650 * 86_400));
    {
        let mut scrub = v.site().vault.scrub.lock();
        (scrub.last, scrub.pruned) = (Some(future), Some(future));
    }
    v.site().start_due();
    let kinds: Vec<String> = VaultPort::jobs(v.site()).into_iter().map(|j| j.kind).collect();
    assert!(kinds.contains(&"prune".to_string()) && kinds.contains(&"scrub".to_string()), "{kinds:?}");
}

/// A journal's directory is lost: what it stood on goes with the first prune after the new journal stands on its own.
#[tokio::test(flavor = "multi_thread")]
async fn the_base_of_a_lost_journal_goes() {
    let mut v = Vaulted::new();
    let (spec, agent, wire, _) = filled(&v, "web-1", &[1, 2]).await;
    let bases = |v: &Vaulted| {
        let vault = v.site().vault.open().unwrap();
        vault.snapshots_of(&Owner::Base(spec.id)).into_iter().map(|s| s.id).collect::<Vec<_>>()
    };
    let stands = async |v: &Vaulted, wire: &mut Wire| {
        for _ in 0..2 {
            v.w.clock.advance(Duration::from_secs(90));
            let last = wire.send(now(v), &[barrier()]).await;
            wire.acked(last).await;
        }
        v.tier().await;
    };
    drop(wire);
    v.restart(&[&spec], true).await;
    let mut wire = Wire::hello(v.site(), agent, spec.id, (1, 1), &[]).await.ok().unwrap();
    stands(&v, &mut wire).await;
    drop(wire);
    let old = bases(&v);
    assert_eq!(old.len(), 1);
    v.w.site.shutdown().await;
    std::fs::remove_dir_all(v.site().server_dir(spec.id).join("journal")).unwrap();
    v.restart(&[&spec], true).await;
    let prune = async |v: &Vaulted| {
        v.job(VaultJobRequest::PrunePlan).await;
        let plan = VaultPort::jobs(v.site())[0].id.clone();
        let VaultJobResult::Prune(done) = v.job(VaultJobRequest::Prune { plan }).await else {
            panic!("a report")
        };
        done.forgotten
    };
    let mut wire = Wire::hello(v.site(), agent, spec.id, (7, 1), &[]).await.ok().unwrap();
    let last = wire.send(now(&v), &[announce(), bytes(0, &block(3)), barrier()]).await;
    wire.acked(last).await;
    assert_eq!(prune(&v).await, 0, "nobody knows yet that it is lost for good");
    assert_eq!(bases(&v), old);
    drop(wire);
    v.restart(&[&spec], true).await;
    let mut wire = Wire::hello(v.site(), agent, spec.id, (7, 1), &[]).await.ok().unwrap();
    stands(&v, &mut wire).await;
    assert_eq!(bases(&v).len(), 2);
    prune(&v).await;
    let left = bases(&v);
    assert!(left.len() == 1 && left != old, "{left:?}");
    let newest = v.points(&spec).await[0].id;
    assert!(v.content(&spec, newest)[..BLOCK] == block(3)[..]);
}
