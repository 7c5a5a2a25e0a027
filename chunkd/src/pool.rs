//! Blocking work (disk, hashing) off the async threads, with a bound on how much of it runs at once.

use std::sync::Arc;

use dfs_core::limits::DEADLINE;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::pace::{Timing, UnderWay};

/// A number of threads for one kind of work. What does not fit waits, at most until the deadline.
#[derive(Debug)]
pub(crate) struct Pool {
    permits: Arc<Semaphore>,
    timing: Arc<Timing>,
}

impl Pool {
    pub(crate) fn new(threads: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(threads)), timing: Arc::default() }
    }

    /// How long its work took, with the wait for a thread.
    pub(crate) fn timing(&self) -> Arc<Timing> {
        Arc::clone(&self.timing)
    }

    /// Runs `work` on a thread that may block. When the caller goes away, work that began goes on to its end.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let under_way = UnderWay::begin(&self.timing);
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            // As a rule there is no wait, and so no clock to set.
            Err(_) => tokio::time::timeout(DEADLINE, Arc::clone(&self.permits).acquire_owned())
                .await
                .map_err(|_| Status::unavailable("the disks of this node are too busy"))?
                .map_err(|_| Status::unavailable("the daemon is stopping"))?,
        };
        tokio::task::spawn_blocking(move || {
            let out = work();
            drop(permit);
            drop(under_way);
            out
        })
        .await
        .map_err(|e| {
            tracing::error!(error = %e, "blocking work was cut off");
            Status::internal("the work was cut off; the log of the chunk daemon says more")
        })
    }
}
