//! What callers of [`Vfs`](crate::vfs::Vfs) hand in and get back.

use std::time::Duration;

use dfs_core::attr::{Attr, FileKind};
use dfs_core::id::Ino;
use dfs_core::name::Name;

/// An answer about an inode that the caller may keep for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Attributes, unsaved writes of this client included.
    pub attr: Attr,
    /// How long attributes (and the name they were found under) may be used without asking again.
    pub ttl: Duration,
}

/// Who calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Filesystem uid.
    pub uid: u32,
    /// Filesystem gid.
    pub gid: u32,
    /// Bits that are not to be set on what is created.
    pub umask: u32,
}

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its handle.
    pub fh: u64,
    /// Pages that the kernel has of the file are still right (`FOPEN_KEEP_CACHE`).
    pub keep_cache: bool,
    /// Reads and writes must reach the client one by one (`FOPEN_DIRECT_IO`): it was opened with `O_APPEND`.
    pub direct: bool,
}

/// One entry of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirItem {
    /// Name; `.` and `..` included.
    pub name: Vec<u8>,
    /// Inode.
    pub ino: Ino,
    /// Kind.
    pub kind: FileKind,
    /// Cookie with which to go on after this entry.
    pub cookie_after: u64,
    /// With `plus`; never for `.` and `..`. Counts as one lookup of the inode.
    pub entry: Option<Entry>,
}

/// The kernel (or whoever caches what a [`Vfs`](crate::vfs::Vfs) answered), told what to forget.
///
/// Called from a thread of its own that holds nothing, after the new state is in place.
pub trait Invalidator: Send + Sync + 'static {
    /// Attributes of `ino` are old; with `data`, so are its pages.
    fn inode(&self, ino: Ino, data: bool);
    /// `name` in `parent` is another inode now, or none.
    fn entry(&self, parent: Ino, name: &Name);
}
