//! The targets, by what they feed.

pub mod journal;
pub mod nbd;
pub mod qmp;
pub mod stored;
pub mod text;
pub mod tracking;
pub mod wire;
