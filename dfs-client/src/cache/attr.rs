//! What is known of one inode: attributes, extents, and which bytes the kernel has. Pure: time is handed in.
//!
//! - Of two attributes the one with the higher `change` is newer, in whatever order answers come.
//! - Extents are of one `data`; they serve while the (fresh) attributes say the same `data`.
//! - The kernel's pages are of one `data` too. When it turns out to be another, they are stale and must go.
//!   While commits of this client are in flight nobody can tell whose change it was: judged when they are back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_core::attr::Attr;
use dfs_core::extent::{Extent, ExtentMap};
use dfs_core::range::ByteRange;

use super::extents::{Extents, Room};

/// Whether the kernel must drop the pages of the file.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// They are right.
    Good,
    /// They are old.
    Stale,
}

/// See the module.
#[derive(Debug)]
pub struct Known {
    attr: Option<(Attr, Instant)>,
    extents: Extents,
    /// The `data` of the kernel's pages.
    pages: Option<u64>,
    /// How often the kernel's pages were found old, and up to which of these findings it has dropped them.
    found_old: u64,
    settled: u64,
    /// Own commits without an answer.
    in_flight: u32,
}

impl Known {
    /// Nothing; extents are counted in `room`.
    #[must_use]
    pub fn new(room: Arc<Room>) -> Self {
        Self { attr: None, extents: Extents::new(room), pages: None, found_old: 0, settled: 0, in_flight: 0 }
    }

    /// The newest attributes, however old.
    #[must_use]
    pub fn attr(&self) -> Option<Attr> {
        self.attr.map(|(attr, _)| attr)
    }

    /// Attributes that still serve, and for how long.
    #[must_use]
    pub fn fresh(&self, now: Instant, ttl: Duration) -> Option<(Attr, Duration)> {
        let (attr, at) = self.attr?;
        let left = ttl.checked_sub(now.saturating_duration_since(at)).filter(|left| !left.is_zero())?;
        Some((attr, left))
    }

    /// An answer to a question asked at `asked`.
    pub fn learn(&mut self, attr: Attr, asked: Instant) -> Pages {
        match &mut self.attr {
            Some((known, _)) if known.change > attr.change => return Pages::Good,
            Some((known, at)) => (*known, *at) = (attr, asked.max(*at)),
            none => *none = Some((attr, asked)),
        }
        self.judge()
    }

    fn judge(&mut self) -> Pages {
        let Some((attr, _)) = self.attr else { return Pages::Good };
        if self.in_flight > 0 || self.pages.is_none_or(|data| data == attr.data) {
            return Pages::Good;
        }
        self.pages = Some(attr.data);
        self.found_old += 1;
        Pages::Stale
    }

    /// How often the kernel's pages were found old: for [`Known::settle`] when it has dropped them since.
    #[must_use]
    pub fn found_old(&self) -> u64 {
        self.found_old
    }

    /// The kernel has dropped what it had when that had been found old so often.
    pub fn settle(&mut self, found_old: u64) {
        self.settled = self.settled.max(found_old);
    }

    /// The kernel has no old pages, whatever was found.
    pub fn all_settled(&mut self) {
        self.settled = self.found_old;
    }

    /// Whether the kernel has no pages that were found old.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled == self.found_old
    }

    /// The kernel's pages, if there may be any, are not to be believed: it is to be told.
    pub fn doubt_pages(&mut self) -> bool {
        let any = self.pages.is_some();
        self.found_old += u64::from(any);
        any
    }

    /// A commit of this client that changes the inode is on its way.
    pub fn begin(&mut self) {
        self.in_flight += 1;
    }

    /// Whether such a commit is on its way.
    #[must_use]
    pub fn is_committing(&self) -> bool {
        self.in_flight > 0
    }

    /// Such a commit came back, answered or not.
    pub fn end(&mut self) -> Pages {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.judge()
    }

    /// What a commit of this client made of the inode, whose `data` was `before`; `change` says what became of the
    /// extents. Between [`Known::begin`] and [`Known::end`].
    pub fn committed(
        &mut self,
        attr: Attr,
        before: u64,
        sent: Instant,
        change: impl FnOnce(&mut ExtentMap) -> Vec<ByteRange>,
    ) {
        self.extents.change(before, attr.data, change);
        if self.pages == Some(before) {
            self.pages = Some(attr.data);
        }
        // Judged by `end`.
        let _ = self.learn(attr, sent);
    }

    /// [`Known::committed`] of a commit that altered bytes in a way that is not known here.
    pub fn committed_unseen(&mut self, attr: Attr, before: u64, sent: Instant) {
        self.committed(attr, before, sent, |_| Vec::new());
        self.extents.reset(0);
    }

    /// All extents of a file, as they came with its attributes.
    pub fn learn_all_extents(&mut self, data: u64, extents: &[Extent]) {
        if self.attr().is_some_and(|a| a.data == data) && self.extents.data() != data {
            self.extents.learn(data, 0, extents, true);
        }
    }

    /// Extents of version `data` that end after `from`; `end`: there are none after them.
    pub fn learn_extents(&mut self, data: u64, from: u64, extents: &[Extent], end: bool) {
        self.extents.learn(data, from, extents, end);
    }

    /// See [`Extents::wanted`].
    #[must_use]
    pub fn extents_wanted(&self, from: u64) -> u32 {
        self.extents.wanted(from)
    }

    /// See [`Extents::is_worth`].
    pub fn extents_worth(&self) -> Option<(bool, usize)> {
        self.extents.is_worth()
    }

    /// Forgets the extents; they are asked for again when they are wanted.
    pub fn forget_extents(&mut self) {
        self.extents.reset(0);
    }

    /// The extents, if they are known in all of `range` and of version `data`. Else from where on to ask.
    ///
    /// # Errors
    /// The first offset that is not known.
    pub fn extents(&self, data: u64, range: ByteRange) -> Result<&ExtentMap, u64> {
        match self.extents.from(data, range.start) {
            Some((map, end)) if end >= range.end => Ok(map),
            Some((_, end)) => Err(end),
            None => Err(range.start),
        }
    }

    /// The extents, and up to where they are known from `at` on, if they are there and of version `data`.
    #[must_use]
    pub fn extents_from(&self, data: u64, at: u64) -> Option<(&ExtentMap, u64)> {
        self.extents.from(data, at)
    }

    /// What is known may be wrong: ask again before the next use.
    pub fn distrust(&mut self) {
        self.attr = None;
        self.extents.reset(0);
    }

    /// The kernel opens the file: whether its pages are right. From now on they are of the newest known `data`. Pages
    /// that were found old are not right until they are dropped, which is somebody else's work.
    pub fn open_pages(&mut self) -> Pages {
        let Some((attr, _)) = self.attr else { return Pages::Stale };
        let good = self.pages == Some(attr.data) && self.is_settled();
        self.pages = Some(attr.data);
        if good { Pages::Good } else { Pages::Stale }
    }

    /// The caller has a lock of the file now and must not read what was there before: whether the kernel's pages are
    /// old, commits of this client in flight or not. If so they are to be dropped before anything is read.
    pub fn lock_pages(&mut self) -> Pages {
        let Some((attr, _)) = self.attr else { return Pages::Stale };
        if self.pages.is_none() || (self.pages == Some(attr.data) && self.in_flight == 0) {
            return Pages::Good;
        }
        self.pages = Some(attr.data);
        self.found_old += 1;
        Pages::Stale
    }

    /// Whether the kernel may have pages.
    #[must_use]
    pub fn has_pages(&self) -> bool {
        self.pages.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::attr::FileKind;
    use dfs_core::chunk::{ChunkId, ChunkRef};
    use dfs_core::id::{Ino, SlotId};
    use dfs_core::time::Timestamp;

    fn attr(change: u64, data: u64) -> Attr {
        let t = Timestamp::default();
        Attr {
            ino: Ino(2),
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 100,
            stored: 100,
            atime: t,
            mtime: t,
            ctime: t,
            btime: t,
            rdev: 0,
            change,
            data,
            xattrs: false,
        }
    }

    fn extent(start: u64, end: u64) -> Extent {
        let chunk = ChunkRef { id: ChunkId([1; 32]), len: 1000, slot: SlotId(1) };
        Extent { range: ByteRange { start, end }, chunk, offset: 0 }
    }

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange { start, end }
    }

    #[test]
    fn answers_that_overtake_each_other_do_not_bring_the_past_back() {
        let (mut known, now) = (Known::new(Arc::default()), Instant::now());
        let ttl = Duration::from_secs(1);
        assert_eq!(known.learn(attr(5, 2), now), Pages::Good);
        assert_eq!(known.learn(attr(4, 1), now + ttl), Pages::Good);
        assert_eq!(known.attr(), Some(attr(5, 2)));
        assert_eq!(known.fresh(now + ttl / 4, ttl), Some((attr(5, 2), ttl / 4 * 3)));
        assert_eq!(known.fresh(now + ttl, ttl), None, "the old answer must not have refreshed it");
    }

    #[test]
    fn pages_go_when_others_wrote_and_stay_when_we_did() {
        let (mut known, now) = (Known::new(Arc::default()), Instant::now());
        let _ = known.learn(attr(1, 1), now);
        assert_eq!(known.open_pages(), Pages::Stale, "what the kernel has from before is unknown");
        assert_eq!(known.open_pages(), Pages::Good);
        known.begin();
        assert_eq!(known.learn(attr(2, 2), now), Pages::Good, "it may be our own");
        known.committed(attr(2, 2), 1, now, |_| Vec::new());
        assert_eq!(known.end(), Pages::Good);
        assert_eq!(known.open_pages(), Pages::Good);
        assert_eq!(known.learn(attr(3, 3), now), Pages::Stale);
        assert_eq!(known.open_pages(), Pages::Stale, "they are still there");
        known.settle(known.found_old());
        assert_eq!(known.open_pages(), Pages::Good);
        assert_eq!(known.learn(attr(4, 3), now), Pages::Good, "told once");
        known.begin();
        known.committed(attr(6, 5), 4, now, |_| Vec::new());
        assert_eq!(known.end(), Pages::Stale, "somebody wrote between");
    }

    #[test]
    fn extents_serve_only_for_their_version_and_where_they_are_complete() {
        let (mut known, now) = (Known::new(Arc::default()), Instant::now());
        let _ = known.learn(attr(1, 7), now);
        known.learn_extents(7, 0, &[extent(0, 10), extent(20, 30)], false);
        assert!(known.extents(7, range(5, 30)).is_ok());
        assert_eq!(known.extents(7, range(5, 31)).err(), Some(30));
        assert_eq!(known.extents(8, range(5, 6)).err(), Some(5));
        known.learn_extents(7, 30, &[extent(40, 50)], true);
        assert_eq!(known.extents(7, range(0, 1 << 40)).map(ExtentMap::len), Ok(3));
        known.begin();
        known.committed(attr(2, 8), 7, now, |map| {
            map.insert(extent(5, 25));
            vec![range(5, 25)]
        });
        let _ = known.end();
        assert_eq!(known.extents(8, range(0, 50)).map(ExtentMap::len), Ok(4));
        known.begin();
        known.committed(attr(9, 10), 9, now, |_| unreachable!("somebody else wrote version 9"));
        let _ = known.end();
        assert_eq!(known.extents(10, range(0, 1)).err(), Some(0));
    }
}
