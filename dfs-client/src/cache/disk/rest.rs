//! Leaving a failing disk alone for a while.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long after a failure the disk is not tried.
const REST: Duration = Duration::from_secs(30);

/// Whether one kind of use of the disk is off at the moment. It says so once in the log, and once when it is over.
#[derive(Debug)]
pub(super) struct Rest {
    what: &'static str,
    began: Instant,
    /// Milliseconds after `began`; 0: it is not off.
    until: AtomicU64,
    said: AtomicBool,
}

impl Rest {
    /// `what` is what is off, for the log.
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, began: Instant::now(), until: AtomicU64::new(0), said: AtomicBool::new(false) }
    }

    /// Whether it is off.
    pub(super) fn is_off(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until > 0 && self.began.elapsed() < Duration::from_millis(until)
    }

    /// It failed.
    pub(super) fn failed(&self, why: &dyn std::fmt::Display) {
        metrics::counter!("dfs_client_disk_cache_errors_total").increment(1);
        let until = u64::try_from((self.began.elapsed() + REST).as_millis()).unwrap_or(u64::MAX);
        self.until.store(until, Ordering::Relaxed);
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} is off, and tried again every {} s: {why}; reads go on without it",
                self.what,
                REST.as_secs()
            );
        }
    }

    /// It worked.
    pub(super) fn worked(&self) {
        if self.said.load(Ordering::Relaxed) && !self.is_off() && self.said.swap(false, Ordering::Relaxed) {
            self.until.store(0, Ordering::Relaxed);
            tracing::info!("{} is on again", self.what);
        }
    }

    /// As if the time were over.
    #[cfg(test)]
    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Relaxed);
    }
}
