//! Questions, answered from one state.

use std::ops::ControlFlow;

use dfs_core::attr::FileKind;
use dfs_core::chunk::ChunkRef;
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::limits::{CHUNK_BYTES, DIR_ENTRIES, EXTENTS, INLINE_EXTENTS, XATTR_LIST_BYTES};
use dfs_core::name::Name;
use dfs_core::query::{Answer, DirEntry, NodeInfo, Query, StatFs};
use dfs_core::range::ByteRange;

use crate::kv::{Snapshot, Table};
use crate::machine::locks::in_the_way;
use crate::machine::read;
use crate::machine::runs::overlapping;
use crate::machine::txn::{Res, Stop};
use crate::schema::chunk::{ByIdRow, ChunkRow};
use crate::schema::inode::{DentryRow, InodeRow, OrphanRow, XattrRow};
use crate::schema::{Fault, Record, corrupt, extent, get, keys, next_key, page, page_of_keys};

/// Answers a question. Of `StatFs` only the number of inodes is known here: space is the stores' to tell.
///
/// # Errors
/// A fault: the store failed or contradicts itself.
pub fn query(snap: &dyn Snapshot, query: &Query) -> Result<Result<Answer, Refusal>, Fault> {
    plain(answer(snap, query))
}

/// The names in a directory, in order; `None` if there are more than `most`.
///
/// # Errors
/// As for [`query`].
pub fn names(snap: &dyn Snapshot, dir: Ino, most: usize) -> Result<Result<Option<Vec<Name>>, Refusal>, Fault> {
    let listed = || {
        directory(snap, dir)?;
        let prefix = keys::inode(dir);
        let rows = page(snap, Table::Dentry, &prefix, &prefix, most + 1)?;
        if rows.len() > most {
            return Ok(None);
        }
        let name = |key: &[u8]| keys::parse_dentry(key).ok_or_else(|| corrupt(Table::Dentry, key, "not a key"));
        Ok(Some(rows.iter().map(|(key, _)| Ok(name(key)?.1)).collect::<Result<_, Fault>>()?))
    };
    plain(listed())
}

fn plain<T>(answer: Res<T>) -> Result<Result<T, Refusal>, Fault> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}

fn answer(snap: &dyn Snapshot, query: &Query) -> Res<Answer> {
    match query {
        Query::Lookup { parent, name } => lookup(snap, *parent, name),
        Query::GetAttr { ino } => Ok(Answer::Node(node(snap, *ino, &inode(snap, *ino)?)?)),
        Query::ReadDir { ino, after, limit, plus } => read_dir(snap, *ino, after.as_ref(), *limit, *plus),
        Query::Extents { ino, from, limit } => extents(snap, *ino, *from, *limit),
        Query::ReadLink { ino } => {
            let row = inode(snap, *ino)?;
            if row.kind == FileKind::Symlink { Ok(Answer::Value(row.target)) } else { Err(Refusal::Invalid.into()) }
        }
        Query::GetXattr { ino, name } => {
            inode(snap, *ino)?;
            let row = get::<XattrRow>(snap, &keys::xattr(*ino, name))?.ok_or(Refusal::NoAttribute)?;
            Ok(Answer::Value(row.value))
        }
        Query::ListXattr { ino } => list_xattr(snap, *ino),
        Query::StatFs => {
            let inodes = read::counters(snap)?.inodes;
            Ok(Answer::StatFs(StatFs { total_bytes: 0, free_bytes: 0, inodes }))
        }
        Query::GetLock { ino, session, owner, range, kind } => {
            inode(snap, *ino)?;
            Ok(Answer::Lock(in_the_way(snap, *ino, (*session, *owner), *range, *kind)?))
        }
        Query::Live { chunk } => {
            let row = get::<ChunkRow>(snap, &keys::chunk(chunk.slot, chunk.id))?;
            Ok(Answer::Live(row.map_or(0, |row| row.live)))
        }
        Query::FindChunk { id } => {
            let Some(known) = get::<ByIdRow>(snap, &id.0)? else { return Ok(Answer::Chunk(None)) };
            let row = get::<ChunkRow>(snap, &keys::chunk(known.slot, *id))?;
            let len = u32::try_from(CHUNK_BYTES).map_err(|_| Refusal::Invalid)?;
            Ok(Answer::Chunk(row.map(|_| ChunkRef { id: *id, len, slot: known.slot })))
        }
    }
}

/// An inode, unless it was given up.
fn inode(snap: &dyn Snapshot, ino: Ino) -> Res<InodeRow> {
    let key = keys::inode(ino);
    let row = get::<InodeRow>(snap, &key)?.ok_or(Refusal::NotFound)?;
    if row.nlink == 0 && get::<OrphanRow>(snap, &key)?.is_none_or(|o| o.reap_due.is_some()) {
        return Err(Refusal::NotFound.into());
    }
    Ok(row)
}

fn directory(snap: &dyn Snapshot, ino: Ino) -> Res<InodeRow> {
    let row = inode(snap, ino)?;
    if row.kind == FileKind::Directory { Ok(row) } else { Err(Refusal::NotDirectory.into()) }
}

/// Attributes, with the extents if they are few.
fn node(snap: &dyn Snapshot, ino: Ino, row: &InodeRow) -> Result<NodeInfo, Fault> {
    let only = match only_extent(ino, row) {
        Some(key) => snap.get(Table::Extent, &key)?,
        None => None,
    };
    node_with(snap, ino, row, only)
}

/// Where the extent is that most files consist of: one that ends where the file does. To get it is several times cheaper
/// than to look for extents.
fn only_extent(ino: Ino, row: &InodeRow) -> Option<[u8; 16]> {
    (row.extents == 1).then(|| keys::extent(ino, row.size))
}

/// The same, with what was found at [`only_extent`].
fn node_with(snap: &dyn Snapshot, ino: Ino, row: &InodeRow, only: Option<Vec<u8>>) -> Result<NodeInfo, Fault> {
    let extents = match (row.extents, only) {
        (0, _) => Some(Vec::new()),
        (1, Some(value)) => Some(extent::parse(&keys::extent(ino, row.size), &value)?.1),
        (n, _) if n <= INLINE_EXTENTS as u64 => Some(overlapping(snap, ino, row.size, ALL, INLINE_EXTENTS)?),
        _ => None,
    };
    Ok(NodeInfo { attr: row.attr(ino), extents })
}

/// Rows of inodes whose numbers lie so near each other, on the average, are read in one go: of files that were made
/// one after the other. To step over a row costs about a quarter of looking for one.
const DENSE: u64 = 4;

const ALL: ByteRange = ByteRange { start: 0, end: u64::MAX };

fn lookup(snap: &dyn Snapshot, parent: Ino, name: &Name) -> Res<Answer> {
    directory(snap, parent)?;
    let dentry = get::<DentryRow>(snap, &keys::dentry(parent, name))?.ok_or(Refusal::NotFound)?;
    let key = keys::inode(dentry.ino);
    let row = get::<InodeRow>(snap, &key)?;
    let row = row.ok_or_else(|| corrupt(Table::Inode, &key, "it has a name but does not exist"))?;
    Ok(Answer::Node(node(snap, dentry.ino, &row)?))
}

fn read_dir(snap: &dyn Snapshot, ino: Ino, after: Option<&Name>, limit: u32, plus: bool) -> Res<Answer> {
    let attr = directory(snap, ino)?.attr(ino);
    let limit = limit.clamp(1, DIR_ENTRIES) as usize;
    let prefix = keys::inode(ino);
    let from = after.map_or(prefix.to_vec(), |name| next_key(&keys::dentry(ino, name)));
    let mut rows = page(snap, Table::Dentry, &prefix, &from, limit + 1)?;
    let end = rows.len() <= limit;
    rows.truncate(limit);
    let mut entries = Vec::with_capacity(rows.len());
    for (key, value) in &rows {
        let (_, name) = keys::parse_dentry(key).ok_or_else(|| corrupt(Table::Dentry, key, "not a key"))?;
        let row = DentryRow::from_value(key, value)?;
        entries.push(DirEntry { name, ino: row.ino, kind: row.kind, node: None });
    }
    if plus {
        let rows = inodes(snap, &entries)?;
        let with_one = |(at, (entry, row)): (usize, (&DirEntry, &InodeRow))| Some((only_extent(entry.ino, row)?, at));
        let wanted = entries.iter().zip(&rows).enumerate().filter_map(with_one).collect();
        let mut only = vec![None; entries.len()];
        near(snap, Table::Extent, wanted, &mut |at, _, value| {
            only[at] = Some(value.to_vec());
            Ok(())
        })?;
        for ((entry, row), only) in entries.iter_mut().zip(&rows).zip(only) {
            entry.node = Some(node_with(snap, entry.ino, row, only)?);
        }
    }
    Ok(Answer::Dir { attr, entries, end })
}

/// The inodes of these entries, in their order.
fn inodes(snap: &dyn Snapshot, entries: &[DirEntry]) -> Result<Vec<InodeRow>, Fault> {
    let missing = |ino: Ino| corrupt(Table::Inode, &keys::inode(ino), "it has a name but does not exist");
    let wanted = entries.iter().enumerate().map(|(at, e)| (keys::inode(e.ino), at)).collect();
    let mut rows: Vec<Option<InodeRow>> = vec![None; entries.len()];
    near(snap, Table::Inode, wanted, &mut |at, key, value| {
        rows[at] = Some(InodeRow::from_value(key, value)?);
        Ok(())
    })?;
    entries.iter().zip(rows).map(|(entry, row)| row.ok_or_else(|| missing(entry.ino))).collect()
}

/// Gets the number, the key and the value of a row.
type Take<'a> = dyn FnMut(usize, &[u8], &[u8]) -> Result<(), Fault> + 'a;

/// Takes the rows of these keys, which begin with inode numbers; each key has a number to tell it by.
fn near<K: AsRef<[u8]> + Ord>(
    snap: &dyn Snapshot,
    table: Table,
    mut wanted: Vec<(K, usize)>,
    take: &mut Take<'_>,
) -> Result<(), Fault> {
    let mut fault = None;
    wanted.retain(|(key, at)| {
        let taken = &mut |value: &[u8]| fault = take(*at, key.as_ref(), value).err().or(fault.take());
        !snap.at_hand(table, key.as_ref(), taken)
    });
    fault.map_or(Ok(()), Err)?;
    wanted.sort_unstable();
    let (Some((first, _)), Some((last, _))) = (wanted.first(), wanted.last()) else { return Ok(()) };
    let ino = |key: &K| key.as_ref().first_chunk().map_or(0, |ino| u64::from_be_bytes(*ino));
    let mut left = &wanted[..];
    if (ino(last) - ino(first)) / DENSE < wanted.len() as u64 {
        // Of an inode there may be many rows, and may have been more: what is left when there were too many is looked for.
        let most = DENSE * wanted.len() as u64;
        let (mut steps, mut fault) = (most, None);
        snap.visit_near(table, (first.as_ref(), &next_key(last.as_ref())), most, &mut |key, value| {
            // An inode can have several names in one directory.
            while let Some(((wanted, at), rest)) = left.split_first()
                && wanted.as_ref() <= key
                && fault.is_none()
            {
                left = rest;
                if wanted.as_ref() == key {
                    fault = take(*at, key, value).err();
                }
            }
            steps -= 1;
            let ends = left.is_empty() || steps == 0 || fault.is_some();
            if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        fault.map_or(Ok(()), Err)?;
    }
    let keys: Vec<_> = left.iter().map(|(key, _)| (table, key.as_ref().to_vec())).collect();
    for (((_, at), (_, key)), value) in left.iter().zip(&keys).zip(snap.multi_get(&keys)?) {
        value.map_or(Ok(()), |value| take(*at, key, &value))?;
    }
    Ok(())
}

fn extents(snap: &dyn Snapshot, ino: Ino, from: u64, limit: u32) -> Res<Answer> {
    let row = inode(snap, ino)?;
    if row.kind != FileKind::File {
        return Err(Refusal::Invalid.into());
    }
    let limit = limit.clamp(1, EXTENTS) as usize;
    let range = ByteRange { start: from, end: u64::MAX };
    let mut extents: Vec<Extent> = if row.extents == 0 || from >= row.size {
        Vec::new()
    } else {
        overlapping(snap, ino, row.size, range, limit + 1)?
    };
    let end = extents.len() <= limit;
    extents.truncate(limit);
    Ok(Answer::Extents { data: row.data, extents, end })
}

fn list_xattr(snap: &dyn Snapshot, ino: Ino) -> Res<Answer> {
    if inode(snap, ino)?.xattr_bytes == 0 {
        return Ok(Answer::Names(Vec::new()));
    }
    let prefix = keys::inode(ino);
    let mut names = Vec::new();
    // A name takes two bytes at least, so this is more than there can be. The values may be half a gigabyte.
    for key in page_of_keys(snap, Table::Xattr, &prefix, XATTR_LIST_BYTES)? {
        let (_, name) = keys::parse_xattr(&key).ok_or_else(|| corrupt(Table::Xattr, &key, "not a key"))?;
        names.push(name.to_vec());
    }
    Ok(Answer::Names(names))
}
