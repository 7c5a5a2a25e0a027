//! Faults in words, in the log: an errno alone tells nobody which server was away. At most one line a
//! second, so that an outage does not fill the disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dfs_client::error::FsError;

/// Says at most one fault a second, and how many it kept to itself.
#[derive(Debug)]
pub struct Complaints {
    since: Instant,
    /// Second (counted from `since`, plus one) of the last line; 0: none yet.
    last: AtomicU64,
    unsaid: AtomicU64,
}

impl Default for Complaints {
    fn default() -> Self {
        Self { since: Instant::now(), last: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }
}

impl Complaints {
    /// Logs a fault; a refusal is an answer and is not logged.
    pub fn hear(&self, error: &FsError) {
        let FsError::Io(what) = error else { return };
        if let Some(unsaid) = self.may_speak(self.since.elapsed().as_secs() + 1) {
            tracing::warn!(unsaid, "a call failed with EIO: {what}");
        }
    }

    /// Whether a line may be written in this second, and how many were not since the last one.
    fn may_speak(&self, second: u64) -> Option<u64> {
        let last = self.last.load(Ordering::Relaxed);
        let is_mine =
            last != second && self.last.compare_exchange(last, second, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_mine {
            return Some(self.unsaid.swap(0, Ordering::Relaxed));
        }
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_once_a_second_and_counts_the_rest() {
        let c = Complaints::default();
        assert_eq!(c.may_speak(1), Some(0));
        assert_eq!(c.may_speak(1), None);
        assert_eq!(c.may_speak(1), None);
        assert_eq!(c.may_speak(2), Some(2));
        assert_eq!(c.may_speak(3), Some(0));
    }
}
