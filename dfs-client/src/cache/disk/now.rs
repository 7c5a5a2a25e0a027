//! Reading from the kernel's page cache, and only from there.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Fills `buf` from `offset` on if the kernel has all of it in memory; never waits for the disk. Whether it did.
/// Where the filesystem below does not know this, it never does.
#[allow(unsafe_code)]
pub(super) fn read(file: &File, buf: &mut [u8], offset: u64) -> bool {
    let Ok(at) = libc::off_t::try_from(offset) else { return false };
    let part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the one range of memory is `buf`, which
    // nobody else sees during the call and of which the kernel writes at most `iov_len` bytes.
    let got = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, at, libc::RWF_NOWAIT) };
    usize::try_from(got).is_ok_and(|got| got == buf.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_there_and_beyond_the_end_is_nothing() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"hello").unwrap();
        let file = File::open(&path).unwrap();
        let mut buf = [0; 5];
        // A filesystem may refuse; then it must say so.
        if read(&file, &mut buf, 0) {
            assert_eq!(&buf, b"hello");
        }
        assert!(!read(&file, &mut buf, 1));
        assert!(!read(&file, &mut buf, u64::MAX));
    }
}
