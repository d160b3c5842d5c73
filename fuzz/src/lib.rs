//! Hostile bytes for every parser that sees some from outside (failures 31 and 32).
//!
//! A target is a plain function over bytes. It panics when the code under it broke a promise:
//! - no panic anywhere, other threads included;
//! - no end without an end: what was fed is over, so is the target, or the watchdog says so;
//! - no single allocation over [`bound::MOST`], whatever length the bytes claim;
//! - what has an encoder too reads back as what was written.
//!
//! `fuzz/corpus/TARGET/` holds what the mutator starts from, made by the product's own encoders
//! (`lifeboat-fuzz seeds`), and every input that once failed. `tests/replay.rs` runs all of them and a
//! bounded number of mutations, the same ones each time; `lifeboat-fuzz run` goes on with fresh ones.

#![allow(clippy::unwrap_used, reason = "a panic is what a target reports by")]

pub mod bound;
pub mod campaign;
pub mod mutate;
pub mod seeds;
pub mod targets;

/// One parser and its promises.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs made by the product's own encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Mutations tried on every change.
    pub tries: u64,
}

/// Every target, by name.
pub const TARGETS: &[Target] = &[
    Target { name: "wire_session", run: targets::wire::session, seeds: seeds::session, tries: 150_000 },
    Target { name: "wire_records", run: targets::wire::records, seeds: seeds::records, tries: 150_000 },
    Target { name: "wire_bodies", run: targets::wire::bodies, seeds: seeds::bodies, tries: 200_000 },
    Target { name: "messages", run: targets::wire::messages, seeds: seeds::messages, tries: 200_000 },
    Target { name: "nbd_proto", run: targets::nbd::proto, seeds: seeds::nbd_proto, tries: 200_000 },
    Target { name: "nbd_server", run: targets::nbd::server, seeds: seeds::nbd_server, tries: 3_000 },
    Target { name: "nbd_client", run: targets::nbd::client, seeds: seeds::nbd_client, tries: 10_000 },
    Target { name: "journal", run: targets::journal::open, seeds: seeds::journal, tries: 2_000 },
    Target { name: "tracking", run: targets::tracking::log, seeds: targets::tracking::seeds, tries: 10_000 },
    Target { name: "site_toml", run: targets::stored::site_toml, seeds: seeds::site_toml, tries: 4_000 },
    Target { name: "agent_toml", run: targets::stored::agent_toml, seeds: seeds::agent_toml, tries: 50_000 },
    Target {
        name: "assignments",
        run: targets::stored::assignments,
        seeds: seeds::assignments,
        tries: 100_000,
    },
    Target { name: "stored_json", run: targets::stored::json, seeds: seeds::stored_json, tries: 100_000 },
    Target { name: "api_json", run: targets::stored::api, seeds: seeds::api_json, tries: 200_000 },
    Target { name: "points", run: targets::text::points, seeds: seeds::points, tries: 200_000 },
    Target { name: "checks", run: targets::text::checks, seeds: seeds::checks, tries: 30_000 },
    Target { name: "addresses", run: targets::text::addresses, seeds: seeds::addresses, tries: 200_000 },
    Target { name: "tree", run: targets::tree::blob, seeds: targets::tree::seeds, tries: 100_000 },
    Target { name: "vault", run: targets::vault::text, seeds: targets::vault::seeds, tries: 100_000 },
    Target { name: "qmp", run: targets::qmp::monitor, seeds: seeds::qmp, tries: 1_000 },
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|t| t.name == name)
}
