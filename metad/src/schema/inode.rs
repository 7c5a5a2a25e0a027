//! Inodes, names and what belongs to an inode.

use dfs_core::attr::{Attr, FileKind};
use dfs_core::id::{Ino, SessionId};
use dfs_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::schema::record::record;

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeRow {
    /// Its kind.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; of a directory 2 + its subdirectories. 0 is an orphan.
    pub nlink: u32,
    /// Length; of a directory the number of its entries, of a symlink the length of its target.
    pub size: u64,
    /// Bytes in extents.
    pub stored: u64,
    /// Extent rows.
    pub extents: u64,
    /// Sum of the names of its extended attributes, each with one byte more, as listxattr(2) returns them.
    pub xattr_bytes: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Device number.
    pub rdev: u32,
    /// The log entry that made it: tells two inodes of one number apart.
    pub generation: u64,
    /// Of a directory the one it is in (the root's is itself); else 0.
    pub parent: Ino,
    /// Raised by every alteration.
    pub change: u64,
    /// Raised when bytes or entries alter.
    pub data: u64,
    /// Target of a symlink.
    pub target: Vec<u8>,
}

record!(InodeRow, Inode);

impl InodeRow {
    /// What the world sees of it.
    #[must_use]
    pub fn attr(&self, ino: Ino) -> Attr {
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size: self.size,
            stored: self.stored,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            rdev: self.rdev,
            change: self.change,
            data: self.data,
            xattrs: self.xattr_bytes > 0,
        }
    }
}

/// A name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DentryRow {
    /// What it names.
    pub ino: Ino,
    /// Its kind, so that a listing needs no inode.
    pub kind: FileKind,
}

record!(DentryRow, Dentry);

/// The value of an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XattrRow {
    /// Its bytes.
    pub value: Vec<u8>,
}

record!(XattrRow, Xattr);

/// An inode without a name that somebody may hold open.
///
/// Sessions are numbered in the order they open: those that can hold it are
/// the living ones up to `last_session` that have not said no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanRow {
    /// When it lost its last name, in milliseconds by metad's clock.
    pub since: u64,
    /// The newest session then.
    pub last_session: SessionId,
    /// Sessions that do not hold it.
    pub not_held: Vec<SessionId>,
    /// Set when it was given up: the due time of its reap row.
    pub reap_due: Option<u64>,
}

record!(OrphanRow, Orphan);

impl OrphanRow {
    /// Whether this session may hold it open.
    #[must_use]
    pub fn may_hold(&self, session: SessionId) -> bool {
        session <= self.last_session && !self.not_held.contains(&session)
    }

    /// Of these sessions those that may hold it open. There may be thousands that do and that do not.
    #[must_use]
    pub fn holders(&self, sessions: &[SessionId]) -> Vec<SessionId> {
        let mut said_no = self.not_held.clone();
        said_no.sort_unstable();
        let may_hold = |session: &SessionId| *session <= self.last_session && said_no.binary_search(session).is_err();
        sessions.iter().copied().filter(may_hold).collect()
    }
}
