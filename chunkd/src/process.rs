//! What belongs to the process as a whole: allocator and kernel flags, runtime, signals.

use std::io;

use dfs_daemon::process::{self, Allocator};

/// Threads that may do blocking work at once: for each store, and besides.
const BLOCKING_THREADS_A_STORE: usize = 80;
const BLOCKING_THREADS: usize = 112;
/// More arenas only keep freed buffers of other threads resident.
const ALLOCATOR: Allocator = Allocator { arenas: 4, mapped_bytes: None };

/// Sets what must be set before the first thread starts.
pub fn prepare() {
    process::bound_allocator(ALLOCATOR);
    process::raise_open_files();
}

/// The runtime of a daemon with so many stores.
///
/// # Errors
/// When threads cannot be started.
pub fn runtime(stores: usize) -> io::Result<tokio::runtime::Runtime> {
    if !process::set_io_flusher() {
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
