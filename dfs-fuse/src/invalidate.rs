//! Telling the kernel what to forget.
//!
//! The kernel may wait for locks that requests hold, and for dirty mapped pages to be written through this very
//! mount, before it takes a notification. The client therefore calls from a thread of its own that holds
//! nothing, and keeps what waits there, each inode once; nothing here may be called by a handler.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use dfs_client::vfs::Invalidator;
use dfs_core::id::Ino;
use dfs_core::name::Name;
use fuser::{INodeNo, Notifier};
use metrics::Counter;

use crate::metrics::Meters;

/// The kernel's ear.
pub struct Invalidations {
    notifier: Notifier,
    sent: Counter,
}

impl std::fmt::Debug for Invalidations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Invalidations")
    }
}

impl Invalidations {
    /// Of one mount.
    #[must_use]
    pub fn new(notifier: Notifier) -> Self {
        Self { notifier, sent: Meters::new().invalidations }
    }

    fn heard(&self, result: io::Result<()>, ino: Ino) {
        self.sent.increment(1);
        // The only reasons are that the kernel does not know the inode any more, or that the mount has ended.
        if let Err(e) = result {
            tracing::debug!(%ino, "the kernel did not take a notification: {e}");
        }
    }
}

/// Offset and length of what is old: from 0 on, 0 meaning to the end; a negative offset means attributes alone.
fn old_range(data: bool) -> (i64, i64) {
    if data { (0, 0) } else { (-1, 0) }
}

impl Invalidator for Invalidations {
    fn inode(&self, ino: Ino, data: bool) {
        let (offset, len) = old_range(data);
        self.heard(self.notifier.inval_inode(INodeNo(ino.0), offset, len), ino);
    }

    fn entry(&self, parent: Ino, name: &Name) {
        self.heard(self.notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name.as_bytes())), parent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_only_dropped_when_they_are_old() {
        assert_eq!(old_range(true), (0, 0));
        assert!(old_range(false).0 < 0);
    }
}
