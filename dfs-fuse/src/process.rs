//! What belongs to the process as a whole: limits, kernel flags, log, runtime.

use std::io;
use std::os::fd::RawFd;

use anyhow::Context;
use dfs_daemon::log;
use dfs_daemon::process::{self, Allocator};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::Config;

/// Buffers from this size on are given back to the system when they are freed. glibc would raise the bound by itself
/// to the size of the parts, keep them in its arenas, and hold twice the memory that is in use (measured: 440 to
/// 585 MiB instead of 260 with four streams written and four read).
const ALLOCATOR: Allocator = Allocator { arenas: 4, mapped_bytes: Some(256 << 10) };

/// Sets what must be set before the first thread starts.
pub fn prepare() {
    process::bound_allocator(ALLOCATOR);
    process::raise_open_files();
    // Without the privilege it works, only less well.
    let _ = process::set_io_flusher();
}

/// Leaves the terminal's session, so that its end does not end the mount.
#[allow(unsafe_code)]
pub(crate) fn leave_session() {
    // SAFETY: setsid takes nothing and touches no memory.
    unsafe {
        libc::setsid();
    }
}

/// Closes every file from `first` on that was inherited.
#[allow(unsafe_code)]
pub(crate) fn close_inherited(first: u32) {
    // SAFETY: called before this process opened any file of its own, so none that is in use is closed.
    unsafe {
        libc::close_range(first, u32::MAX, 0);
    }
}

/// Makes `target` another name of `source`.
#[allow(unsafe_code)]
pub(crate) fn replace_fd(source: RawFd, target: RawFd) -> io::Result<()> {
    // SAFETY: dup2 takes numbers; both are open files of this process, and `target` is one of the
    // standard streams, which nothing in this process owns.
    if unsafe { libc::dup2(source, target) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether this process runs as root.
#[allow(unsafe_code)]
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Starts logging, to the log file if there is one, else to stderr.
///
/// # Errors
/// When the file cannot be opened or a log was started before.
pub fn start_log(config: &Config) -> anyhow::Result<()> {
    // fuser logs every request at debug, and as an error each answer to an interrupt that came too late.
    let filter = format!("fuser=warn,fuser::reply=off,{}", config.log_level);
    log::start(&filter, config.log_format, config.log_file.as_deref())
}

/// The runtime on which everything runs that waits.
///
/// # Errors
/// When threads cannot be started.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // One in two: waking another thread costs a lone request more than it gains (measured: a quarter of the CPU).
    let workers = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 4));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(64)
        .thread_name("dfs-client")
        .enable_all()
        .build()
        .context("cannot start threads")
}

/// The signals that ask this process to unmount and end.
#[derive(Debug)]
pub struct EndSignals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl EndSignals {
    /// Listens from now on; call it inside the runtime.
    ///
    /// # Errors
    /// When signals cannot be listened to.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns the name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
            _ = self.hup.recv() => "SIGHUP",
        }
    }
}
