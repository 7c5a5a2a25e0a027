//! The chunk daemon: immutable bytes by their name, on local disks.
//!
//! [`store`] keeps chunks on disk, `service` serves them over gRPC, `register` and `heartbeat`
//! keep the node in the cluster, `orders` carries deletions to the stores, `resync` fetches
//! what a store lacks, `pace` says how fast, `reconcile` finds out what that is, `scrub` reads everything again. [`server`] puts them together, [`node`] is what they share.
//!
//! Promises: nothing is acknowledged before it is synced; nothing is kept or sent under
//! a name that is not its hash as far as this daemon can tell (readers check for
//! themselves); what peers can make the daemon hold in memory is bounded.

pub mod config;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod metrics;
pub mod node;
pub mod process;
pub mod server;
pub mod store;

mod backoff;
mod disks;
mod heartbeat;
mod housekeeping;
mod orders;
mod pace;
mod peers;
mod pool;
mod reconcile;
mod register;
mod report;
mod resync;
mod scrub;
mod service;
mod wire;

pub use disks::DisksError;
pub use register::Outcast;
