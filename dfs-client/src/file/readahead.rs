//! When to read what nobody has asked for yet. Pure.
//!
//! A handle that reads in order gets a window before it that doubles from 256 KiB to 8 MiB; the next part is
//! fetched when half of it is used up. A read elsewhere starts over.

use dfs_core::range::ByteRange;

/// First window.
pub const FIRST_BYTES: u64 = 256 << 10;
/// Widest window.
pub const MOST_BYTES: u64 = 8 << 20;
/// How far from the expected place a read still counts as in order, since the kernel sends several at once: this at
/// first, and half the window of a row that goes on. More would take one in a hundred reads here and there for a row.
const SLACK_BYTES: u64 = 128 << 10;

/// The reads of one handle so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readahead {
    next: u64,
    window: u64,
    asked: u64,
}

/// What a read means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// It follows the reads before.
    pub sequential: bool,
    /// Fetch this in the background.
    pub ahead: Option<ByteRange>,
}

impl Readahead {
    /// Takes note of a read of `range` in a file of `size` bytes.
    pub fn on_read(&mut self, range: ByteRange, size: u64) -> Advice {
        let slack = (self.window / 2).max(SLACK_BYTES);
        let sequential = range.start <= self.next + slack && self.next <= range.end + slack;
        if !sequential {
            *self = Self { next: range.end, window: 0, asked: range.end };
            return Advice { sequential: false, ahead: None };
        }
        self.next = self.next.max(range.end);
        self.asked = self.asked.max(self.next);
        let left = self.asked - self.next;
        if left > self.window / 2 {
            return Advice { sequential: true, ahead: None };
        }
        self.window = (self.window * 2).clamp(FIRST_BYTES, MOST_BYTES);
        let ahead = ByteRange::new(self.asked, (self.next + self.window).min(size));
        if let Some(ahead) = ahead {
            self.asked = ahead.end;
        }
        Advice { sequential: true, ahead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> ByteRange {
        ByteRange { start, end: start + len }
    }

    #[test]
    fn a_reader_in_order_gets_each_byte_once_and_a_window_that_grows_to_its_bound() {
        let size = 100 << 20;
        let mut ahead = Readahead::default();
        let (mut covered, mut at, mut widest) = (0, 0, 0);
        while at < size {
            let advice = ahead.on_read(range(at, 128 << 10), size);
            assert!(advice.sequential);
            at += 128 << 10;
            if let Some(more) = advice.ahead {
                assert_eq!(more.start, covered.max(at), "neither twice nor with a gap");
                covered = more.end;
                widest = widest.max(covered - at);
            }
        }
        assert_eq!((covered, widest), (size, MOST_BYTES));
    }

    #[test]
    fn reads_elsewhere_fetch_nothing_and_start_over() {
        let mut ahead = Readahead::default();
        for at in [50 << 20, 10 << 20, 90 << 20, 30 << 20] {
            assert_eq!(ahead.on_read(range(at, 4096), 1 << 30), Advice { sequential: false, ahead: None });
        }
        let advice = ahead.on_read(range((30 << 20) + 4096, 4096), 1 << 30);
        assert_eq!(advice.ahead.map(|r| r.len()), Some(FIRST_BYTES));
    }

    #[test]
    fn reads_that_overtake_each_other_are_still_in_order_and_the_end_is_the_end() {
        let mut ahead = Readahead::default();
        for at in [0, 256 << 10, 128 << 10, 512 << 10, 384 << 10] {
            assert!(ahead.on_read(range(at, 128 << 10), 1 << 20).sequential);
        }
        let mut small = Readahead::default();
        assert_eq!(small.on_read(range(0, 4096), 4096).ahead, None);
    }
}
