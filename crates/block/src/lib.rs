//! Block devices and the records that describe changes to them.
//!
//! - [`BlockDevice`]: what every disk looks like here: files, points, overlays, captures.
//! - [`Record`]: one entry of a server's stream, as the wire and the journal both carry it.
//! - [`Storage`]: a directory of files that must survive a crash.
//! - [`ExtentMap`]: which byte ranges map to what; the heart of every map-not-copy.

pub mod codec;
pub mod cow;
pub mod device;
pub mod extent;
pub mod fault;
pub mod file;
pub mod memory;
pub mod record;
pub mod storage;

pub use cow::CowOverlay;
pub use device::{BlockDevice, BlockError, Extent, ExtentKind, ZeroMode, is_zero};
pub use extent::{ExtentMap, ExtentTable, HistoryItem, Piece, Run};
pub use fault::FaultDevice;
pub use file::FileDevice;
pub use memory::MemoryDevice;
pub use record::{BarrierKind, Body, Codec, Record};
pub use storage::{LogFile, Storage};
