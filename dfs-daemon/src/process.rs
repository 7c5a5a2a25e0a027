//! What must be set before the first thread starts, since threads inherit it. Best effort: without it a program works,
//! only less well.

/// File descriptors wanted: one for each connection, each upload, each file that is open in the kernel.
const OPEN_FILES: libc::rlim_t = 65_536;
/// From linux/prctl.h, since Linux 5.6; the libc crate does not have it.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// What the allocator may keep.
#[derive(Clone, Copy, Debug)]
pub struct Allocator {
    /// Arenas: more only keep resident what other threads have freed.
    pub arenas: libc::c_int,
    /// Buffers from this many bytes on are given back to the system when they are freed, if that is to be so.
    pub mapped_bytes: Option<libc::c_int>,
}

/// Bounds what the allocator keeps, where that can be told. To be called before the first thread starts.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn bound_allocator(bounds: Allocator) {
    // SAFETY: mallopt only stores numbers; no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, bounds.arenas);
        if let Some(bytes) = bounds.mapped_bytes {
            libc::mallopt(libc::M_MMAP_THRESHOLD, bytes);
        }
    }
}

/// Bounds what the allocator keeps, where that can be told.
#[cfg(not(target_env = "gnu"))]
pub fn bound_allocator(_: Allocator) {}

/// Allows as many open files as can ever be needed.
#[allow(unsafe_code)]
pub fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a valid rlimit that outlives them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < OPEN_FILES {
            limit.rlim_cur = limit.rlim_max.min(OPEN_FILES);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Tells the kernel that this thread (and those it starts) serves a filesystem: its memory allocations then do not wait
/// for pages to be written through a mount that it serves. Needs CAP_SYS_RESOURCE; returns whether it was granted.
#[allow(unsafe_code)]
pub fn set_io_flusher() -> bool {
    // Variadic: the kernel reads whole registers, so the type matters.
    let (on, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: prctl with PR_SET_IO_FLUSHER takes numbers only.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, on, unused, unused, unused) == 0 }
}
