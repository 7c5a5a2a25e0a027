//! Blocking work (disk, hashing) off the async threads, with a bound on how much of it runs at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dfs_core::limits::DEADLINE;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::pace::{Timing, UnderWay};

/// A number of threads for one kind of work. What does not fit waits, at most until the deadline.
#[derive(Debug)]
pub(crate) struct Pool {
    permits: Arc<Semaphore>,
    timing: Arc<Timing>,
    running: Arc<Mutex<Running>>,
}

/// When the work that runs began, in that order.
#[derive(Debug, Default)]
struct Running {
    began: BTreeMap<u64, Instant>,
    next: u64,
}

/// One piece of work that runs; it ends when this is dropped, also by a panic.
struct Run(Arc<Mutex<Running>>, u64);

impl Run {
    fn begin(running: &Arc<Mutex<Running>>) -> Self {
        let mut all = running.lock().unwrap_or_else(PoisonError::into_inner);
        all.next += 1;
        let number = all.next;
        all.began.insert(number, Instant::now());
        Self(Arc::clone(running), number)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).began.remove(&self.1);
    }
}

impl Pool {
    pub(crate) fn new(threads: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(threads)), timing: Arc::default(), running: Arc::default() }
    }

    /// How long its work took, with the wait for a thread.
    pub(crate) fn timing(&self) -> Arc<Timing> {
        Arc::clone(&self.timing)
    }

    /// For how long the oldest work that runs has been running, without the wait for a thread.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        let all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        all.began.first_key_value().map(|(_, began)| began.elapsed())
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
        let running = Arc::clone(&self.running);
        tokio::task::spawn_blocking(move || {
            let run = Run::begin(&running);
            let out = work();
            drop(run);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_hangs_is_seen_until_it_ends() {
        let pool = Arc::new(Pool::new(2));
        assert_eq!(pool.oldest(), None);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let other = Arc::clone(&pool);
        let hangs = tokio::spawn(async move { other.run(move || wait.recv()).await });
        while pool.oldest().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        pool.run(|| ()).await.unwrap();
        assert!(pool.oldest() >= Some(Duration::from_millis(20)), "younger work does not count");
        drop(go);
        hangs.await.unwrap().unwrap().unwrap_err();
        assert_eq!(pool.oldest(), None);
        pool.run(|| panic!("on purpose")).await.unwrap_err();
        assert_eq!(pool.oldest(), None);
    }
}
