//! What belongs to the process as a whole: limits, kernel flags, log, runtime.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::RawFd;
use std::sync::Mutex;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::args::{Config, LogFormat};

/// As many files as connections, the kernel's channels and the log can ever need.
const OPEN_FILES: libc::rlim_t = 65_536;
/// From linux/prctl.h; the libc crate does not have it.
const PR_SET_IO_FLUSHER: libc::c_int = 57;
/// Arenas of the allocator: more only keep freed buffers of other threads resident.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 4;
/// Buffers from this size on are given back to the system when they are freed. glibc would raise the bound by itself
/// to the size of the parts, keep them in its arenas, and hold twice the memory that is in use (measured: 440 to
/// 585 MiB instead of 260 with four streams written and four read).
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 256 << 10;

/// Sets what must be set before the first thread starts, since threads inherit it. Best effort:
/// without it the mount works, only less well.
pub fn prepare() {
    bound_allocator();
    raise_open_files();
    set_io_flusher();
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn bound_allocator() {
    // SAFETY: mallopt only stores numbers; no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
    }
}

#[cfg(not(target_env = "gnu"))]
fn bound_allocator() {}

#[allow(unsafe_code)]
fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a valid rlimit that outlives them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < OPEN_FILES {
            limit.rlim_cur = limit.rlim_max.min(OPEN_FILES);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Tells the kernel that this process serves a filesystem: its memory allocations then do not wait
/// for pages to be written through its own mount. Needs CAP_SYS_RESOURCE.
#[allow(unsafe_code)]
fn set_io_flusher() {
    // SAFETY: prctl with PR_SET_IO_FLUSHER takes numbers only.
    unsafe {
        libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    }
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

/// Starts logging, to the log file if there is one, else to stderr. A panic is logged as an error.
///
/// # Errors
/// When the file cannot be opened or a log was started before.
pub fn start_log(config: &Config) -> anyhow::Result<()> {
    // fuser logs every request at debug, and as an error each answer to an interrupt that came too late.
    let filter = format!("fuser=warn,fuser::reply=off,{}", config.log_level);
    let filter = EnvFilter::try_new(filter).context("wrong log level")?;
    let writer = match &config.log_file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.with_context(|| format!("cannot open the log file {}", path.display()))?;
            BoxMakeWriter::new(Mutex::new(file))
        }
        None => BoxMakeWriter::new(io::stderr),
    };
    let color = config.log_file.is_none() && io::IsTerminal::is_terminal(&io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    match config.log_format {
        LogFormat::Text => builder.with_ansi(color).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|e| anyhow::anyhow!("cannot start the log: {e}"))?;
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(())
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
