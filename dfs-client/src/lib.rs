//! The filesystem as an async library: everything a mount does, without a kernel.
//!
//! [`meta`] is the session with metad, [`chunks`] moves bytes to and from the
//! chunk daemons, `cache` and `file` hold what is known and what is not yet
//! saved, and `vfs` is the filesystem that programs and `dfs-fuse` call.

pub mod cache;
pub mod chunks;
pub mod config;
pub mod error;
pub mod file;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod lock;
pub mod meta;
pub mod vfs;
