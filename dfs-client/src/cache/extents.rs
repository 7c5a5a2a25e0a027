//! The extents of a file as far as they are known: of one `data`, and complete in some ranges.
//!
//! All files of a mount share one [`Room`]. A file that is written or read in small parts has very many, and what is
//! forgotten costs a question each time that it is wanted again: so no file has a bound of its own. Over the bound
//! those go first that nobody looked at since the last time.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dfs_core::extent::{Extent, ExtentMap};
use dfs_core::limits::EXTENTS;
use dfs_core::range::ByteRange;

/// Extents known of all files together, about: some 100 bytes each. Between two looks it is exceeded by what comes in
/// the meantime.
const ROOM: usize = 1 << 19;
/// So many are left in peace: to go through the files is not worth less.
const LEFT: usize = ROOM / 4 * 3;
/// Asked for at first; twice as many each time that they go on where the last ended.
const FIRST: u32 = 256;

const EVERYWHERE: ByteRange = ByteRange { start: 0, end: u64::MAX };

/// How many extents are known.
#[derive(Debug, Default)]
pub struct Room(AtomicUsize);

impl Room {
    /// Whether there are too many.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.held() > ROOM
    }

    /// How many must go, if [`Room::is_over`].
    #[must_use]
    pub fn surplus(&self) -> usize {
        self.held().saturating_sub(LEFT)
    }

    fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Extents {
    data: u64,
    map: ExtentMap,
    /// The map is complete, as that of most files is.
    whole: bool,
    /// Where it is complete if not as a whole: from, to; not touching.
    complete: BTreeMap<u64, u64>,
    room: Arc<Room>,
    /// What of the room is this file's.
    held: usize,
    /// Answers that followed each other up to the last, and where that ended.
    row: u32,
    row_end: u64,
    /// Somebody looked since [`Extents::is_worth`] was asked.
    used: Cell<bool>,
}

impl Drop for Extents {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.held, Ordering::Relaxed);
    }
}

impl Extents {
    /// None known.
    #[must_use]
    pub fn new(room: Arc<Room>) -> Self {
        let (map, complete) = (ExtentMap::default(), BTreeMap::new());
        Self { data: 0, map, whole: false, complete, room, held: 0, row: 0, row_end: 0, used: Cell::new(false) }
    }

    /// Of which version they are.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.data
    }

    /// Forgets them; what comes is of version `data`.
    pub fn reset(&mut self, data: u64) {
        *self = Self::new(self.room.clone());
        self.data = data;
    }

    /// From version `before` to `data`; `change` says where it is known what the extents are now. What was known of
    /// an older version is forgotten.
    pub fn change(&mut self, before: u64, data: u64, change: impl FnOnce(&mut ExtentMap) -> Vec<ByteRange>) {
        if self.data == before {
            let complete = change(&mut self.map);
            self.data = data;
            for range in complete {
                self.completed(range);
            }
            self.account();
        } else if self.data < data {
            self.reset(0);
        }
    }

    /// Extents of version `data` that end after `from`; `end`: there are none after them.
    pub fn learn(&mut self, data: u64, from: u64, extents: &[Extent], end: bool) {
        if self.data != data {
            self.reset(data);
        }
        let to = if end { u64::MAX } else { extents.last().map_or(from, |e| e.range.end) };
        let Some(range) = ByteRange::new(from, to) else { return };
        self.map.punch(range);
        for extent in extents {
            self.map.insert(*extent);
        }
        self.completed(range);
        self.row = if from == self.row_end { self.row + 1 } else { 1 };
        self.row_end = to;
        self.account();
    }

    /// How many to ask for from `from` on. Who wants a few of very many does not wait for thousands, and who goes through
    /// all of them gets there in a few questions.
    #[must_use]
    pub fn wanted(&self, from: u64) -> u32 {
        let row = if from == self.row_end { self.row } else { 0 };
        FIRST.saturating_mul(1 << row.min(16)).min(EXTENTS)
    }

    /// The extents, and up to where they are known from `at` on, if they are there and of version `data`.
    #[must_use]
    pub fn from(&self, data: u64, at: u64) -> Option<(&ExtentMap, u64)> {
        if self.data != data {
            return None;
        }
        let end = if self.whole { u64::MAX } else { *self.complete.range(..=at).next_back()?.1 };
        if end <= at {
            return None;
        }
        self.used.set(true);
        Some((&self.map, end))
    }

    /// How much would be gained by forgetting them, and whether somebody looked at them since this was last asked.
    pub fn is_worth(&self) -> Option<(bool, usize)> {
        (self.held > 0).then(|| (self.used.take(), self.held))
    }

    fn completed(&mut self, mut range: ByteRange) {
        if self.whole {
            return;
        }
        if let Some((start, end)) = self.complete.range(..=range.start).next_back()
            && *end >= range.start
        {
            range = ByteRange { start: *start, end: range.end.max(*end) };
        }
        while let Some((start, end)) = self.complete.range((Excluded(range.start), Unbounded)).next()
            && *start <= range.end
        {
            let start = *start;
            range.end = range.end.max(*end);
            self.complete.remove(&start);
        }
        if range == EVERYWHERE {
            (self.whole, self.complete) = (true, BTreeMap::new());
        } else {
            self.complete.insert(range.start, range.end);
        }
    }

    fn account(&mut self) {
        let held = self.map.len() + self.complete.len();
        // The sum may wrap on its way.
        self.room.0.fetch_add(held.wrapping_sub(self.held), Ordering::Relaxed);
        self.held = held;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::chunk::{ChunkId, ChunkRef};
    use dfs_core::id::SlotId;
    use proptest::prelude::*;

    fn extent(start: u64, end: u64) -> Extent {
        let chunk = ChunkRef { id: ChunkId([1; 32]), len: 1000, slot: SlotId(1) };
        Extent { range: ByteRange { start, end }, chunk, offset: 0 }
    }

    proptest! {
        #[test]
        fn complete_is_what_was_completed(ranges in proptest::collection::vec((0..90usize, 1..9usize), 1..40)) {
            let mut extents = Extents::new(Arc::default());
            let mut known = [false; 100];
            for (start, len) in ranges {
                extents.change(0, 0, |_| vec![ByteRange { start: start as u64, end: (start + len) as u64 }]);
                known[start..start + len].fill(true);
                for at in 0..100 {
                    let to = known[at..].iter().position(|known| !known).map_or(100, |more| at + more);
                    let want = known[at].then_some(to as u64);
                    prop_assert_eq!(extents.from(0, at as u64).map(|(_, to)| to), want, "from {}", at);
                }
                let apart: Vec<_> = extents.complete.iter().map(|(s, e)| (*s, *e)).collect();
                prop_assert!(apart.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", apart);
            }
        }
    }

    #[test]
    fn the_room_has_what_the_files_have() {
        let room = Arc::new(Room::default());
        let (mut one, mut other) = (Extents::new(room.clone()), Extents::new(room.clone()));
        one.learn(1, 0, &[extent(0, 10), extent(20, 30)], true);
        other.learn(1, 0, &[extent(0, 10)], true);
        assert_eq!(room.held(), 3);
        other.learn(2, 0, &[extent(0, 10)], false);
        assert_eq!(room.held(), 4, "and a range");
        one.change(1, 2, |map| {
            map.truncate(0);
            Vec::new()
        });
        assert_eq!(room.held(), 2);
        other.reset(0);
        assert_eq!(room.held(), 0);
        drop(one);
        assert_eq!(room.held(), 0);
    }

    #[test]
    fn what_is_complete_stays_so_until_it_is_of_another_version() {
        let mut extents = Extents::new(Arc::default());
        let end = |extents: &Extents, data, at| extents.from(data, at).map(|(_, end)| end);
        extents.learn(1, 50, &[extent(60, 70)], true);
        assert_eq!([0, 50].map(|at| end(&extents, 1, at)), [None, Some(u64::MAX)]);
        extents.learn(1, 0, &[extent(0, 50)], false);
        assert_eq!([0, 50, 5000].map(|at| end(&extents, 1, at)), [Some(u64::MAX); 3]);
        assert!(extents.complete.is_empty() && extents.from(1, 0).unwrap().0.len() == 2);
        extents.change(1, 2, |_| vec![ByteRange { start: 10, end: 20 }]);
        assert_eq!([0, 30].map(|at| end(&extents, 2, at)), [Some(u64::MAX); 2]);
        assert_eq!(end(&extents, 1, 0), None);
        extents.learn(3, 10, &[extent(10, 20)], false);
        assert_eq!([0, 10, 20].map(|at| end(&extents, 3, at)), [None, Some(20), None]);
    }

    #[test]
    fn a_few_are_asked_for_at_first_and_more_when_it_goes_on() {
        let mut extents = Extents::new(Arc::default());
        let mut ask = |data, from| {
            let wanted = extents.wanted(from);
            extents.learn(data, from, &[extent(from, from + 10)], false);
            wanted
        };
        assert_eq!([0, 10, 20, 30, 40, 50].map(|from| ask(1, from)), [256, 512, 1024, 2048, 4096, EXTENTS]);
        assert_eq!([100, 300, 200, 210, 110].map(|from| ask(1, from)), [256, 256, 256, 512, 256]);
        assert_eq!([120, 0].map(|from| ask(2, from)), [512, 256], "of another version");
    }

    #[test]
    fn what_nobody_looked_at_is_found() {
        let mut extents = Extents::new(Arc::default());
        let row: Vec<Extent> = (0..100).map(|n| extent(n * 10, n * 10 + 10)).collect();
        extents.learn(1, 0, &row, false);
        assert_eq!(extents.is_worth(), Some((false, 101)));
        assert!(extents.from(1, 500).is_some());
        assert_eq!(extents.is_worth(), Some((true, 101)));
        assert_eq!(extents.is_worth(), Some((false, 101)));
        extents.reset(0);
        assert_eq!(extents.is_worth(), None);
    }
}
