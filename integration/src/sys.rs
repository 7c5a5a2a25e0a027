//! System calls that the standard library has no function for, as plain functions with plain errors.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn result(code: impl Into<i64>) -> io::Result<usize> {
    usize::try_from(code.into()).map_err(|_| io::Error::last_os_error())
}

/// The errno of a result; 0 when it is good.
#[must_use]
pub fn errno<T>(result: &io::Result<T>) -> i32 {
    result.as_ref().err().map_or(0, |e| e.raw_os_error().unwrap_or(-1))
}

/// `posix_fadvise(2)` with `POSIX_FADV_DONTNEED` over the whole file: its clean pages leave the page cache.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn drop_pages(file: &File) -> io::Result<()> {
    // SAFETY: it only takes numbers; the descriptor is open as long as the file is borrowed.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// `renameat2(2)` with `RENAME_*` flags.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn rename(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (text(from)?, text(to)?);
    // SAFETY: both are strings with a NUL at their end that outlive the call.
    let code = unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    result(code).map(drop)
}

/// `lsetxattr(2)` with `XATTR_*` flags.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn set_xattr(path: &Path, name: &str, value: &[u8], flags: i32) -> io::Result<()> {
    let (path, name) = (text(path)?, CString::new(name)?);
    // SAFETY: the strings have a NUL at their end, the value has the length that is said, all outlive the call.
    let code = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    result(code).map(drop)
}

/// `lgetxattr(2)` with a buffer of `room` bytes; how long the value is, and what is in the buffer.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn get_xattr(path: &Path, name: &str, room: usize) -> io::Result<(usize, Vec<u8>)> {
    let (path, name) = (text(path)?, CString::new(name)?);
    let mut value = vec![0_u8; room];
    // SAFETY: the strings have a NUL at their end, the buffer has the length that is said, all outlive the call.
    let code = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), room) };
    let len = result(i64::try_from(code).map_err(io::Error::other)?)?;
    value.truncate(len);
    Ok((len, value))
}

/// `llistxattr(2)` with a buffer of `room` bytes; how long the list is, and what is in the buffer.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn list_xattr(path: &Path, room: usize) -> io::Result<(usize, Vec<u8>)> {
    let path = text(path)?;
    let mut names = vec![0_u8; room];
    // SAFETY: the string has a NUL at its end, the buffer has the length that is said, both outlive the call.
    let code = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), room) };
    let len = result(i64::try_from(code).map_err(io::Error::other)?)?;
    names.truncate(len);
    Ok((len, names))
}

/// `lremovexattr(2)`.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn remove_xattr(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = (text(path)?, CString::new(name)?);
    // SAFETY: both are strings with a NUL at their end that outlive the call.
    result(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}

/// `utimensat(2)` without following; times are seconds and nanoseconds.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn set_times(path: &Path, atime: (i64, i64), mtime: (i64, i64)) -> io::Result<()> {
    let path = text(path)?;
    let times = [atime, mtime].map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec });
    // SAFETY: the string has a NUL at its end, there are two times, both outlive the call.
    let code = unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    result(code).map(drop)
}

/// `mknod(2)`.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn mknod(path: &Path, mode: u32, device: u64) -> io::Result<()> {
    let path = text(path)?;
    // SAFETY: a string with a NUL at its end that outlives the call.
    result(unsafe { libc::mknod(path.as_ptr(), mode, device) }).map(drop)
}

/// `copy_file_range(2)` from one offset to another; how many bytes.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn copy_range(from: (&File, u64), to: (&File, u64), len: usize) -> io::Result<u64> {
    let (Ok(mut source), Ok(mut target)) = (i64::try_from(from.1), i64::try_from(to.1)) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let (from, to) = (from.0.as_raw_fd(), to.0.as_raw_fd());
    // SAFETY: both descriptors are open, both offsets outlive the call.
    let code = unsafe { libc::copy_file_range(from, &raw mut source, to, &raw mut target, len, 0) };
    Ok(result(i64::try_from(code).map_err(io::Error::other)?)? as u64)
}

/// `pwritev2(2)` of one buffer with `RWF_*` flags.
///
/// # Errors
/// As the call; `WriteZero` when it wrote less than all of it.
#[allow(unsafe_code)]
pub fn write_with(file: &File, data: &[u8], offset: u64, flags: i32) -> io::Result<()> {
    let part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let Ok(offset) = i64::try_from(offset) else { return Err(io::Error::from_raw_os_error(libc::EINVAL)) };
    // SAFETY: the one part is a buffer that outlives the call, which only reads it.
    let code = unsafe { libc::pwritev2(file.as_raw_fd(), &raw const part, 1, offset, flags) };
    let written = result(i64::try_from(code).map_err(io::Error::other)?)? as usize;
    if written == data.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// `fallocate(2)` with `FALLOC_FL_*` flags.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    // SAFETY: the descriptor is open.
    result(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) }).map(drop)
}

/// `lseek(2)` with `SEEK_DATA` or `SEEK_HOLE`; `None` is `ENXIO`.
///
/// # Errors
/// As the call, but for that one.
#[allow(unsafe_code)]
pub fn seek(file: &File, offset: u64, whence: i32) -> io::Result<Option<u64>> {
    let Ok(offset) = i64::try_from(offset) else { return Err(io::Error::from_raw_os_error(libc::EINVAL)) };
    // SAFETY: the descriptor is open.
    match result(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) }) {
        Ok(at) => Ok(Some(at as u64)),
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The ranges of a file that have data, as `SEEK_DATA` and `SEEK_HOLE` tell them.
///
/// # Errors
/// As [`seek`].
pub fn data_ranges(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(start) = seek(file, at, libc::SEEK_DATA)? {
        let end = seek(file, start, libc::SEEK_HOLE)?.ok_or_else(|| io::Error::other("data without an end"))?;
        ranges.push((start, end));
        at = end;
    }
    Ok(ranges)
}

/// What `statvfs(3)` says: block size, blocks, free and available ones, inodes, free ones, longest name.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes of a block.
    pub block: u64,
    /// Blocks, free blocks, blocks free for those who are not root.
    pub blocks: [u64; 3],
    /// Inodes, free inodes.
    pub inodes: [u64; 2],
    /// Bytes of the longest name.
    pub name: u64,
}

/// `statvfs(3)`.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn space(path: &Path) -> io::Result<Space> {
    let path = text(path)?;
    // SAFETY: zero is a value of each field, all are plain numbers.
    let mut out: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the string has a NUL at its end, both outlive the call.
    result(unsafe { libc::statvfs(path.as_ptr(), &raw mut out) })?;
    Ok(Space {
        block: out.f_frsize,
        blocks: [out.f_blocks, out.f_bfree, out.f_bavail],
        inodes: [out.f_files, out.f_ffree],
        name: out.f_namemax,
    })
}

/// `syncfs(2)`.
///
/// # Errors
/// As the call.
#[allow(unsafe_code)]
pub fn sync_fs(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: a plain system call on an open descriptor.
    result(unsafe { libc::syncfs(file.as_raw_fd()) }).map(drop)
}

/// A writable mapping of a file; its bytes are reached by copies only.
#[derive(Debug)]
pub struct Mapping {
    at: *mut u8,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes; what is written to the mapping is written to the file.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn new(file: &impl AsRawFd, len: usize) -> io::Result<Self> {
        Self::with(file, len, libc::MAP_SHARED)
    }

    /// The same; what is written stays in the mapping.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn private(file: &impl AsRawFd, len: usize) -> io::Result<Self> {
        Self::with(file, len, libc::MAP_PRIVATE)
    }

    #[allow(unsafe_code)]
    fn with(file: &impl AsRawFd, len: usize, kind: libc::c_int) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses an address that nothing else has.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, access, kind, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at: at.cast(), len })
    }

    /// What is there now.
    ///
    /// # Panics
    /// The range is not in the mapping.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn get(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len, "outside of the mapping");
        let mut out = vec![0; len];
        // SAFETY: the range is in the mapping, which lives as long as this.
        unsafe { ptr::copy_nonoverlapping(self.at.add(at), out.as_mut_ptr(), len) };
        out
    }

    /// Writes into the mapping.
    ///
    /// # Panics
    /// The range is not in the mapping.
    #[allow(unsafe_code)]
    pub fn put(&mut self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= self.len, "outside of the mapping");
        // SAFETY: the range is in the mapping, which lives as long as this.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.at.add(at), data.len()) };
    }

    /// `msync(2)` of all, waiting.
    ///
    /// # Errors
    /// As the call.
    #[allow(unsafe_code)]
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly what was mapped.
        result(unsafe { libc::msync(self.at.cast(), self.len, libc::MS_SYNC) }).map(drop)
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and nobody has it any more. It cannot fail with these arguments.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}
