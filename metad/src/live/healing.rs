//! How fast missing copies are made.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is older does not say how fast it goes now.
const WINDOW: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Done {
    at: Instant,
    chunks: u64,
    bytes: u64,
}

/// Chunks that stores have got in the last seconds.
#[derive(Debug, Default)]
pub struct Healing {
    done: Mutex<VecDeque<Done>>,
}

/// A speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Chunks a second.
    pub chunks: u64,
    /// Bytes a second.
    pub bytes: u64,
}

impl Healing {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Done>> {
        // A panic elsewhere leaves nothing half done in here.
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A store has got so much.
    pub fn done(&self, chunks: u64, bytes: u64, now: Instant) {
        let mut done = self.lock();
        forget(&mut done, now);
        // Reports of one moment count as one, so that the list stays short.
        match done.back_mut() {
            Some(last) if now.saturating_duration_since(last.at) < Duration::from_millis(100) => {
                last.chunks = last.chunks.saturating_add(chunks);
                last.bytes = last.bytes.saturating_add(bytes);
            }
            _ => done.push_back(Done { at: now, chunks, bytes }),
        }
    }

    /// How fast it has been going.
    pub fn rate(&self, now: Instant) -> Rate {
        let mut done = self.lock();
        forget(&mut done, now);
        let Some(first) = done.front() else { return Rate::default() };
        // What was done in the first moment took time before it.
        let millis = now.saturating_duration_since(first.at).max(Duration::from_secs(1)).as_millis();
        let a_second = |sum: u64| u64::try_from(u128::from(sum) * 1000 / millis).unwrap_or(u64::MAX);
        let sum = |of: fn(&Done) -> u64| done.iter().map(of).fold(0, u64::saturating_add);
        Rate { chunks: a_second(sum(|d| d.chunks)), bytes: a_second(sum(|d| d.bytes)) }
    }
}

fn forget(done: &mut VecDeque<Done>, now: Instant) {
    while done.front().is_some_and(|d| now.saturating_duration_since(d.at) > WINDOW) {
        done.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_seconds_count() {
        let (healing, t0) = (Healing::default(), Instant::now());
        let at = |ms| t0 + Duration::from_millis(ms);
        assert_eq!(healing.rate(at(0)), Rate::default());
        healing.done(10, 1000, at(0));
        healing.done(10, 1000, at(50));
        assert_eq!(healing.rate(at(50)), Rate { chunks: 20, bytes: 2000 });
        healing.done(20, 2000, at(4000));
        assert_eq!(healing.rate(at(4000)), Rate { chunks: 10, bytes: 1000 });
        assert_eq!(healing.rate(at(12_000)), Rate { chunks: 2, bytes: 250 });
        assert_eq!(healing.rate(at(15_000)), Rate::default());
        healing.done(u64::MAX, u64::MAX, at(15_000));
        healing.done(1, 1, at(15_000));
        assert_eq!(healing.rate(at(15_000)).bytes, u64::MAX);
    }
}
