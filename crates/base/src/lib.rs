//! Words every other crate shares: ids, units, time, randomness and limits.
//!
//! Nothing here does I/O except [`clock::SystemClock`] and [`entropy::SystemEntropy`], the two
//! seams through which production code reaches the world and tests do not.

pub mod aead;
pub mod clock;
pub mod entropy;
pub mod id;
pub mod limits;
pub mod memory;
pub mod point;
pub mod time;
pub mod units;

pub use aead::Secret;
pub use clock::{Clock, ManualClock, SystemClock};
pub use entropy::{Entropy, SeededEntropy, SystemEntropy};
pub use id::{AgentId, DiskId, OperationId, RunId, ServerId};
pub use point::PointSpec;
pub use time::WallTime;
pub use units::{Epoch, PointId, Seq, format_bytes};
