//! Times, kinds, attributes, chunks and extents.

use dfs_core::attr::{Attr, FileKind};
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::extent::Extent;
use dfs_core::id::SlotId;
use dfs_core::limits::CHUNK_BYTES;
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;

use super::{Malformed, WireId, check, ino, required};
use crate::v1;

impl From<Timestamp> for v1::Time {
    fn from(time: Timestamp) -> Self {
        Self { secs: time.secs, nanos: time.nanos }
    }
}

impl TryFrom<v1::Time> for Timestamp {
    type Error = Malformed;

    fn try_from(wire: v1::Time) -> Result<Self, Malformed> {
        Self::new(wire.secs, wire.nanos).ok_or(Malformed { what: "nanoseconds of a second or more" })
    }
}

impl From<FileKind> for v1::Kind {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::File => Self::File,
            FileKind::Directory => Self::Directory,
            FileKind::Symlink => Self::Symlink,
            FileKind::Fifo => Self::Fifo,
            FileKind::Socket => Self::Socket,
            FileKind::CharDevice => Self::CharDevice,
            FileKind::BlockDevice => Self::BlockDevice,
        }
    }
}

impl TryFrom<v1::Kind> for FileKind {
    type Error = Malformed;

    fn try_from(wire: v1::Kind) -> Result<Self, Malformed> {
        Ok(match wire {
            v1::Kind::Unspecified => return Err(Malformed { what: "kind not set" }),
            v1::Kind::File => Self::File,
            v1::Kind::Directory => Self::Directory,
            v1::Kind::Symlink => Self::Symlink,
            v1::Kind::Fifo => Self::Fifo,
            v1::Kind::Socket => Self::Socket,
            v1::Kind::CharDevice => Self::CharDevice,
            v1::Kind::BlockDevice => Self::BlockDevice,
        })
    }
}

/// A kind as an enum field holds it.
pub(super) fn kind(wire: i32) -> Result<FileKind, Malformed> {
    v1::Kind::try_from(wire).map_err(|_| Malformed { what: "unknown kind" })?.try_into()
}

/// A kind for an enum field.
pub(super) fn kind_field(kind: FileKind) -> i32 {
    v1::Kind::from(kind).into()
}

/// Permission bits.
pub(super) fn mode(wire: u32) -> Result<u32, Malformed> {
    check(wire <= 0o7777, "mode over 07777")?;
    Ok(wire)
}

impl From<Attr> for v1::Attr {
    fn from(attr: Attr) -> Self {
        Self {
            ino: attr.ino.0,
            kind: kind_field(attr.kind),
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: attr.size,
            stored: attr.stored,
            atime: Some(attr.atime.into()),
            mtime: Some(attr.mtime.into()),
            ctime: Some(attr.ctime.into()),
            btime: Some(attr.btime.into()),
            rdev: attr.rdev,
            change: attr.change,
            data: attr.data,
            xattrs: attr.xattrs,
        }
    }
}

impl TryFrom<v1::Attr> for Attr {
    type Error = Malformed;

    fn try_from(wire: v1::Attr) -> Result<Self, Malformed> {
        Ok(Self {
            ino: ino(wire.ino)?,
            kind: kind(wire.kind)?,
            mode: mode(wire.mode)?,
            uid: wire.uid,
            gid: wire.gid,
            nlink: wire.nlink,
            size: wire.size,
            stored: wire.stored,
            atime: required(wire.atime, "atime not set")?,
            mtime: required(wire.mtime, "mtime not set")?,
            ctime: required(wire.ctime, "ctime not set")?,
            btime: required(wire.btime, "btime not set")?,
            rdev: wire.rdev,
            change: wire.change,
            data: wire.data,
            xattrs: wire.xattrs,
        })
    }
}

impl From<ChunkRef> for v1::ChunkRef {
    fn from(chunk: ChunkRef) -> Self {
        Self { id: chunk.id.to_wire(), len: chunk.len, slot: chunk.slot.0 }
    }
}

impl TryFrom<v1::ChunkRef> for ChunkRef {
    type Error = Malformed;

    fn try_from(wire: v1::ChunkRef) -> Result<Self, Malformed> {
        check((1..=CHUNK_BYTES).contains(&u64::from(wire.len)), "length of a chunk out of range")?;
        Ok(Self { id: ChunkId::from_wire(&wire.id)?, len: wire.len, slot: SlotId(wire.slot) })
    }
}

impl From<ByteRange> for v1::Range {
    fn from(range: ByteRange) -> Self {
        Self { start: range.start, end: range.end }
    }
}

impl TryFrom<v1::Range> for ByteRange {
    type Error = Malformed;

    fn try_from(wire: v1::Range) -> Result<Self, Malformed> {
        Self::new(wire.start, wire.end).ok_or(Malformed { what: "range empty or reversed" })
    }
}

impl From<Extent> for v1::Extent {
    fn from(extent: Extent) -> Self {
        Self {
            start: extent.range.start,
            end: extent.range.end,
            chunk: Some(extent.chunk.into()),
            offset: extent.offset,
        }
    }
}

impl TryFrom<v1::Extent> for Extent {
    type Error = Malformed;

    fn try_from(wire: v1::Extent) -> Result<Self, Malformed> {
        let range = v1::Range { start: wire.start, end: wire.end }.try_into()?;
        let extent = Self { range, chunk: required(wire.chunk, "extent without a chunk")?, offset: wire.offset };
        check(extent.is_valid(), "extent outside its chunk")?;
        Ok(extent)
    }
}

/// Whether each begins where the one before ends, or later.
pub(super) fn in_order(extents: &[Extent]) -> bool {
    extents.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start)
}
