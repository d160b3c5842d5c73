//! On every change: all stored inputs, then a bounded number of mutations of them, the same ones each time.
//! Failures 31 and 32.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_fuzz::{TARGETS, bound, campaign, target};

#[global_allocator]
static WATCHED: bound::Watched = bound::Watched;

fn holds(name: &str) {
    let t = target(name).unwrap();
    let stored = campaign::corpus(&t).unwrap();
    assert!(!stored.is_empty(), "{name} has no stored inputs; run lifeboat-fuzz seeds");
    for (path, input) in &stored {
        campaign::try_one(&t, input).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    }
    let corpus = stored.into_iter().map(|(_, input)| input).collect();
    if let Err(b) = campaign::mutations(t, corpus, 1, t.tries, || false) {
        let kept = campaign::keep(&std::env::temp_dir(), &format!("lifeboat-{name}"), &b.input).unwrap();
        panic!("{name}: {}\nreplay: lifeboat-fuzz replay {name} {}", b.why, kept.display());
    }
}

macro_rules! hold {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            holds(stringify!($name));
        })*

        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),*];
            assert_eq!(TARGETS.iter().map(|t| t.name).collect::<Vec<_>>(), run);
        }
    };
}

hold! {
    wire_session wire_records wire_bodies messages nbd_proto nbd_server nbd_client journal tracking site_toml agent_toml
    assignments stored_json api_json points checks addresses tree vault qmp
}
