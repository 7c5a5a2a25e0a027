//! What uploaded seals become: the puts and groups of a commit. Pure but for the newest times of each file.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use dfs_core::chunk::ChunkRef;
use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::limits::{GROUPS, OPS, PART_BYTES, PUTS};
use dfs_core::op::{Group, Op, Put, SetAttr, Write};
use dfs_core::time::Timestamp;

use super::buffer::{Seal, SealNo};
use super::plan::{GroupPlan, Piece, Source};
use super::ride::Rider;
use crate::vfs::Inode;

/// Extents in one commit.
const COMMIT_EXTENTS: usize = 16_384;
/// A chunk of a seal; with a put, the stores have it.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) source: Source,
    pub(super) put: Option<Put>,
}

/// Position of a chunk: (item, chunk).
pub(super) type At = (usize, usize);

/// A seal with its chunks on the stores.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) inode: Arc<Inode>,
    pub(super) no: SealNo,
    pub(super) seal: Arc<Seal>,
    /// Still to be committed; each needs the one before. Chunks are positions in `chunks`.
    pub(super) groups: Vec<GroupPlan>,
    pub(super) chunks: Vec<Chunk>,
    /// What is to be done with the last of them, if it is in them at all.
    pub(super) rider: Option<Rider>,
}

impl Item {
    /// The bytes of a chunk. Those of scattered writes are copied together: not before they are sent.
    pub(super) fn parts(&self, chunk: usize) -> Vec<Bytes> {
        match (&self.chunks[chunk].source, &self.seal.streamed) {
            (Source::Streamed, Some((range, bytes))) => bytes.parts(&[*range], PART_BYTES),
            (Source::Streamed, None) => Vec::new(),
            (Source::Rest(ranges), _) => self.seal.rest.parts(ranges, PART_BYTES),
        }
    }

    pub(super) fn is_uploaded(&self) -> bool {
        self.chunks.iter().all(|chunk| chunk.put.is_some())
    }

    /// The put of a chunk of an uploaded item.
    pub(super) fn put(&self, chunk: usize) -> &Put {
        self.chunks[chunk].put.as_ref().expect("a seal is committed only when all its chunks are uploaded")
    }
}

/// What a group of a commit is of its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The group of the seal at this position.
    Seal(usize),
    /// Its rider.
    Rider,
}

/// Where a group of a commit comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) item: usize,
    pub(super) part: Part,
}

/// Which of a commit's puts a chunk of an item is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) item: usize,
    pub(super) chunk: usize,
    pub(super) put: usize,
}

/// A commit.
#[derive(Debug, Default)]
pub(super) struct Built {
    pub(super) puts: Vec<Put>,
    pub(super) placed: Vec<Placed>,
    pub(super) groups: Vec<Group>,
    pub(super) origins: Vec<Origin>,
    /// Inodes that riders concern though their ops do not name them.
    pub(super) about: Vec<Ino>,
}

/// A commit of as many items, in order, as fit; at least one group of the first is in it. Equal chunks of
/// different files are one put. A rider needs the last group of its seal.
pub(super) fn build(items: &[Item]) -> Built {
    let mut built = Built::default();
    let mut puts: HashMap<ChunkRef, usize> = HashMap::new();
    let (mut extents, mut ops) = (0, 0);
    for (i, item) in items.iter().enumerate() {
        // The newest times: they may have been set since the seal was taken.
        let (mtime, written, kill_priv, later) = {
            let state = item.inode.state();
            let seal = state.buffer().seal(item.no);
            let seal = seal.as_ref().unwrap_or(&item.seal);
            (seal.mtime, seal.written, seal.kill_priv, seal.later)
        };
        let mut placed: HashSet<usize> = HashSet::new();
        for (g, group) in item.groups.iter().enumerate() {
            let pieces = group.pieces();
            let fits = built.groups.len() < GROUPS
                && ops + group.writes.len() < OPS
                && extents + pieces <= COMMIT_EXTENTS
                && built.puts.len() + pieces <= PUTS;
            if !fits && !built.groups.is_empty() {
                return built;
            }
            for chunk in group.writes.iter().flatten().map(|piece| piece.chunk) {
                if placed.insert(chunk) {
                    let uploaded = item.put(chunk);
                    let put = *puts.entry(uploaded.chunk).or_insert_with(|| {
                        built.puts.push(uploaded.clone());
                        built.puts.len() - 1
                    });
                    built.placed.push(Placed { item: i, chunk, put });
                }
            }
            let writes = group.writes.iter().map(|pieces| Op::Write(write(item, pieces, mtime, kill_priv)));
            // With the last of the bytes that were there when it was set.
            let put_off = (g + 1 == item.groups.len() && later != SetAttr::default())
                .then_some(Op::SetAttr { ino: item.inode.ino, set: later });
            let before = built.groups.len().checked_sub(1).filter(|_| g > 0);
            let needs = before.and_then(|n| u16::try_from(n).ok()).into_iter().collect();
            built.groups.push(Group { time: written, needs, ops: writes.chain(put_off).collect() });
            built.origins.push(Origin { item: i, part: Part::Seal(g) });
            extents += pieces;
            // One more may be what was put off.
            ops += group.writes.len() + 1;
        }
        if let Some(rider) = &item.rider {
            if built.groups.len() == GROUPS || ops >= OPS {
                return built;
            }
            let before = built.groups.len().checked_sub(1).filter(|_| !item.groups.is_empty());
            let needs = before.and_then(|n| u16::try_from(n).ok()).into_iter().collect();
            built.groups.push(rider.group(needs));
            built.origins.push(Origin { item: i, part: Part::Rider });
            built.about.extend(&rider.about);
            ops += 1;
        }
    }
    built
}

fn write(item: &Item, pieces: &[Piece], mtime: Timestamp, kill_priv: bool) -> Write {
    let extent =
        |piece: &Piece| Extent { range: piece.range, chunk: item.put(piece.chunk).chunk, offset: piece.offset };
    let extents = pieces.iter().map(extent).collect();
    Write { ino: item.inode.ino, extents, holes: Vec::new(), mtime, kill_priv }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use dfs_core::chunk::ChunkId;
    use dfs_core::id::SlotId;
    use dfs_core::range::ByteRange;

    use super::*;
    use crate::file::buffer::{Buffer, WriteInfo};
    use crate::file::plan::plan;

    /// A file with 10 bytes written at each of `places`, uploaded: `content` names its chunks.
    fn item(ino: u64, places: &[u64], content: u8) -> Item {
        let mut buffer = Buffer::default();
        for at in places {
            let info = WriteInfo { now: Instant::now(), time: Timestamp { secs: 7, nanos: 0 }, kill_priv: false };
            buffer.write(*at, &[content; 10], info);
        }
        let no = buffer.seal_all().unwrap().no;
        let seal = buffer.seal(no).unwrap();
        let plan = plan(&seal);
        let chunks = plan.chunks.into_iter().enumerate().map(|(n, source)| {
            let id = ChunkId([content + n as u8; 32]);
            let len = source.len() as u32;
            Chunk { source, put: Some(Put { chunk: ChunkRef { id, len, slot: SlotId(1) }, acks: Vec::new() }) }
        });
        let chunks = chunks.collect();
        Item {
            inode: Arc::new(Inode::new(Ino(ino), Arc::default())),
            no,
            seal,
            groups: plan.groups,
            chunks,
            rider: None,
        }
    }

    fn writes(group: &Group) -> Vec<&Write> {
        let ops = group.ops.iter().map(|op| match op {
            Op::Write(write) => write,
            other => panic!("{other:?}"),
        });
        ops.collect()
    }

    #[test]
    fn many_files_are_one_commit_and_equal_chunks_one_put() {
        let items = [item(1, &[0], 1), item(2, &[0], 1), item(3, &[0, 100], 2)];
        let built = build(&items);
        assert_eq!((built.puts.len(), built.groups.len(), built.placed.len()), (2, 3, 3));
        assert!(built.groups.iter().all(|g| g.needs.is_empty()), "files do not need each other");
        let inos: Vec<_> =
            built.groups.iter().flat_map(writes).map(|w| (w.ino, w.extents.len(), w.mtime.secs)).collect();
        assert_eq!(inos, [(Ino(1), 1, 7), (Ino(2), 1, 7), (Ino(3), 2, 7)]);
        let third = writes(&built.groups[2])[0];
        assert_eq!(third.extents[1].range, ByteRange { start: 100, end: 110 });
        assert_eq!(third.extents[1].offset, 10);
        assert!(third.extents.iter().all(Extent::is_valid));
    }

    #[test]
    fn groups_of_one_file_need_the_one_before_and_a_commit_has_its_bounds() {
        let places: Vec<u64> = (0..20_000).map(|n| n * 100).collect();
        let mut items = [item(1, &[5], 9), item(2, &places, 1)];
        let built = build(&items);
        assert!(built.groups.iter().flat_map(writes).map(|w| w.extents.len()).sum::<usize>() <= COMMIT_EXTENTS);
        let needs: Vec<_> = built.groups.iter().map(|g| g.needs.clone()).collect();
        assert_eq!(needs[..4], [vec![], vec![], vec![1], vec![2]]);
        // What did not fit comes next.
        let sent = built.origins.iter().filter(|o| o.item == 1).count();
        assert!(sent > 0 && sent < items[1].groups.len());
        items[1].groups.drain(..sent);
        let rest = build(&items[1..]);
        assert_eq!(rest.groups.len(), items[1].groups.len());
        assert!(rest.groups[0].needs.is_empty());
    }

    /// A change of the file that comes after its seal.
    fn rider(ino: u64) -> Option<Rider> {
        let op = Op::SetAttr { ino: Ino(ino), set: SetAttr::default() };
        Some(Rider::new(op, &[Ino(99)], 0).0)
    }

    #[test]
    fn a_rider_needs_the_last_group_of_its_own_seal_and_waits_for_it() {
        let mut items = [item(1, &[0], 1), item(2, &[0], 2)];
        items[1].rider = rider(2);
        let built = build(&items);
        let parts: Vec<_> = built.origins.iter().map(|o| (o.item, o.part)).collect();
        assert_eq!(parts, [(0, Part::Seal(0)), (1, Part::Seal(0)), (1, Part::Rider)]);
        assert_eq!(built.groups[2].needs, [1]);
        assert_eq!(built.about, [Ino(99)]);
        // Groups that do not fit go first, and the rider not before the last of them.
        let places: Vec<u64> = (0..20_000).map(|n| n * 100).collect();
        let mut items = [Item { rider: rider(1), ..item(1, &places, 1) }];
        let built = build(&items);
        assert!(built.origins.iter().all(|o| o.part != Part::Rider));
        let sent = built.groups.len();
        items[0].groups.drain(..sent);
        let rest = build(&items);
        assert_eq!(rest.origins.last().map(|o| o.part), Some(Part::Rider));
        assert_eq!(usize::from(rest.groups.last().unwrap().needs[0]), rest.groups.len() - 2);
        // When all of the seal is in the metadata, it needs nothing more.
        items[0].groups.clear();
        let alone = build(&items);
        assert_eq!((alone.groups.len(), alone.puts.len()), (1, 0));
        assert!(alone.groups[0].needs.is_empty());
    }

    #[test]
    fn a_rider_that_does_not_fit_comes_with_the_next_commit() {
        let mut items: Vec<Item> = (0..GROUPS as u64).map(|n| item(n + 1, &[0], 1)).collect();
        items[GROUPS - 1].rider = rider(GROUPS as u64);
        let built = build(&items);
        assert_eq!(built.groups.len(), GROUPS);
        assert!(built.origins.iter().all(|o| o.part != Part::Rider));
    }
}
