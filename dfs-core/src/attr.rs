//! Attributes of inodes.

use serde::{Deserialize, Serialize};

use crate::id::Ino;
use crate::time::Timestamp;

/// Kind of an inode. Serialized by position: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    /// The `S_IFMT` bits of `st_mode`.
    #[must_use]
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
        }
    }

    /// From the `S_IFMT` bits of a mode; 0 means a regular file, as for mknod(2).
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 | 0 => Self::File,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            _ => return None,
        })
    }
}

/// What stat(2) tells, and two counters for caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// Its kind.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: 0..=0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links; of a directory 2 + its subdirectories.
    pub nlink: u32,
    /// Length in bytes; of a symlink that of its target; of a directory the number of its entries.
    pub size: u64,
    /// Bytes in extents (holes do not count): `st_blocks` is this / 512, rounded up.
    pub stored: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Device number of a device.
    pub rdev: u32,
    /// Raised by every alteration of the inode.
    pub change: u64,
    /// Raised whenever the bytes (or a directory's entries) alter.
    pub data: u64,
    /// Whether it has any extended attributes (ACLs are some).
    pub xattrs: bool,
}
