//! The targets, by what they feed.

pub mod journal;
pub mod nbd;
pub mod qmp;
pub mod stored;
pub mod text;
pub mod tracking;
pub mod tree;
pub mod vault;
pub mod wire;
