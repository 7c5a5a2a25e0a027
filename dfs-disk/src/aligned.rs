//! A byte buffer whose first byte lies at a multiple of [`DIRECT_ALIGN`], as
//! direct I/O wants it. It grows like a `Vec` and keeps its alignment.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};

use crate::DIRECT_ALIGN;

/// A growable byte buffer aligned to [`DIRECT_ALIGN`].
#[derive(Default)]
pub struct AlignedBuf {
    /// The bytes are `raw[start..start + len]`; `raw` is never resized, so its address stays.
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// An empty buffer that owns no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        if capacity == 0 {
            return Self::default();
        }
        let raw = vec![0; round_up(capacity).saturating_add(DIRECT_ALIGN)];
        let start = raw.as_ptr().addr().wrapping_neg() % DIRECT_ALIGN;
        Self { raw, start, len: 0 }
    }

    /// A buffer of `len` zeros.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::with_capacity(len);
        buf.len = len;
        buf
    }

    /// How many bytes fit without growing; a multiple of [`DIRECT_ALIGN`].
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.raw.len().saturating_sub(DIRECT_ALIGN)
    }

    /// Makes room for `more` bytes after the present ones.
    pub fn reserve(&mut self, more: usize) {
        let wanted = self.len + more;
        if wanted > self.capacity() {
            let mut grown = Self::with_capacity(wanted.max(self.capacity() * 2));
            grown.raw[grown.start..grown.start + self.len].copy_from_slice(self);
            grown.len = self.len;
            *self = grown;
        }
    }

    /// Appends `bytes`.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let end = self.start + self.len;
        self.raw[end..end + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Sets the length; new bytes are `byte`.
    pub fn resize(&mut self, len: usize, byte: u8) {
        if len > self.len {
            self.reserve(len - self.len);
            self.raw[self.start + self.len..self.start + len].fill(byte);
        }
        self.len = len;
    }

    /// Fills up with zeros to the next multiple of [`DIRECT_ALIGN`].
    pub fn pad(&mut self) {
        self.resize(round_up(self.len), 0);
    }

    /// Forgets all bytes beyond `len`; no effect when there are none.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Forgets all bytes and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Clone for AlignedBuf {
    fn clone(&self) -> Self {
        Self::from(&self[..])
    }
}

impl From<&[u8]> for AlignedBuf {
    fn from(bytes: &[u8]) -> Self {
        let mut buf = Self::with_capacity(bytes.len());
        buf.extend_from_slice(bytes);
        buf
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf").field("len", &self.len).field("capacity", &self.capacity()).finish()
    }
}

/// `n` rounded up to a multiple of [`DIRECT_ALIGN`].
#[must_use]
pub const fn round_up(n: usize) -> usize {
    n.next_multiple_of(DIRECT_ALIGN)
}

/// Checks what direct I/O asks of a buffer and its place in the file. Every
/// [`crate::Disk`] does so, even where it falls back to buffered I/O: a caller
/// that gets it wrong shall fail on every machine, not only on some.
pub(crate) fn check_direct(buf: &[u8], offset: u64) -> io::Result<()> {
    let aligned = offset.is_multiple_of(DIRECT_ALIGN as u64)
        && buf.len().is_multiple_of(DIRECT_ALIGN)
        && (buf.is_empty() || buf.as_ptr().addr().is_multiple_of(DIRECT_ALIGN));
    if aligned {
        Ok(())
    } else {
        let message = format!(
            "direct I/O needs multiples of {DIRECT_ALIGN}: offset {offset}, length {}, address {:p}",
            buf.len(),
            buf.as_ptr()
        );
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_and_keeps_its_bytes_while_it_grows() {
        let mut buf = AlignedBuf::new();
        let mut plain = Vec::new();
        for i in 0..3000_usize {
            let piece = vec![i as u8; i % 37];
            buf.extend_from_slice(&piece);
            plain.extend_from_slice(&piece);
            assert!(buf.is_empty() || buf.as_ptr().addr().is_multiple_of(DIRECT_ALIGN));
        }
        assert_eq!(&buf[..], &plain[..]);
        buf.pad();
        assert!(buf.len().is_multiple_of(DIRECT_ALIGN) && check_direct(&buf, 8192).is_ok());
        assert!(buf[plain.len()..].iter().all(|b| *b == 0));
        assert_eq!(&buf.clone()[..], &buf[..]);
    }

    #[test]
    fn stale_bytes_do_not_come_back() {
        let mut buf = AlignedBuf::from(&[7_u8; 100][..]);
        buf.truncate(10);
        buf.resize(100, 0);
        assert_eq!(&buf[..10], &[7; 10]);
        assert_eq!(&buf[10..], &[0; 90]);
        assert_eq!(AlignedBuf::zeroed(5000).iter().filter(|b| **b != 0).count(), 0);
    }

    #[test]
    fn direct_rules() {
        let buf = AlignedBuf::zeroed(2 * DIRECT_ALIGN);
        assert!(check_direct(&buf, 0).is_ok());
        assert!(check_direct(&buf, 1).is_err());
        assert!(check_direct(&buf[..100], 0).is_err());
        assert!(check_direct(&buf[1..=DIRECT_ALIGN], 0).is_err());
        assert!(check_direct(&[], 4096).is_ok());
    }
}
