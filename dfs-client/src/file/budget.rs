//! The one bound on unsaved bytes of the whole mount: over it, writers wait.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Who wants to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A program, which can wait.
    Program,
    /// The kernel, which brings mapped pages that were written to. It may do so because it was told to drop them, and
    /// drops nothing before they are taken: for these there is a quarter of the bound more.
    Pages,
}

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
    pub fn has_room(&self, writer: Writer, len: usize) -> bool {
        let reserve = match writer {
            Writer::Program => 0,
            Writer::Pages => self.limit / 4,
        };
        self.used() + len as u64 <= self.limit + reserve
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
    pub async fn room(&self, writer: Writer, len: usize) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.has_room(writer, len) {
                return;
            }
            freed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_room_when_programs_have_to_wait() {
        let budget = Budget::new(100);
        budget.change(0, 100);
        assert!(!budget.has_room(Writer::Program, 1) && budget.has_room(Writer::Pages, 25));
        budget.change(0, 25);
        assert!(!budget.has_room(Writer::Pages, 1), "this too has a bound");
        budget.change(50, 0);
        assert!(budget.has_room(Writer::Program, 25) && !budget.has_room(Writer::Program, 26));
    }

    #[tokio::test]
    async fn whoever_waits_for_room_hears_of_it() {
        let budget = std::sync::Arc::new(Budget::new(100));
        budget.change(0, 100);
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.room(Writer::Program, 10).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        budget.change(100, 90);
        tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await.unwrap().unwrap();
    }
}
