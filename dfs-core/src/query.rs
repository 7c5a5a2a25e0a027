//! The language of questions: what anybody may ask about the metadata. Answers come from one consistent state.

use crate::attr::{Attr, FileKind};
use crate::chunk::{ChunkId, ChunkRef};
use crate::extent::Extent;
use crate::id::{Ino, LockOwner, SessionId};
use crate::lock::{LockInfo, LockKind};
use crate::name::Name;
use crate::range::ByteRange;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// What is called `name` in `parent`? `NotFound` is an answer.
    Lookup {
        /// Directory.
        parent: Ino,
        /// Name.
        name: Name,
    },
    /// Attributes.
    GetAttr {
        /// Of what.
        ino: Ino,
    },
    /// Entries of a directory in order of their names' bytes.
    ReadDir {
        /// Directory.
        ino: Ino,
        /// Only names after this one.
        after: Option<Name>,
        /// At most this many; no more than [`crate::limits::DIR_ENTRIES`].
        limit: u32,
        /// With attributes and, of small files, extents.
        plus: bool,
    },
    /// Extents that end after `from`, in order.
    Extents {
        /// File.
        ino: Ino,
        /// Offset in bytes.
        from: u64,
        /// At most this many; no more than [`crate::limits::EXTENTS`].
        limit: u32,
    },
    /// Target of a symlink.
    ReadLink {
        /// Symlink.
        ino: Ino,
    },
    /// Value of an extended attribute.
    GetXattr {
        /// Of what.
        ino: Ino,
        /// Full name.
        name: Vec<u8>,
    },
    /// Names of all extended attributes.
    ListXattr {
        /// Of what.
        ino: Ino,
    },
    /// Numbers of the whole filesystem.
    StatFs,
    /// Where a full 64 MiB chunk of this content is, if anywhere (a hint).
    FindChunk {
        /// Its name.
        id: ChunkId,
    },
    /// How many bytes of files are bytes of this chunk. One that is not known has none.
    Live {
        /// The chunk.
        chunk: ChunkRef,
    },
    /// The first lock that would keep an owner from taking this one.
    GetLock {
        /// File.
        ino: Ino,
        /// Whose locks are not in the way: the owner's session.
        session: SessionId,
        /// The owner.
        owner: LockOwner,
        /// Which bytes.
        range: ByteRange,
        /// How.
        kind: LockKind,
    },
}

/// An answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To `Lookup` and `GetAttr`.
    Node(NodeInfo),
    /// To `ReadDir`.
    Dir {
        /// The directory as of the same state.
        attr: Attr,
        /// Entries.
        entries: Vec<DirEntry>,
        /// Whether there are none after these.
        end: bool,
    },
    /// To `Extents`.
    Extents {
        /// The file's `data` counter as of the same state.
        data: u64,
        /// Extents.
        extents: Vec<Extent>,
        /// Whether there are none after these.
        end: bool,
    },
    /// To `ReadLink` and `GetXattr`.
    Value(Vec<u8>),
    /// To `ListXattr`.
    Names(Vec<Vec<u8>>),
    /// To `StatFs`.
    StatFs(StatFs),
    /// To `FindChunk`.
    Chunk(Option<ChunkRef>),
    /// To `GetLock`; `None`: nothing is in the way.
    Lock(Option<LockInfo>),
    /// To `Live`.
    Live(u64),
}

/// An inode with what a reader of a small file needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Attributes.
    pub attr: Attr,
    /// All extents, if the file has at most [`crate::limits::INLINE_EXTENTS`]; `None` means: ask.
    pub extents: Option<Vec<Extent>>,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Name.
    pub name: Name,
    /// Inode.
    pub ino: Ino,
    /// Kind.
    pub kind: FileKind,
    /// With `plus`.
    pub node: Option<NodeInfo>,
}

/// Numbers of the whole filesystem. Space is the stores' free and total bytes divided by the replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes that files can hold in all.
    pub total_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
}
