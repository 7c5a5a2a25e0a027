//! Which files use a chunk, and by what names: the other way round than the tables are ordered, so all of them are
//! read. Only for chunks that are lost.

use std::collections::{BTreeMap, BTreeSet};

use dfs_core::chunk::ChunkId;
use dfs_core::id::{Ino, SlotId};
use dfs_core::range::ByteRange;

use super::rows::Rows;
use crate::kv::{Snapshot, Table};
use crate::schema::inode::{DentryRow, InodeRow};
use crate::schema::{Fault, Record, extent, get, keys};

/// Uses that are told; there may be any number of others.
pub(super) const USES: usize = 1000;
/// Directories above each other that are walked; deeper paths are cut.
const DEEP: usize = 256;

/// A range of a file that is a range of one of the chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Which chunk.
    pub chunk: (SlotId, ChunkId),
    /// Which file.
    pub ino: Ino,
    /// One of its names, from the root; empty if it has none.
    pub path: Vec<u8>,
    /// Where in the file.
    pub range: ByteRange,
}

/// The first `USES` uses of these chunks, in the order of files.
///
/// # Errors
/// When the store fails. Damaged rows are passed over.
pub fn uses(snap: &dyn Snapshot, chunks: &BTreeSet<(SlotId, ChunkId)>) -> Result<Vec<Use>, Fault> {
    let mut found = Vec::new();
    let mut extents = Rows::new(snap, Table::Extent, Vec::new());
    while let Some((key, value)) = extents.next()?
        && found.len() < USES
    {
        let Ok((ino, run)) = extent::parse(&key, &value) else { continue };
        let with_chunk = run.iter().map(|e| ((e.chunk.slot, e.chunk.id), e.range));
        let hit = with_chunk.filter(|(chunk, _)| chunks.contains(chunk));
        found.extend(hit.map(|(chunk, range)| Use { chunk, ino, path: Vec::new(), range }));
    }
    found.truncate(USES);
    let mut names: BTreeMap<Ino, Vec<u8>> = BTreeMap::new();
    let wanted: BTreeSet<Ino> = found.iter().map(|u| u.ino).collect();
    let mut dentries = Rows::new(snap, Table::Dentry, Vec::new());
    while names.len() < wanted.len() {
        let Some((key, value)) = dentries.next()? else { break };
        let (Some((parent, name)), Ok(row)) = (keys::parse_dentry(&key), DentryRow::from_value(&key, &value)) else {
            continue;
        };
        if wanted.contains(&row.ino) && !names.contains_key(&row.ino) {
            let mut path = directory(snap, parent)?;
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
            names.insert(row.ino, path);
        }
    }
    for one in &mut found {
        one.path = names.get(&one.ino).cloned().unwrap_or_default();
    }
    Ok(found)
}

/// The path of a directory; empty for the root.
fn directory(snap: &dyn Snapshot, mut ino: Ino) -> Result<Vec<u8>, Fault> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    while ino != Ino::ROOT && names.len() < DEEP {
        let Some(row) = get::<InodeRow>(snap, &keys::inode(ino))? else { break };
        let Some(name) = name_in(snap, row.parent, ino)? else { break };
        names.push(name);
        ino = row.parent;
    }
    Ok(names.into_iter().rev().fold(Vec::new(), |mut path, name| {
        path.push(b'/');
        path.extend(name);
        path
    }))
}

fn name_in(snap: &dyn Snapshot, parent: Ino, ino: Ino) -> Result<Option<Vec<u8>>, Fault> {
    let prefix = keys::inode(parent);
    let mut dentries = Rows::new(snap, Table::Dentry, prefix.to_vec());
    while let Some((key, value)) = dentries.next_up_to(&prefix)? {
        if DentryRow::from_value(&key, &value).is_ok_and(|row| row.ino == ino) {
            return Ok(keys::parse_dentry(&key).map(|(_, name)| name.as_bytes().to_vec()));
        }
    }
    Ok(None)
}
