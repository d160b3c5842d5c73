//! The module tree that `site.toml`'s reader expects around it.

pub mod state {
    pub const CONFIG: &str = "site.toml";
}

#[path = "../../crates/lifeboat/src/serve/config.rs"]
#[rustfmt::skip]
#[allow(dead_code, reason = "only reading is used")]
pub mod config;
