//! A disk for real daemons whose power can be cut at any operation.
//!
//! It owns a filesystem in memory that is mounted with FUSE, so that programs
//! which know nothing of it, RocksDB among them, run on it. It writes down
//! every change and every sync in order. From that trace it builds, for each
//! position in it, a disk as a power cut just then may leave it, and that disk
//! can be mounted again, cut again, and so on.
//!
//! # The model
//! The rules are those of the simulated disk in `dfs-disk`:
//! - A file's bytes and length are durable once fsync or fdatasync of it
//!   returned (a write through `O_SYNC` or `O_DSYNC` counts as followed by one;
//!   `O_DIRECT` alone makes nothing durable). A name is durable once fsync of
//!   its directory returned. Neither implies the other.
//! - Of unsynced bytes any may be lost: whole writes, pages of 4 KiB or sectors
//!   of 512 bytes, in any order, but no sector goes back from a newer to an
//!   older write. The length is the one before or after any unsynced change;
//!   bytes below it that never reached the disk are zero.
//! - Of unsynced names any may be lost, and with each all later changes of the
//!   same names. A rename is one change of two names. Syncing either directory
//!   of a rename makes it durable. Directories follow the same rule here, since
//!   daemons make them with mkdir(2): one whose name is lost is lost with all in it.
//! - In a directory `kv`, RocksDB's, syncing a new file makes its name durable too. RocksDB relies on that: it
//!   renames `CURRENT` to name a new manifest, and syncs the directory only afterwards. ext4, XFS and btrfs do
//!   it; POSIX does not promise it, and the project's own files get no such help here.
//! - Modes, owners and times are not modelled, nor are links and symlinks made.
//!
//! What a disk that lies would leave can be built from the same trace ([`Lie`]):
//! that is how a test proves that it would notice.

mod fs;
mod image;
mod mount;
mod pages;
mod rig;
mod state;
mod trace;
mod tree;

pub use dfs_disk::crash::Survive;
pub use image::Replay;
pub use mount::PowerMount;
pub use rig::Rig;
pub use state::PowerDisk;
pub use trace::{Lie, Trace};
pub use tree::Tree;

#[cfg(test)]
mod tests;
