//! What end-to-end tests stand on: real processes, real guests, real networks.
//!
//! - Whatever a test starts ends with it: a guard per process, killed by its own id.
//! - Nothing is shared between tests: own directory, own ports, own namespaces.
//! - A failed test keeps its directory and says where it is; `KEEP=1` keeps all.
//!
//! Helpers panic with what to do next: they are only ever called from tests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "every caller is a test")]

pub mod dir;
pub mod guest;
pub mod judge;
pub mod net;
pub mod process;
pub mod proxy;
pub mod qmp;
pub mod rig;
pub mod room;
pub mod s3;
pub mod site;
pub mod tool;
pub mod wait;

pub use dir::TestDir;
pub use guest::{Guest, GuestImage};
pub use judge::{Load, compare, judge, judge_several, work};
pub use net::{Net, Place};
pub use process::Process;
pub use proxy::{At, End, Plan, Proxy, Way};
pub use rig::Rig;
pub use room::SmallDisk;
pub use s3::{Fate, S3Proxy, S3Server};
pub use site::{Agent, Site};
pub use tool::{binary, free_port, have, repository, run, sim_binary};
pub use wait::{wait_for, wait_some};
