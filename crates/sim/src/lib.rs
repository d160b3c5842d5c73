//! Programs and checks for development and tests; no product crate imports this one.
//!
//! - [`ledger`], [`service`], [`witness`]: the small service the test guests run, and who it tells.
//! - [`oracle`]: a write workload whose blocks describe themselves, and the check of a recovered image against it.
//! - `world` (feature `world`): agents, sites, links, disks and clocks moved by one seed, with faults.
//! - [`nbd`]: a plain NBD client of its own, so that the product's client and server are not their own judges.
//!
//! The same code runs inside a guest as a static binary, therefore without the feature `world` it depends on no
//! other crate of the workspace.

pub mod clock;
pub mod ledger;
pub mod nbd;
pub mod oracle;
pub mod service;
pub mod witness;
#[cfg(feature = "world")]
pub mod world;
