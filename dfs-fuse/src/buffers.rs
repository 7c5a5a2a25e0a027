//! The allocator of this program: glibc's, but a few freed big buffers are kept for the next of their size.
//!
//! What travels to and from the chunk daemons lies in buffers of about a MiB that live for some milliseconds. glibc
//! either maps each of them afresh, and then the kernel has to find, clear and map its pages over and over (half of
//! the CPU of a sequential read), or keeps them in its arenas, and then holds twice the memory that is in use. Here at
//! most `KEPT_BYTES` are kept, whatever the load.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, PoisonError};

/// Buffers from this size on are big.
const LEAST: usize = 256 << 10;
/// Big buffers have a multiple of this size.
const STEP: usize = 128 << 10;
/// Larger ones are left to glibc.
const MOST: usize = 4 << 20;
const SIZES: usize = MOST / STEP + 1;
/// Idle buffers of one size.
const KEPT: usize = 16;
/// Bytes of all idle buffers.
const KEPT_BYTES: usize = 24 << 20;

/// See the module.
#[derive(Debug)]
pub struct Buffers {
    idle: Mutex<Idle>,
}

#[derive(Debug)]
struct Idle {
    /// By size in steps: addresses of buffers that nobody uses.
    of_size: [[usize; KEPT]; SIZES],
    count: [usize; SIZES],
    bytes: usize,
}

impl Idle {
    fn take(&mut self, steps: usize) -> Option<usize> {
        let last = self.count[steps].checked_sub(1)?;
        self.count[steps] = last;
        self.bytes -= steps * STEP;
        Some(self.of_size[steps][last])
    }

    fn keep(&mut self, steps: usize, buffer: usize) -> bool {
        let count = self.count[steps];
        if count == KEPT || self.bytes + steps * STEP > KEPT_BYTES {
            return false;
        }
        self.of_size[steps][count] = buffer;
        self.count[steps] = count + 1;
        self.bytes += steps * STEP;
        true
    }
}

/// How many steps a big buffer takes; `None` for what is not big. Depends on the layout alone, so that a buffer goes
/// back to where it came from.
fn steps(layout: Layout) -> Option<usize> {
    let big = (LEAST..=MOST).contains(&layout.size()) && layout.align() <= 16;
    big.then(|| layout.size().div_ceil(STEP))
}

fn whole(steps: usize) -> Layout {
    // Far below the limit of a layout.
    Layout::from_size_align(steps * STEP, 16).unwrap_or(Layout::new::<u128>())
}

impl Buffers {
    /// Keeps nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { idle: Mutex::new(Idle { of_size: [[0; KEPT]; SIZES], count: [0; SIZES], bytes: 0 }) }
    }

    fn take(&self, steps: usize) -> Option<*mut u8> {
        let buffer = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take(steps)?;
        Some(std::ptr::with_exposed_provenance_mut(buffer))
    }

    fn keep(&self, steps: usize, buffer: *mut u8) -> bool {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).keep(steps, buffer.expose_provenance())
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every pointer comes from `System` and goes back to it with the layout it came with: `whole(steps)` for big
// buffers, which is at least as long as what was asked for and at least as aligned, the caller's own for all else. A
// kept buffer is in `idle` once, and out of it before somebody gets it. The lock allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Buffers {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match steps(layout) {
            // SAFETY: as the caller promises.
            None => unsafe { System.alloc(layout) },
            // SAFETY: the size is not 0.
            Some(steps) => self.take(steps).unwrap_or_else(|| unsafe { System.alloc(whole(steps)) }),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match steps(layout) {
            // SAFETY: as the caller promises.
            None => unsafe { System.alloc_zeroed(layout) },
            Some(steps) => match self.take(steps) {
                Some(buffer) => {
                    // SAFETY: it has at least this many bytes, and nobody else uses it.
                    unsafe { buffer.write_bytes(0, layout.size()) };
                    buffer
                }
                // SAFETY: the size is not 0.
                None => unsafe { System.alloc_zeroed(whole(steps)) },
            },
        }
    }

    unsafe fn dealloc(&self, buffer: *mut u8, layout: Layout) {
        match steps(layout) {
            // SAFETY: as the caller promises; small ones came from there.
            None => unsafe { System.dealloc(buffer, layout) },
            Some(steps) if self.keep(steps, buffer) => {}
            // SAFETY: big ones came from there with this layout.
            Some(steps) => unsafe { System.dealloc(buffer, whole(steps)) },
        }
    }

    unsafe fn realloc(&self, buffer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size is not 0 and not too long for the alignment.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (steps(layout), steps(new)) {
            // SAFETY: as the caller promises.
            (None, None) => unsafe { System.realloc(buffer, layout, new_size) },
            (old, new) if old == new => buffer,
            _ => {
                // SAFETY: the layout is a valid one.
                let moved = unsafe { self.alloc(new) };
                if !moved.is_null() {
                    // SAFETY: both have as many bytes, and they are different buffers; the old one is not used again.
                    unsafe {
                        moved.copy_from_nonoverlapping(buffer, layout.size().min(new_size));
                        self.dealloc(buffer, layout);
                    }
                }
                moved
            }
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    #[test]
    fn a_big_buffer_is_used_again_for_its_like_and_zeroed_when_that_is_asked() {
        let buffers = Buffers::new();
        let (one, other) = (layout((1 << 20) + 5), layout((1 << 20) + 1000));
        // SAFETY: each buffer is written within its layout and freed once, with it.
        unsafe {
            let first = buffers.alloc(one);
            first.write_bytes(7, one.size());
            buffers.dealloc(first, one);
            let again = buffers.alloc_zeroed(other);
            assert_eq!(again, first);
            assert!((0..other.size()).all(|at| again.add(at).read() == 0));
            let second = buffers.alloc(one);
            assert_ne!(second, again, "one that is in use is nobody else's");
            buffers.dealloc(second, one);
            buffers.dealloc(again, other);
        }
    }

    #[test]
    fn what_grows_and_shrinks_keeps_its_bytes() {
        let buffers = Buffers::new();
        // SAFETY: as above.
        unsafe {
            let mut at = layout(100);
            let mut buffer = buffers.alloc(at);
            (0..100).for_each(|i| buffer.add(i).write(i as u8));
            for size in [1000, LEAST, LEAST + 1, LEAST + STEP, MOST, MOST + 1, MOST, LEAST, LEAST - 1, 100] {
                buffer = buffers.realloc(buffer, at, size);
                at = layout(size);
                assert!((0..100).all(|i| buffer.add(i).read() == i as u8), "{size}");
            }
            buffers.dealloc(buffer, at);
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let buffers = Buffers::new();
        // SAFETY: as above.
        unsafe {
            for size in (LEAST..=MOST).step_by(STEP / 2) {
                let some: Vec<_> = (0..2 * KEPT).map(|_| buffers.alloc(layout(size))).collect();
                some.into_iter().for_each(|b| buffers.dealloc(b, layout(size)));
            }
        }
        assert!(buffers.idle.lock().unwrap().bytes <= KEPT_BYTES);
    }
}
