//! Refusals: definite answers that something was not done.
//!
//! A refusal is an answer and has changed nothing. A *fault* (we cannot know
//! what happened) is never expressed by this type.

use serde::{Deserialize, Serialize};

/// Why something was not done. Serialized by position: only append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No such entry or inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// Not a directory.
    #[error("not a directory")]
    NotDirectory,
    /// Is a directory.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The name or target is longer than the limit.
    #[error("name too long")]
    NameTooLong,
    /// More links than [`crate::limits::LINKS`].
    #[error("too many links")]
    TooManyLinks,
    /// An argument that no caller should send, or a rename into its own subtree.
    #[error("invalid argument")]
    Invalid,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// A value larger than the limit.
    #[error("value too large")]
    TooLarge,
    /// A file longer than [`crate::limits::FILE_BYTES`].
    #[error("file too large")]
    FileTooLarge,
    /// No store has room, or metad's disk is full.
    #[error("no space left")]
    NoSpace,
    /// Not permitted.
    #[error("operation not permitted")]
    NotPermitted,
    /// The session has ended; open a new one.
    #[error("the session has ended")]
    NoSession,
    /// The number does not follow the last one of its lane.
    #[error("out of order on its lane")]
    LaneOrder,
    /// A group that this one needs was refused.
    #[error("group {0}, which this one needs, was refused")]
    Needed(u16),
    /// A chunk that the group names was not accepted (see its [`crate::op::PutVerdict`]):
    /// repair that and send the group again.
    #[error("a chunk it names was not accepted")]
    Chunk,
    /// The group touches more than [`crate::limits::GROUP_EXTENTS`] extents: split it.
    #[error("touches too many extents")]
    TooManyExtents,
    /// The inode number was not granted to this session, or is in use.
    #[error("inode number not granted")]
    NotGranted,
    /// More than a limit of [`crate::limits`] allows.
    #[error("over a limit")]
    OverLimit,
    /// Not supported for this kind of file.
    #[error("operation not supported")]
    NotSupported,
    /// Another owner has a lock that is in the way.
    #[error("locked by another")]
    Locked,
    /// Waiting for the lock would never end: its holder waits for the caller.
    #[error("waiting for that lock would be a deadlock")]
    Deadlock,
    /// More locks than a file or a session may have.
    #[error("too many locks")]
    NoLocks,
    /// The name stands for something else by now.
    #[error("the name stands for something else by now")]
    Stale,
}

impl Refusal {
    /// The one errno table: what a caller of a POSIX function gets (Linux numbers).
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound => 2,
            Self::Exists => 17,
            Self::NotDirectory => 20,
            Self::IsDirectory => 21,
            Self::NotEmpty => 39,
            Self::NameTooLong => 36,
            Self::TooManyLinks => 31,
            Self::Invalid => 22,
            Self::NoAttribute => 61,
            Self::TooLarge => 7,
            Self::FileTooLarge => 27,
            Self::NoSpace => 28,
            Self::NotPermitted => 1,
            Self::NotSupported => 95,
            Self::Locked => 11,
            Self::Deadlock => 35,
            Self::NoLocks => 37,
            Self::Stale => 116,
            Self::NoSession
            | Self::LaneOrder
            | Self::Needed(_)
            | Self::Chunk
            | Self::TooManyExtents
            | Self::NotGranted
            | Self::OverLimit => 5,
        }
    }
}
