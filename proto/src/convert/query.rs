//! Questions and their answers.

use dfs_core::chunk::ChunkId;
use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::limits::{DIR_ENTRIES, EXTENTS, INLINE_EXTENTS, XATTR_LIST_BYTES, XATTR_VALUE_BYTES};
use dfs_core::query::{Answer, DirEntry, NodeInfo, Query, StatFs};

use super::attr::{in_order, kind, kind_field};
use super::lock::{get_lock, kind_to_wire};
use super::op::dentry;
use super::{Malformed, WireId, check, ino, limit, list, name, optional, required, to_list, xattr_name};
use crate::v1;
use crate::v1::answer::Answer as WireAnswer;
use crate::v1::query::Query as WireQuery;

impl From<Query> for v1::Query {
    fn from(query: Query) -> Self {
        let query = match query {
            Query::Lookup { parent, name } => WireQuery::Lookup(v1::Dentry { parent: parent.0, name: name.into() }),
            Query::GetAttr { ino } => WireQuery::GetAttr(ino.0),
            Query::ReadDir { ino, after, limit, plus } => {
                let after = after.map(Vec::from).unwrap_or_default();
                WireQuery::ReadDir(v1::ReadDir { ino: ino.0, after, limit, plus })
            }
            Query::Extents { ino, from, limit } => WireQuery::Extents(v1::GetExtents { ino: ino.0, from, limit }),
            Query::ReadLink { ino } => WireQuery::ReadLink(ino.0),
            Query::GetXattr { ino, name } => WireQuery::GetXattr(v1::GetXattr { ino: ino.0, name }),
            Query::ListXattr { ino } => WireQuery::ListXattr(ino.0),
            Query::StatFs => WireQuery::StatFs(v1::StatFsQuery {}),
            Query::FindChunk { id } => WireQuery::FindChunk(id.to_wire()),
            Query::Live { chunk } => WireQuery::Live(chunk.into()),
            Query::GetLock { ino, session, owner, range, kind } => WireQuery::GetLock(v1::GetLock {
                ino: ino.0,
                session: session.0,
                owner: owner.0,
                range: Some(range.into()),
                kind: kind_to_wire(kind),
            }),
        };
        Self { query: Some(query) }
    }
}

impl TryFrom<v1::Query> for Query {
    type Error = Malformed;

    fn try_from(wire: v1::Query) -> Result<Self, Malformed> {
        Ok(match wire.query.ok_or(Malformed { what: "question not set, or unknown" })? {
            WireQuery::Lookup(at) => {
                let (parent, name) = dentry(Some(at))?;
                Self::Lookup { parent, name }
            }
            WireQuery::GetAttr(of) => Self::GetAttr { ino: ino(of)? },
            WireQuery::ReadDir(read) => Self::ReadDir {
                ino: ino(read.ino)?,
                after: if read.after.is_empty() { None } else { Some(name(&read.after)?) },
                limit: limit(read.limit, DIR_ENTRIES)?,
                plus: read.plus,
            },
            WireQuery::Extents(get) => {
                Self::Extents { ino: ino(get.ino)?, from: get.from, limit: limit(get.limit, EXTENTS)? }
            }
            WireQuery::ReadLink(of) => Self::ReadLink { ino: ino(of)? },
            WireQuery::GetXattr(get) => Self::GetXattr { ino: ino(get.ino)?, name: xattr_name(get.name)? },
            WireQuery::ListXattr(of) => Self::ListXattr { ino: ino(of)? },
            WireQuery::StatFs(v1::StatFsQuery {}) => Self::StatFs,
            WireQuery::FindChunk(id) => Self::FindChunk { id: ChunkId::from_wire(&id)? },
            WireQuery::Live(chunk) => Self::Live { chunk: chunk.try_into()? },
            WireQuery::GetLock(get) => get_lock(get)?,
        })
    }
}

impl From<Answer> for v1::Answer {
    fn from(answer: Answer) -> Self {
        let answer = match answer {
            Answer::Node(node) => WireAnswer::Node(node.into()),
            Answer::Dir { attr, entries, end } => {
                WireAnswer::Dir(v1::Dir { attr: Some(attr.into()), entries: to_list(entries), end })
            }
            Answer::Extents { data, extents, end } => {
                WireAnswer::Extents(v1::Extents { data, extents: to_list(extents), end })
            }
            Answer::Value(value) => WireAnswer::Value(value),
            Answer::Names(names) => WireAnswer::Names(v1::Names { names }),
            Answer::StatFs(numbers) => WireAnswer::StatFs(numbers.into()),
            Answer::Chunk(chunk) => WireAnswer::Chunk(v1::FoundChunk { chunk: chunk.map(Into::into) }),
            Answer::Live(bytes) => WireAnswer::Live(bytes),
            Answer::Lock(lock) => WireAnswer::Lock(v1::FoundLock { lock: lock.map(Into::into) }),
        };
        Self { answer: Some(answer) }
    }
}

impl TryFrom<v1::Answer> for Answer {
    type Error = Malformed;

    fn try_from(wire: v1::Answer) -> Result<Self, Malformed> {
        Ok(match wire.answer.ok_or(Malformed { what: "answer not set, or unknown" })? {
            WireAnswer::Node(node) => Self::Node(node.try_into()?),
            WireAnswer::Dir(dir) => Self::Dir {
                attr: required(dir.attr, "directory without attributes")?,
                entries: list(dir.entries, DIR_ENTRIES as usize, "too many directory entries")?,
                end: dir.end,
            },
            WireAnswer::Extents(v1::Extents { data, extents, end }) => {
                Self::Extents { data, extents: ordered(extents, EXTENTS as usize)?, end }
            }
            WireAnswer::Value(value) => {
                check(value.len() <= XATTR_VALUE_BYTES, "value too long")?;
                Self::Value(value)
            }
            WireAnswer::Names(v1::Names { names }) => {
                let bytes = names.iter().map(|n| n.len() + 1).sum::<usize>();
                check(bytes <= XATTR_LIST_BYTES, "list of attribute names too long")?;
                Self::Names(names.into_iter().map(xattr_name).collect::<Result<_, _>>()?)
            }
            WireAnswer::StatFs(numbers) => Self::StatFs(numbers.into()),
            WireAnswer::Chunk(found) => Self::Chunk(optional(found.chunk)?),
            WireAnswer::Live(bytes) => Self::Live(bytes),
            WireAnswer::Lock(found) => Self::Lock(optional(found.lock)?),
        })
    }
}

/// At most `max` extents, none overlapping another, in order.
fn ordered(wire: Vec<v1::Extent>, max: usize) -> Result<Vec<Extent>, Malformed> {
    let extents: Vec<Extent> = list(wire, max, "too many extents in an answer")?;
    check(in_order(&extents), "extents of an answer out of order")?;
    Ok(extents)
}

impl From<NodeInfo> for v1::NodeInfo {
    fn from(node: NodeInfo) -> Self {
        let extents = node.extents.map(|extents| v1::InlineExtents { extents: to_list(extents) });
        Self { attr: Some(node.attr.into()), extents }
    }
}

impl TryFrom<v1::NodeInfo> for NodeInfo {
    type Error = Malformed;

    fn try_from(wire: v1::NodeInfo) -> Result<Self, Malformed> {
        let extents = wire.extents.map(|inline| ordered(inline.extents, INLINE_EXTENTS)).transpose()?;
        Ok(Self { attr: required(wire.attr, "inode without attributes")?, extents })
    }
}

impl From<DirEntry> for v1::DirEntry {
    fn from(entry: DirEntry) -> Self {
        Self {
            name: entry.name.into(),
            ino: entry.ino.0,
            kind: kind_field(entry.kind),
            node: entry.node.map(Into::into),
        }
    }
}

impl TryFrom<v1::DirEntry> for DirEntry {
    type Error = Malformed;

    fn try_from(wire: v1::DirEntry) -> Result<Self, Malformed> {
        let (ino, kind): (Ino, _) = (ino(wire.ino)?, kind(wire.kind)?);
        let node: Option<NodeInfo> = optional(wire.node)?;
        let same = node.as_ref().is_none_or(|n| n.attr.ino == ino && n.attr.kind == kind);
        check(same, "directory entry with the attributes of another inode")?;
        Ok(Self { name: name(&wire.name)?, ino, kind, node })
    }
}

impl From<StatFs> for v1::StatFs {
    fn from(numbers: StatFs) -> Self {
        Self { total_bytes: numbers.total_bytes, free_bytes: numbers.free_bytes, inodes: numbers.inodes }
    }
}

impl From<v1::StatFs> for StatFs {
    fn from(wire: v1::StatFs) -> Self {
        Self { total_bytes: wire.total_bytes, free_bytes: wire.free_bytes, inodes: wire.inodes }
    }
}
