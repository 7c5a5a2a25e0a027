//! Cleaning: which bytes of a cut are worth being written anew, and when.
//!
//! Overwriting leaves dead bytes in old chunks, and many pieces. A chunk goes when nothing of it lives any more, so what
//! still lives of the emptiest chunks is put together in a new one, as a log-structured filesystem cleans its segments
//! (Rosenblum and Ousterhout, 1992). To take the emptiest first is what keeps it cheap: for random overwriting that is
//! kept to 1.4 times the live bytes, a byte is written about twice in all. A cut that is left alone is made one piece.

use std::collections::BTreeMap;

use crate::chunk::ChunkRef;
use crate::extent::Extent;
use crate::limits::CROWDED_EXTENTS;

/// Chunks, or seams less than [`SHORT`] apart, from which a cut that is left alone is worth being put together.
const PIECES: usize = 16;
/// Extents of a file, for each of its cuts, from which one that is written to is worth a look.
pub const MANY: u64 = 64;
/// Bytes between two seams that do not hinder who reads on and on.
const SHORT: u64 = 64 << 10;
/// Dead bytes of a cut, in tenths of the live ones, from which room is made.
const DEAD: u64 = 4;
/// With fewer dead bytes than this there have to be more of them than live ones.
const DEAD_BYTES: u64 = 8 << 20;
/// Dead bytes that may stay, in quarters of the live ones.
const STAY: u64 = 1;
/// A chunk is left as it is when a merge would copy more than so many times the bytes of all smaller ones for it.
const GROWTH: u64 = 4;

/// What to do about the extents of one cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cleaning {
    /// Nothing.
    Good,
    /// To write these anew as one chunk, now: too much is dead, or they are very many.
    Now(Vec<Extent>),
    /// The same, when the file is left alone: as long as it is written to, much would be copied for little.
    WhenQuiet(Vec<Extent>),
}

/// A chunk as one cut uses it.
#[derive(Clone, Copy, Debug)]
struct Used {
    chunk: ChunkRef,
    live: u64,
}

impl Used {
    fn len(&self) -> u64 {
        u64::from(self.chunk.len)
    }
}

/// What to do about the extents of one cut, which are in order and of nothing else.
#[must_use]
pub fn cleaning(extents: &[Extent]) -> Cleaning {
    let mut used: BTreeMap<ChunkRef, u64> = BTreeMap::new();
    extents.iter().for_each(|e| *used.entry(e.chunk).or_default() += e.range.len());
    let mut used: Vec<Used> = used.into_iter().map(|(chunk, live)| Used { chunk, live }).collect();
    let live: u64 = used.iter().map(|u| u.live).sum();
    let footprint: u64 = used.iter().map(Used::len).sum();
    // Bytes of a chunk can be in a file several times.
    let dead = footprint.saturating_sub(live);
    // Where one extent follows another: in one chunk they would be one. What lies between holes stays apart.
    let seams = extents.windows(2).filter(|two| two[0].range.end == two[1].range.start).count();
    if live == 0 {
        Cleaning::Good
    } else if seams > CROWDED_EXTENTS {
        Cleaning::Now(extents.to_vec())
    } else if dead > live || (dead >= DEAD_BYTES && dead > live / 10 * DEAD) {
        emptiest_first(&mut used);
        Cleaning::Now(of(extents, until_little_is_dead(&used, dead, live)))
    } else if seams >= PIECES && seams as u64 > live / SHORT {
        Cleaning::WhenQuiet(extents.to_vec())
    } else if used.len() >= PIECES {
        used.sort_unstable_by_key(|u| (u.live, u.chunk));
        Cleaning::WhenQuiet(of(extents, smallest(&used)))
    } else {
        Cleaning::Good
    }
}

/// Whether a cut that uses a chunk of `len` bytes, of which `live` are bytes of files in `refs` extents, may be worth
/// cleaning. Asked with each write, so it is told from this chunk alone.
#[must_use]
pub fn is_worth_a_look(len: u64, live: u64, refs: u64) -> bool {
    let dead = len.saturating_sub(live);
    let is_dead = dead > live || (dead >= DEAD_BYTES && dead > live / 10 * DEAD);
    is_dead || (refs >= PIECES as u64 && refs.saturating_mul(SHORT) > len)
}

fn emptiest_first(used: &mut [Used]) {
    // Shares of bytes as fractions of 2^32: a chunk has no more than 64 MiB.
    used.sort_unstable_by_key(|u| ((u.live << 32) / u.len().max(1), u.chunk));
}

/// So many of the first that little enough is dead of the others.
fn until_little_is_dead(used: &[Used], mut dead: u64, live: u64) -> &[Used] {
    let enough = used.iter().position(|u| {
        let done = dead <= live / 4 * STAY;
        dead = dead.saturating_sub(u.len().saturating_sub(u.live));
        done
    });
    &used[..enough.unwrap_or(used.len())]
}

/// All but the last ones that are each much larger than all smaller ones together.
fn smallest(used: &[Used]) -> &[Used] {
    let mut before: u64 = used.iter().map(|u| u.live).sum();
    let large = used.iter().rev().take_while(|u| {
        before -= u.live;
        u.live > before * GROWTH
    });
    &used[..used.len() - large.count()]
}

/// The extents that name one of these chunks.
fn of(extents: &[Extent], used: &[Used]) -> Vec<Extent> {
    let chunks: std::collections::BTreeSet<ChunkRef> = used.iter().map(|u| u.chunk).collect();
    extents.iter().filter(|e| chunks.contains(&e.chunk)).copied().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::ChunkId;
    use crate::id::SlotId;
    use crate::range::ByteRange;

    const MIB: u64 = 1 << 20;

    fn chunk(n: u32, len: u64) -> ChunkRef {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        ChunkRef { id: ChunkId(id), len: len as u32, slot: SlotId(1) }
    }

    /// Pieces of a file, each of so many bytes of this chunk.
    fn file(pieces: &[(u64, ChunkRef)]) -> Vec<Extent> {
        let mut start = 0;
        let extent = |(len, chunk): &(u64, ChunkRef)| {
            let range = ByteRange { start, end: start + len };
            start += len;
            Extent { range, chunk: *chunk, offset: 0 }
        };
        pieces.iter().map(extent).collect()
    }

    #[test]
    fn small_cuts_may_be_half_dead_and_large_ones_have_less_of_it() {
        assert_eq!(cleaning(&[]), Cleaning::Good);
        let half = file(&[(10, chunk(1, 20))]);
        assert_eq!(cleaning(&half), Cleaning::Good);
        let more = file(&[(10, chunk(1, 21))]);
        assert_eq!(cleaning(&more), Cleaning::Now(more.clone()));
        // A chunk counts once, however many extents name it.
        assert_eq!(cleaning(&file(&[(10, chunk(1, 40)), (10, chunk(1, 40))])), Cleaning::Good);
        assert_eq!(cleaning(&file(&[(40 * MIB, chunk(1, 56 * MIB))])), Cleaning::Good);
        let large = file(&[(40 * MIB, chunk(1, 57 * MIB))]);
        assert_eq!(cleaning(&large), Cleaning::Now(large.clone()));
    }

    #[test]
    fn the_emptiest_chunks_go_and_full_ones_stay() {
        let (empty, half, full) = (chunk(1, 32 * MIB), chunk(2, 8 * MIB), chunk(3, 16 * MIB));
        let extents = file(&[(MIB, empty), (4 * MIB, half), (16 * MIB, full), (2 * MIB, empty)]);
        let Cleaning::Now(moved) = cleaning(&extents) else { panic!("much is dead") };
        assert_eq!(moved, [extents[0], extents[3]], "then 4 MiB of 23 are dead");
        // Emptiest by share: less lives of the small one, but all of it.
        let extents = file(&[(MIB, chunk(1, MIB)), (10 * MIB, chunk(2, 40 * MIB))]);
        assert_eq!(cleaning(&extents), Cleaning::Now(vec![extents[1]]));
    }

    #[test]
    fn pieces_are_put_together_when_it_is_quiet_and_what_is_large_is_not_copied_for_little() {
        let few = PIECES as u32 - 1;
        let small: Vec<_> = (0..few).map(|n| (4096, chunk(n, 4096))).collect();
        assert_eq!(cleaning(&file(&small)), Cleaning::Good);
        let small: Vec<_> = (0..=few).map(|n| (if n == 0 { 1 } else { 4096 }, chunk(n, 4096))).collect();
        assert_eq!(cleaning(&file(&small)), Cleaning::WhenQuiet(file(&small)));
        // Sixteen pages written to a large file: they become one chunk, the large one stays.
        let large = chunk(99, 60 * MIB);
        let mut all = vec![(30 * MIB, large)];
        all.extend(&small);
        all.push((30 * MIB, large));
        let extents = file(&all);
        assert_eq!(cleaning(&extents), Cleaning::WhenQuiet(extents[1..=small.len()].to_vec()));
        // Of about the same size, they are all one.
        let equal: Vec<_> = (0..60).map(|n| (MIB, chunk(n, MIB))).collect();
        assert_eq!(cleaning(&file(&equal)), Cleaning::WhenQuiet(file(&equal)));
        // Short extents hinder reading, be the chunks few: all become one.
        let (one, two) = (chunk(1, 32 * MIB), chunk(2, 32 * MIB));
        let in_turn = |n: u64| {
            let chunks = [chunk(3, n.div_ceil(2) * 4096), chunk(4, n / 2 * 4096)];
            file(&(0..n).map(|at| (4096, chunks[(at % 2) as usize])).collect::<Vec<_>>())
        };
        assert_eq!(cleaning(&in_turn(PIECES as u64)), Cleaning::Good);
        assert_eq!(cleaning(&in_turn(PIECES as u64 + 1)), Cleaning::WhenQuiet(in_turn(PIECES as u64 + 1)));
        let short: Vec<_> = (0..2000).map(|n| (32 << 10, if n % 2 == 0 { one } else { two })).collect();
        assert_eq!(cleaning(&file(&short)), Cleaning::WhenQuiet(file(&short)));
    }

    #[test]
    fn very_many_are_put_together_at_once() {
        let c = chunk(1, 60 * MIB);
        let many = |n: usize| file(&vec![(3000, c); n]);
        assert!(matches!(cleaning(&many(CROWDED_EXTENTS + 1)), Cleaning::WhenQuiet(_)));
        assert_eq!(cleaning(&many(CROWDED_EXTENTS + 2)), Cleaning::Now(many(CROWDED_EXTENTS + 2)));
    }

    #[test]
    fn what_lies_between_holes_cannot_be_put_together() {
        let c = chunk(1, 60 * MIB);
        let mut extents = file(&vec![(3000, c); CROWDED_EXTENTS + 2]);
        extents.iter_mut().for_each(|e| e.range.end -= 1);
        assert_eq!(cleaning(&extents), Cleaning::Good);
    }

    #[test]
    fn a_look_is_worth_it_where_something_may_be_done() {
        assert!(!is_worth_a_look(64 * MIB, 48 * MIB, 9) && is_worth_a_look(64 * MIB, 45 * MIB, 9));
        assert!(!is_worth_a_look(MIB, MIB / 2, 9) && is_worth_a_look(MIB, MIB / 2 - 1, 9));
        assert!(!is_worth_a_look(4096, 4096, 15) && is_worth_a_look(4096, 4096, 16));
        assert!(!is_worth_a_look(MIB, MIB, 16) && is_worth_a_look(MIB, MIB, 17));
    }

    fn dead(extents: &[Extent]) -> u64 {
        let chunks: std::collections::BTreeSet<ChunkRef> = extents.iter().map(|e| e.chunk).collect();
        let live: u64 = extents.iter().map(|e| e.range.len()).sum();
        chunks.iter().map(|c| u64::from(c.len)).sum::<u64>() - live
    }

    proptest! {
        /// What is moved is moved whole, makes room, and is not to be moved again.
        #[test]
        fn it_comes_to_rest(
            pieces in proptest::collection::vec((prop_oneof![1..8 * MIB, 1..99_000_u64], 0..24_u32, 0..30 * MIB), 1..60)
        ) {
            let mut lens: BTreeMap<u32, u64> = BTreeMap::new();
            for (len, n, dead) in &pieces {
                *lens.entry(*n).or_default() += len + dead / 8;
            }
            let used: Vec<_> = pieces.iter().map(|(len, n, _)| (*len, chunk(*n, lens[n]))).collect();
            let mut extents = file(&used);
            let live: u64 = extents.iter().map(|e| e.range.len()).sum();
            for round in 0..4 {
                let plan = cleaning(&extents);
                let (Cleaning::Now(moved) | Cleaning::WhenQuiet(moved)) = &plan else { return Ok(()) };
                prop_assert!(!moved.is_empty());
                let new = chunk(100 + round, moved.iter().map(|e| e.range.len()).sum());
                let gone: Vec<_> = moved.iter().map(|e| e.chunk).collect();
                // Else nothing becomes free.
                prop_assert!(extents.iter().all(|e| !gone.contains(&e.chunk) || moved.contains(e)));
                let mut offset = 0;
                for e in extents.iter_mut().filter(|e| gone.contains(&e.chunk)) {
                    (e.chunk, e.offset) = (new, offset);
                    offset += e.range.len() as u32;
                }
                let mut map = crate::extent::ExtentMap::default();
                extents.iter().for_each(|e| map.insert(*e));
                extents = map.iter().copied().collect();
                if matches!(plan, Cleaning::Now(_)) {
                    prop_assert!(dead(&extents) <= live / 4, "{} dead of {live}", dead(&extents));
                }
            }
            prop_assert_eq!(cleaning(&extents), Cleaning::Good, "not after four rounds");
        }
    }
}
