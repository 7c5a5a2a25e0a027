//! What belongs to the process as a whole: allocator and kernel flags, log, runtime, signals.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Threads that may do blocking work at once: for each store, and besides.
const BLOCKING_THREADS_A_STORE: usize = 80;
const BLOCKING_THREADS: usize = 112;
/// From linux/prctl.h; since Linux 5.6.
const PR_SET_IO_FLUSHER: libc::c_int = 57;
/// File descriptors wanted.
const OPEN_FILES: libc::rlim_t = 65_536;
/// Arenas of the allocator: more only keep freed buffers of other threads resident.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 4;

/// Sets what must be set before the first thread starts. Best effort: without it the daemon works, only less well.
pub fn prepare() {
    limit_arenas();
    raise_open_files();
}

/// Each connection and each upload takes a file descriptor.
#[allow(unsafe_code)]
fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or fill the struct they are given.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(OPEN_FILES.max(limit.rlim_cur));
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn limit_arenas() {
    // SAFETY: mallopt only stores numbers; no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

#[cfg(not(target_env = "gnu"))]
fn limit_arenas() {}

/// Tells the kernel that this thread (and those it starts) serves a filesystem: its memory
/// allocations then do not wait for writeback through a mount that this daemon serves.
/// Needs CAP_SYS_RESOURCE; returns whether it was granted.
#[allow(unsafe_code)]
pub fn set_io_flusher() -> bool {
    // Variadic: the kernel reads whole registers, so the type matters.
    let (on, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: prctl with PR_SET_IO_FLUSHER takes numbers only.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, on, unused, unused, unused) == 0 }
}

/// Starts logging to stderr.
///
/// # Errors
/// When the filter is wrong or a log was started before.
pub fn start_log(config: &Config) -> io::Result<()> {
    let filter = EnvFilter::try_new(&config.log_level).map_err(io::Error::other)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    match config.log_format {
        LogFormat::Text => {
            let color = io::IsTerminal::is_terminal(&io::stderr());
            builder.with_ansi(color).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(io::Error::other)
}

/// The runtime of a daemon with so many stores.
///
/// # Errors
/// When threads cannot be started.
pub fn runtime(stores: usize) -> io::Result<tokio::runtime::Runtime> {
    if !set_io_flusher() {
        // The log says it once; most deployments run without the capability.
        tracing::debug!("PR_SET_IO_FLUSHER was not granted (it needs CAP_SYS_RESOURCE)");
    }
    // One in two: disks are waited for on other threads, and waking another worker costs more than its work.
    let workers = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 8));
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(workers)
        .thread_name("chunkd")
        .max_blocking_threads(BLOCKING_THREADS + BLOCKING_THREADS_A_STORE * stores)
        .build()
}

/// SIGHUP, each time it comes.
///
/// # Errors
/// When signals cannot be listened to.
pub fn hangups() -> io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
}

/// Returns when the process is asked to end.
///
/// # Errors
/// When signals cannot be listened to.
pub fn ended_by_signal() -> io::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        }
    })
}
