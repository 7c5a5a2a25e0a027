//! System calls that the standard library has no function for, as plain functions with plain errors.

use std::ffi::{CStr, CString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::ptr;

/// Asked for at once; the kernel takes no more.
const COPY: usize = 0x7fff_f000;

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn result(code: impl Into<i64>) -> io::Result<usize> {
    usize::try_from(code.into()).map_err(|_| io::Error::last_os_error())
}

/// All of `from` into `to`, both from their start: how many bytes.
#[allow(unsafe_code)]
pub(super) fn copy(from: &File, to: &File) -> io::Result<u64> {
    let mut copied = 0;
    loop {
        let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
        // SAFETY: both descriptors are open, and no offsets are handed over.
        let code = unsafe { libc::copy_file_range(from, ptr::null_mut(), to, ptr::null_mut(), COPY, 0) };
        match result(i64::try_from(code).map_err(io::Error::other)?) {
            Ok(0) => return Ok(copied),
            Ok(n) => copied += n as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// A device, socket or named pipe like the one described.
#[allow(unsafe_code)]
pub(super) fn make_node(path: &Path, like: &Metadata) -> io::Result<()> {
    let path = text(path)?;
    // SAFETY: a string with a NUL at its end that outlives the call.
    result(unsafe { libc::mknod(path.as_ptr(), like.mode() & (libc::S_IFMT | 0o600), like.rdev()) }).map(drop)
}

/// Renames to a name that must be free.
#[allow(unsafe_code)]
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (text(from)?, text(to)?);
    let flags = libc::RENAME_NOREPLACE;
    // SAFETY: both are strings with a NUL at their end that outlive the call.
    let code = unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    result(code).map(drop)
}

/// Gives `path` (a symlink itself) the times of another.
#[allow(unsafe_code)]
pub(super) fn set_times(path: &Path, like: &Metadata) -> io::Result<()> {
    let path = text(path)?;
    let times = [(like.atime(), like.atime_nsec()), (like.mtime(), like.mtime_nsec())];
    let times = times.map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec });
    // SAFETY: the string has a NUL at its end, there are two times, both outlive the call.
    let code = unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    result(code).map(drop)
}

/// Sets all extended attributes of `from` on `to` (of symlinks themselves).
pub(super) fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (text(from)?, text(to)?);
    for name in xattr_names(&from)?.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if let Some(value) = xattr(&from, name)? {
            set_xattr(&to, name, &value)?;
        }
    }
    Ok(())
}

/// Calls with larger and larger buffers until the answer fits.
fn growing(mut call: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    loop {
        match call(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && buffer.len() < 1 << 20 => {
                buffer.resize(buffer.len() * 4, 0);
            }
            Err(e) => return Err(e),
        }
    }
}

#[allow(unsafe_code)]
fn xattr_names(path: &CStr) -> io::Result<Vec<u8>> {
    let names = growing(|buffer| {
        // SAFETY: the string has a NUL at its end, the buffer has the length that is said, both outlive the call.
        let code = unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
        result(i64::try_from(code).map_err(io::Error::other)?)
    });
    match names {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        names => names,
    }
}

/// A value; `None` if it was taken away in the meantime.
#[allow(unsafe_code)]
fn xattr(path: &CStr, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let value = growing(|buffer| {
        // SAFETY: the strings have a NUL at their end, the buffer has the length that is said, all outlive the call.
        let code = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
        result(i64::try_from(code).map_err(io::Error::other)?)
    });
    match value {
        Err(e) if e.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        value => value.map(Some),
    }
}

#[allow(unsafe_code)]
fn set_xattr(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the strings have a NUL at their end, the value has the length that is said, all outlive the call.
    let code = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    result(code).map(drop)
}

/// Whether this process may give files away.
#[allow(unsafe_code)]
pub(super) fn is_root() -> bool {
    // SAFETY: it has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
