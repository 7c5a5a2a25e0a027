//! The one bound on unsaved bytes of the whole mount: over it, writers wait.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Bytes in all write buffers.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    limit: u64,
    freed: Notify,
}

impl Budget {
    /// Of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { used: AtomicU64::new(0), limit, freed: Notify::new() }
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The bound.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether a write of `len` bytes may be taken. Writers that ask at the same time may all be told yes: the
    /// bound is exceeded by at most one write of each.
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        self.used() + len as u64 <= self.limit
    }

    /// Whether so much is in use that sealing must not wait for anything else.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.used() > self.limit / 4 * 3
    }

    /// One buffer that cost `before` costs `after` now.
    pub fn change(&self, before: u64, after: u64) {
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }

    /// Waits until a write of `len` bytes may be taken.
    pub async fn room(&self, len: usize) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.has_room(len) {
                return;
            }
            freed.await;
        }
    }
}
