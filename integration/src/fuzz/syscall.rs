//! The system calls themselves, each with its plain answer. They are made without the C library's wrappers,
//! because those change all threads of the process where a thread is meant here (credentials), and change
//! arguments (modes of access, flags of open).

use std::ffi::{CStr, c_long};
use std::io;
use std::marker::PhantomData;

use super::step::Time;

/// What a call returned, or its errno.
pub(super) type Answer = Result<i64, i32>;

/// An argument: a number, or a pointer to what is borrowed for as long as the argument lives.
#[derive(Clone, Copy)]
struct Arg<'a>(usize, PhantomData<&'a ()>);

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the kernel takes the bits")]
fn int<'a>(n: impl Into<i64>) -> Arg<'a> {
    Arg(n.into() as usize, PhantomData)
}

fn size<'a>(n: usize) -> Arg<'a> {
    Arg(n, PhantomData)
}

fn text(s: &CStr) -> Arg<'_> {
    Arg(s.as_ptr() as usize, PhantomData)
}

fn list<T>(items: &[T]) -> Arg<'_> {
    Arg(items.as_ptr() as usize, PhantomData)
}

fn out<T>(items: &mut [T]) -> Arg<'_> {
    Arg(items.as_mut_ptr() as usize, PhantomData)
}

#[allow(unsafe_code)]
fn call<const N: usize>(number: c_long, args: [Arg<'_>; N]) -> Answer {
    let mut a = [0_usize; 6];
    for (to, from) in a.iter_mut().zip(args) {
        *to = from.0;
    }
    // SAFETY: pointers among the arguments are made from borrows that outlive the call, each function below passes
    // the length of what it borrows, and writable ones come from exclusive borrows.
    let code = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if code == -1 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(-1)) } else { Ok(code) }
}

pub(super) fn openat(base: i32, path: &CStr, flags: i32, mode: u32) -> Answer {
    call(libc::SYS_openat, [int(base), text(path), int(flags), int(mode)])
}

pub(super) fn close(fd: i32) -> Answer {
    call(libc::SYS_close, [int(fd)])
}

pub(super) fn dup(fd: i32) -> Answer {
    call(libc::SYS_dup, [int(fd)])
}

fn vectors(parts: &mut [&mut [u8]]) -> Vec<libc::iovec> {
    parts.iter_mut().map(|p| libc::iovec { iov_base: p.as_mut_ptr().cast(), iov_len: p.len() }).collect()
}

/// Into one buffer for each part; plain `read` or `pread` when there is one part and no flag.
pub(super) fn read(fd: i32, at: Option<i64>, parts: &mut [&mut [u8]], flags: i32) -> Answer {
    match (at, parts, flags) {
        (None, [part], 0) => {
            let len = part.len();
            call(libc::SYS_read, [int(fd), out(part), size(len)])
        }
        (Some(at), [part], 0) => {
            let len = part.len();
            call(libc::SYS_pread64, [int(fd), out(part), size(len), int(at)])
        }
        (at, parts, flags) => {
            let v = vectors(parts);
            let at = at.unwrap_or(-1);
            call(libc::SYS_preadv2, [int(fd), list(&v), size(v.len()), int(at), int(0), int(flags)])
        }
    }
}

/// From one buffer for each part; plain `write` or `pwrite` when there is one part and no flag.
pub(super) fn write(fd: i32, at: Option<i64>, parts: &mut [&mut [u8]], flags: i32) -> Answer {
    match (at, parts, flags) {
        (None, [part], 0) => call(libc::SYS_write, [int(fd), list(part), size(part.len())]),
        (Some(at), [part], 0) => call(libc::SYS_pwrite64, [int(fd), list(part), size(part.len()), int(at)]),
        (at, parts, flags) => {
            let v = vectors(parts);
            let at = at.unwrap_or(-1);
            call(libc::SYS_pwritev2, [int(fd), list(&v), size(v.len()), int(at), int(0), int(flags)])
        }
    }
}

pub(super) fn lseek(fd: i32, offset: i64, whence: i32) -> Answer {
    call(libc::SYS_lseek, [int(fd), int(offset), int(whence)])
}

pub(super) fn ftruncate(fd: i32, len: i64) -> Answer {
    call(libc::SYS_ftruncate, [int(fd), int(len)])
}

pub(super) fn truncate(path: &CStr, len: i64) -> Answer {
    call(libc::SYS_truncate, [text(path), int(len)])
}

pub(super) fn fallocate(fd: i32, mode: i32, at: i64, len: i64) -> Answer {
    call(libc::SYS_fallocate, [int(fd), int(mode), int(at), int(len)])
}

pub(super) fn copy(from: i32, from_at: Option<&mut i64>, to: i32, to_at: Option<&mut i64>, len: usize) -> Answer {
    let pointer = |at: Option<&mut i64>| at.map_or(int(0), |at| Arg(std::ptr::from_mut(at) as usize, PhantomData));
    let (from_at, to_at) = (pointer(from_at), pointer(to_at));
    call(libc::SYS_copy_file_range, [int(from), from_at, int(to), to_at, size(len), int(0)])
}

pub(super) fn sendfile(to: i32, from: i32, len: usize) -> Answer {
    call(libc::SYS_sendfile, [int(to), int(from), int(0), size(len)])
}

pub(super) fn sync(fd: i32, data_only: bool) -> Answer {
    call(if data_only { libc::SYS_fdatasync } else { libc::SYS_fsync }, [int(fd)])
}

/// Dirty pages of the file go to the filesystem, which need not make them durable.
pub(super) fn write_back(fd: i32) -> Answer {
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    call(libc::SYS_sync_file_range, [int(fd), int(0), int(0), int(all)])
}

pub(super) fn forget(fd: i32) -> Answer {
    call(libc::SYS_fadvise64, [int(fd), int(0), int(0), int(libc::POSIX_FADV_DONTNEED)])
}

#[allow(unsafe_code)]
pub(super) fn statx(base: i32, path: &CStr, flags: i32) -> Result<libc::statx, i32> {
    // SAFETY: a struct of plain numbers, of which zero is a value.
    let mut stat: [libc::statx; 1] = unsafe { std::mem::zeroed() };
    let mask = libc::STATX_BASIC_STATS;
    call(libc::SYS_statx, [int(base), text(path), int(flags), int(mask), out(&mut stat)])?;
    Ok(stat[0])
}

pub(super) fn access(base: i32, path: &CStr, mode: i32, flags: i32) -> Answer {
    call(libc::SYS_faccessat2, [int(base), text(path), int(mode), int(flags)])
}

pub(super) fn fchmod(fd: i32, mode: u32) -> Answer {
    call(libc::SYS_fchmod, [int(fd), int(mode)])
}

pub(super) fn chmod(base: i32, path: &CStr, mode: u32, flags: i32) -> Answer {
    call(SYS_FCHMODAT2, [int(base), text(path), int(mode), int(flags)])
}

/// Linux 6.6; the number is the same on all architectures.
const SYS_FCHMODAT2: c_long = 452;

pub(super) fn chown(base: i32, path: &CStr, uid: u32, gid: u32, flags: i32) -> Answer {
    call(libc::SYS_fchownat, [int(base), text(path), int(uid), int(gid), int(flags)])
}

pub(super) fn fchown(fd: i32, uid: u32, gid: u32) -> Answer {
    call(libc::SYS_fchown, [int(fd), int(uid), int(gid)])
}

/// Without a path, of the descriptor.
pub(super) fn utimens(base: i32, path: Option<&CStr>, times: [Time; 2], flags: i32) -> Answer {
    let times = times.map(|time| match time {
        Time::Now => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
        Time::Omit => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        Time::At(tv_sec, tv_nsec) => libc::timespec { tv_sec, tv_nsec },
    });
    call(libc::SYS_utimensat, [int(base), path.map_or(int(0), text), list(&times), int(flags)])
}

pub(super) fn link(from: (i32, &CStr), to: (i32, &CStr), flags: i32) -> Answer {
    call(libc::SYS_linkat, [int(from.0), text(from.1), int(to.0), text(to.1), int(flags)])
}

pub(super) fn symlink(target: &CStr, base: i32, path: &CStr) -> Answer {
    call(libc::SYS_symlinkat, [text(target), int(base), text(path)])
}

pub(super) fn readlink(base: i32, path: &CStr) -> Result<Vec<u8>, i32> {
    let mut buffer = vec![0_u8; 8192];
    let room = buffer.len();
    let len = call(libc::SYS_readlinkat, [int(base), text(path), out(&mut buffer), size(room)])?;
    buffer.truncate(usize::try_from(len).unwrap_or(0));
    Ok(buffer)
}

pub(super) fn rename(from: (i32, &CStr), to: (i32, &CStr), flags: u32) -> Answer {
    call(libc::SYS_renameat2, [int(from.0), text(from.1), int(to.0), text(to.1), int(flags)])
}

pub(super) fn unlink(base: i32, path: &CStr, flags: i32) -> Answer {
    call(libc::SYS_unlinkat, [int(base), text(path), int(flags)])
}

pub(super) fn mkdir(base: i32, path: &CStr, mode: u32) -> Answer {
    call(libc::SYS_mkdirat, [int(base), text(path), int(mode)])
}

pub(super) fn mknod(base: i32, path: &CStr, mode: u32, device: u64) -> Answer {
    let device = u32::try_from(device).map_err(|_| libc::EINVAL)?;
    call(libc::SYS_mknodat, [int(base), text(path), int(mode), int(device)])
}

/// Raw directory entries; how many bytes of the buffer they take.
pub(super) fn entries(fd: i32, buffer: &mut [u8]) -> Answer {
    let room = buffer.len();
    call(libc::SYS_getdents64, [int(fd), out(buffer), size(room)])
}

/// What an extended attribute belongs to.
#[derive(Clone, Copy)]
pub(super) enum Holder<'a> {
    File(i32),
    Path(&'a CStr),
    Link(&'a CStr),
}

impl<'a> Holder<'a> {
    fn choose(self, [file, path, link]: [c_long; 3]) -> (c_long, Arg<'a>) {
        match self {
            Self::File(fd) => (file, int(fd)),
            Self::Path(p) => (path, text(p)),
            Self::Link(p) => (link, text(p)),
        }
    }
}

pub(super) fn get_xattr(on: Holder<'_>, name: &CStr, buffer: &mut [u8]) -> Answer {
    let (number, on) = on.choose([libc::SYS_fgetxattr, libc::SYS_getxattr, libc::SYS_lgetxattr]);
    let room = buffer.len();
    call(number, [on, text(name), out(buffer), size(room)])
}

pub(super) fn set_xattr(on: Holder<'_>, name: &CStr, value: &[u8], flags: i32) -> Answer {
    let (number, on) = on.choose([libc::SYS_fsetxattr, libc::SYS_setxattr, libc::SYS_lsetxattr]);
    call(number, [on, text(name), list(value), size(value.len()), int(flags)])
}

pub(super) fn list_xattr(on: Holder<'_>, buffer: &mut [u8]) -> Answer {
    let (number, on) = on.choose([libc::SYS_flistxattr, libc::SYS_listxattr, libc::SYS_llistxattr]);
    let room = buffer.len();
    call(number, [on, out(buffer), size(room)])
}

pub(super) fn remove_xattr(on: Holder<'_>, name: &CStr) -> Answer {
    let (number, on) = on.choose([libc::SYS_fremovexattr, libc::SYS_removexattr, libc::SYS_lremovexattr]);
    call(number, [on, text(name)])
}

/// `fcntl` with a lock, which `F_GETLK` changes.
pub(super) fn lock(fd: i32, command: i32, lock: &mut libc::flock) -> Answer {
    call(libc::SYS_fcntl, [int(fd), int(command), out(std::slice::from_mut(lock))])
}

pub(super) fn flock(fd: i32, how: i32) -> Answer {
    call(libc::SYS_flock, [int(fd), int(how)])
}

/// Maps a file where the kernel likes. The address is never dereferenced in this process: only `store` and `load` use it.
pub(super) fn map(fd: i32, at: i64, len: usize, protection: i32, flags: i32) -> Answer {
    call(libc::SYS_mmap, [int(0), size(len), int(protection), int(flags), int(fd), int(at)])
}

pub(super) fn unmap(address: usize, len: usize) -> Answer {
    call(libc::SYS_munmap, [size(address), size(len)])
}

pub(super) fn map_sync(address: usize, len: usize) -> Answer {
    call(libc::SYS_msync, [size(address), size(len), int(libc::MS_SYNC)])
}

pub(super) fn pipe() -> Result<[i32; 2], i32> {
    let mut fds = [0_i32; 2];
    call(libc::SYS_pipe2, [out(&mut fds), int(libc::O_NONBLOCK)])?;
    Ok(fds)
}

/// Copies from memory at an address into a pipe: the kernel reads it as a program would, but a page that is not
/// there is `EFAULT` and not a signal.
pub(super) fn load(pipe: i32, address: usize, len: usize) -> Answer {
    call(libc::SYS_write, [int(pipe), size(address), size(len)])
}

/// Copies from a pipe to memory at an address; see `load`.
pub(super) fn store(pipe: i32, address: usize, len: usize) -> Answer {
    call(libc::SYS_read, [int(pipe), size(address), size(len)])
}

pub(super) fn chdir(path: &CStr) -> Answer {
    call(libc::SYS_chdir, [text(path)])
}

pub(super) fn fchdir(fd: i32) -> Answer {
    call(libc::SYS_fchdir, [int(fd)])
}

pub(super) fn getcwd() -> Result<Vec<u8>, i32> {
    let mut buffer = vec![0_u8; 8192];
    let room = buffer.len();
    let len = call(libc::SYS_getcwd, [out(&mut buffer), size(room)])?;
    buffer.truncate(usize::try_from(len).unwrap_or(1) - 1);
    Ok(buffer)
}

pub(super) fn umask(mode: u32) -> Answer {
    call(libc::SYS_umask, [int(mode)])
}

/// Gives this thread its own working directory, root, umask and descriptors (the standard three stay).
pub(super) fn become_own() -> Answer {
    call(libc::SYS_unshare, [int(libc::CLONE_FS)])?;
    close_all(libc::CLOSE_RANGE_UNSHARE)
}

/// Closes all but the standard three.
pub(super) fn close_all(flags: u32) -> Answer {
    call(libc::SYS_close_range, [int(3), int(u32::MAX), int(flags)])
}

pub(super) fn chroot(path: &CStr) -> Answer {
    call(libc::SYS_chroot, [text(path)])
}

/// Takes other credentials, for this thread only. It cannot go back.
pub(super) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Answer {
    call(libc::SYS_setgroups, [size(groups.len()), list(groups)])?;
    call(libc::SYS_setresgid, [int(gid), int(gid), int(gid)])?;
    call(libc::SYS_setresuid, [int(uid), int(uid), int(uid)])
}

/// The clock that the kernel stamps files with, in nanoseconds.
pub(super) fn coarse_clock() -> i128 {
    let mut now = [libc::timespec { tv_sec: 0, tv_nsec: 0 }];
    // A clock that always exists, and a struct of the right size: it cannot fail.
    let _ = call(libc::SYS_clock_gettime, [int(libc::CLOCK_REALTIME_COARSE), out(&mut now)]);
    i128::from(now[0].tv_sec) * 1_000_000_000 + i128::from(now[0].tv_nsec)
}
