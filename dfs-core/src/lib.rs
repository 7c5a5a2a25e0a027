//! The pure core: types and decisions shared by every part of the filesystem.
//!
//! Nothing here touches a clock, a random source, a task, a socket or a file;
//! `clippy.toml` forbids it and the dependency list proves it. What is not
//! deterministic is handed in by the caller.

pub mod acl;
pub mod attr;
pub mod chunk;
pub mod cleaning;
pub mod cluster;
pub mod compare;
pub mod error;
pub mod extent;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod id;
pub mod lease;
pub mod limits;
pub mod lock;
pub mod moves;
pub mod name;
pub mod op;
pub mod placement;
pub mod query;
pub mod range;
pub mod time;
