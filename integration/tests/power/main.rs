//! Power cuts below real daemons, RocksDB included: what was acknowledged is there afterwards, whatever of the
//! unsynced rest has arrived on the disks.
//!
//! `make test` looks at a choice of positions. With `DFS_POWER=1` it is every single operation of metad's disk,
//! with `DFS_POWER=N` every N-th, and many more cuts of whole clusters. Seeds are printed; `DFS_SEED` repeats a
//! choice of images, though not the timing of the daemons.

mod cluster;
mod ledger;
mod metad;

use std::future::Future;
use std::io::Write as _;

use anyhow::Result;

/// Every so manieth operation is to be tried; `None`: only a few.
fn long() -> Option<usize> {
    std::env::var("DFS_POWER").ok()?.parse().ok().filter(|n| *n > 0)
}

/// Also shown when the test passes: the harness captures only what the print macros write.
fn say(line: impl AsRef<str>) {
    // A line that nobody sees does not change what is tested.
    drop(writeln!(std::io::stderr(), "power: {}", line.as_ref()));
}

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}
