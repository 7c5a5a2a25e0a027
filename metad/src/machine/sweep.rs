//! Looking for cuts that want cleaning and were not noted.
//!
//! A write notes the cut from which it takes bytes. Two things happen without a write: bytes that a cut shared with
//! another file are dead when that one is gone, and pieces gather in files that are too few for a note with each write. Both
//! are found by going through all extents.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use dfs_core::chunk::ChunkRef;
use dfs_core::cleaning::{Cleaning, cleaning};
use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::limits::{CHUNK_BYTES, CROWDED_EXTENTS};
use dfs_core::range::ByteRange;

use crate::kv::{Snapshot, Table};
use crate::schema::chunk::ChunkRow;
use crate::schema::extent::{self, CleanRow};
use crate::schema::{Fault, corrupt, get, keys};

/// Extents of one cut that are looked at; one that has more wants cleaning whatever they are.
const MOST: usize = 2 * CROWDED_EXTENTS;

/// A file and a cut of it.
pub(crate) type Cut = (Ino, u64);

/// What a step has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Cuts that want cleaning and are not noted.
    pub(crate) wanting: Vec<Cut>,
    /// The cut to go on with; `None` at the end.
    pub(crate) next: Option<Cut>,
}

#[derive(Debug, Default)]
struct Reading {
    cuts: BTreeMap<Cut, Vec<Extent>>,
    next: Option<Cut>,
    /// The last cut, if it has too many extents to be read.
    too_many: Option<Cut>,
}

/// Looks at the cuts from `from` on that have the next `rows` extents, and at the rest of the last of them.
///
/// # Errors
/// A fault of the store.
pub(crate) fn sweep(snap: &dyn Snapshot, from: Cut, rows: usize) -> Result<Swept, Fault> {
    let Reading { cuts, next, too_many } = read(snap, from, rows)?;
    let mut wanting = Vec::new();
    for (cut, extents) in cuts {
        let wants = too_many == Some(cut) || wants_cleaning(snap, extents)?;
        if wants && get::<CleanRow>(snap, &keys::clean(cut.0, cut.1))?.is_none() {
            wanting.push(cut);
        }
    }
    Ok(Swept { wanting, next })
}

fn range_of(cut: u64) -> ByteRange {
    let start = cut.saturating_mul(CHUNK_BYTES);
    ByteRange { start, end: start.saturating_add(CHUNK_BYTES) }
}

fn read(snap: &dyn Snapshot, from: Cut, rows: usize) -> Result<Reading, Fault> {
    let mut reading = Reading::default();
    let (mut seen, mut fault) = (0, None);
    let first_key = keys::extent(from.0, range_of(from.1).start.saturating_add(1));
    snap.visit(Table::Extent, &first_key, None, &mut |key, value| match extent::parse(key, value) {
        Ok((ino, run)) => run.into_iter().try_for_each(|extent| {
            let begins = (ino, extent.range.start / CHUNK_BYTES);
            let newest = reading.cuts.last_key_value().map(|(cut, _)| *cut);
            if seen >= rows && newest.is_some_and(|newest| newest < begins) {
                reading.next = Some(begins);
                return ControlFlow::Break(());
            }
            seen += 1;
            reading.add(from, ino, &extent)
        }),
        Err(f) => {
            fault = Some(f);
            ControlFlow::Break(())
        }
    })?;
    fault.map_or(Ok(reading), Err)
}

impl Reading {
    /// Takes an extent in, as far as it is not before `from`. Ends at one too many of a cut.
    fn add(&mut self, from: Cut, ino: Ino, extent: &Extent) -> ControlFlow<()> {
        for cut in extent.range.start / CHUNK_BYTES..=(extent.range.end - 1) / CHUNK_BYTES {
            // Of the cut before, the others were read in the step before.
            if (ino, cut) >= from {
                let extents = self.cuts.entry((ino, cut)).or_default();
                extents.extend(extent.slice(range_of(cut)));
                if extents.len() > MOST {
                    (self.too_many, self.next) = (Some((ino, cut)), Some((ino, cut + 1)));
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Whether something is to be done about a cut, chunks left out that others use too: those stay whatever is done.
fn wants_cleaning(snap: &dyn Snapshot, mut extents: Vec<Extent>) -> Result<bool, Fault> {
    if cleaning(&extents) == Cleaning::Good {
        return Ok(false);
    }
    let mut used: BTreeMap<ChunkRef, u64> = BTreeMap::new();
    extents.iter().for_each(|e| *used.entry(e.chunk).or_default() += e.range.len());
    let mut shared = Vec::new();
    for (chunk, used) in used {
        let key = keys::chunk(chunk.slot, chunk.id);
        let row = get::<ChunkRow>(snap, &key)?;
        let row = row.ok_or_else(|| corrupt(Table::Chunk, &key, "an extent names it but it has no row"))?;
        if row.live > used {
            shared.push(chunk);
        }
    }
    extents.retain(|e| shared.binary_search(&e.chunk).is_err());
    Ok(cleaning(&extents) != Cleaning::Good)
}
