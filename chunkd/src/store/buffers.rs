//! Buffers for reading big chunks, used again instead of given back.
//!
//! A fresh buffer of a MiB costs more in page faults than reading into it: the kernel has to find,
//! clear and map each of its pages. So a few are kept. What is kept is bounded by [`KEPT`].

use std::sync::Mutex;

use bytes::Bytes;
use dfs_disk::{AlignedBuf, DIRECT_ALIGN};

use super::lock;

/// Room for the bytes of the usual long read, and for its proof before them.
const ROOM: usize = (1 << 20) + DIRECT_ALIGN;
/// Shorter ones are the allocator's.
const LEAST: usize = 256 << 10;
/// Buffers that lie idle at most.
const KEPT: usize = 8;

static IDLE: Mutex<Vec<AlignedBuf>> = Mutex::new(Vec::new());

/// A buffer that is kept for the next reader when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: AlignedBuf,
    len: usize,
}

impl Buffer {
    /// Of `len` bytes, which hold anything.
    pub(super) fn of(len: usize) -> Self {
        if !(LEAST..=ROOM).contains(&len) {
            return Self { bytes: AlignedBuf::zeroed(len), len };
        }
        let bytes = lock(&IDLE).pop().unwrap_or_else(|| AlignedBuf::zeroed(ROOM));
        Self { bytes, len }
    }

    /// Its bytes.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// From `from` to `to`, without a copy.
    pub(super) fn freeze(self, from: usize, to: usize) -> Bytes {
        Bytes::from_owner(self).slice(from..to)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.len() == ROOM {
            let mut idle = lock(&IDLE);
            if idle.len() < KEPT {
                idle.push(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_never_while_it_is_read() {
        let mut first = Buffer::of(LEAST);
        first.bytes().fill(1);
        let first = first.freeze(10, 20);
        let mut others: Vec<Buffer> = (0..2 * KEPT).map(|_| Buffer::of(ROOM)).collect();
        others.iter_mut().for_each(|b| b.bytes().fill(2));
        assert_eq!(first, [1; 10][..]);
        drop(others);
        assert!(lock(&IDLE).len() <= KEPT);
        assert_eq!(Buffer::of(100).freeze(0, 100), [0; 100][..]);
    }
}
