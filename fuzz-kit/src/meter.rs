//! Counts the bytes that a thread holds, so that a parser that believes a length is found without a gigabyte being
//! there to be asked for.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes asked for less bytes given back; below 0 when others' are given back here.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counted.
struct Metered;

#[global_allocator]
static METERED: Metered = Metered;

fn count(bytes: isize) {
    // A thread that is ending has no counters any more, and nothing to measure.
    let _ = HELD.try_with(|held| {
        held.set(held.get().wrapping_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

/// Layouts are never longer than `isize::MAX`.
fn size(layout: Layout) -> isize {
    isize::try_from(layout.size()).unwrap_or(isize::MAX)
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout));
        // SAFETY: the caller's promises are those of the one called.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout));
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-size(layout));
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both may be there for a moment.
        count(isize::try_from(new_size).unwrap_or(isize::MAX));
        count(-size(layout));
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

/// The most bytes that `work` held at a moment, beyond what this thread held before.
pub fn peak_of(work: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    work();
    usize::try_from(PEAK.get() - before).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_at_once_counts() {
        let one_by_one = || (0..10).for_each(|_| drop(std::hint::black_box(vec![1_u8; 1000])));
        assert!((1000..2000).contains(&peak_of(one_by_one)));
        let at_once = || drop(std::hint::black_box((0..10).map(|_| vec![1_u8; 1000]).collect::<Vec<_>>()));
        assert!((10_000..12_000).contains(&peak_of(at_once)));
        let zeros = || drop(std::hint::black_box(vec![0_u8; 1 << 30]));
        assert!(peak_of(zeros) >= 1 << 30);
        assert_eq!(peak_of(|| ()), 0);
    }
}
