//! How fast a store copies what it lacks: as fast as its disk takes it, until those that wait for the store notice.
//!
//! The rate rises by a quarter every half second as long as requests take no more than half as long again as they do
//! while nothing is copied, and falls by a third when they take twice as long (rise little, fall much: so several that
//! share a disk come to rest, as in TCP). It never falls below [`LEAST`]: a copy that is missing is a danger of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes a second at least, at first, and at most.
const LEAST: u64 = 16 << 20;
const FIRST: u64 = 64 << 20;
const MOST: u64 = 1 << 30;
/// How often the rate is judged anew.
const WINDOW: Duration = Duration::from_millis(500);
/// Requests in a window below which their mean says nothing.
const ENOUGH: u64 = 4;
/// What is quicker than this is not noticed by anybody, whatever it was before.
const QUICK: Duration = Duration::from_millis(2);
/// A mean while nothing is copied counts one in so many.
const MEMORY: u32 = 8;

/// How long requests of one kind took.
#[derive(Debug, Default)]
pub(crate) struct Timing {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Timing {
    pub(crate) fn took(&self, time: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The mean of those since the last call, if there were enough.
    fn mean(&self) -> Option<Duration> {
        let count = self.count.swap(0, Ordering::Relaxed);
        let nanos = self.nanos.swap(0, Ordering::Relaxed);
        (count >= ENOUGH).then(|| Duration::from_nanos(nanos / count))
    }
}

/// The pace of one store.
#[derive(Debug)]
pub(crate) struct Pace {
    budget: Mutex<Budget>,
    /// Reads and writes, each with what is usual for it.
    timings: [Arc<Timing>; 2],
}

impl Pace {
    pub(crate) fn new(reads: Arc<Timing>, writes: Arc<Timing>) -> Self {
        Self { budget: Mutex::new(Budget::new(Instant::now())), timings: [reads, writes] }
    }

    fn lock(&self) -> MutexGuard<'_, Budget> {
        // A panic elsewhere leaves nothing half done in here.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many bytes may be copied.
    pub(crate) async fn take(&self, bytes: u64) {
        self.look();
        let wait = self.lock().take(bytes, Instant::now());
        tokio::time::sleep(wait).await;
    }

    /// Learns how long requests take. To be called now and then while nothing is copied.
    pub(crate) fn look(&self) {
        let now = Instant::now();
        let mut budget = self.lock();
        if budget.is_due(now) {
            budget.judge(now, [self.timings[0].mean(), self.timings[1].mean()]);
        }
    }
}

#[derive(Debug)]
struct Budget {
    rate: u64,
    /// What was taken is paid for until then.
    paid: Instant,
    judged: Instant,
    copied: u64,
    usual: [Option<Duration>; 2],
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { rate: FIRST, paid: now, judged: now, copied: 0, usual: [None; 2] }
    }

    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.judged) >= WINDOW
    }

    /// How long to wait before so much is copied.
    fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        self.copied = self.copied.saturating_add(bytes);
        // Time in which nothing was copied is not saved up.
        let from = self.paid.max(now);
        self.paid = from + Duration::from_micros(bytes.saturating_mul(1_000_000) / self.rate);
        from.saturating_duration_since(now)
    }

    fn judge(&mut self, now: Instant, means: [Option<Duration>; 2]) {
        self.judged = now;
        if std::mem::take(&mut self.copied) == 0 {
            for (usual, mean) in self.usual.iter_mut().zip(means) {
                let learned = mean.map(|mean| usual.map_or(mean, |u| (u * (MEMORY - 1) + mean) / MEMORY));
                *usual = learned.or(*usual);
            }
            return;
        }
        let slower_than = |factor: u32| {
            let slow = |(usual, mean): (&Option<Duration>, Option<Duration>)| {
                // Halves, so that one and a half is a factor.
                mean.is_some_and(|mean| mean * 2 > usual.unwrap_or(QUICK).max(QUICK) * factor)
            };
            self.usual.iter().zip(means).any(slow)
        };
        if slower_than(4) {
            self.rate = (self.rate / 3 * 2).max(LEAST);
        } else if !slower_than(3) {
            self.rate = (self.rate / 4 * 5).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn judged(budget: &mut Budget, copied: u64, reads: Option<Duration>, writes: Option<Duration>) -> u64 {
        let now = budget.judged + WINDOW;
        budget.take(copied, now);
        budget.judge(now, [reads, writes]);
        budget.rate
    }

    #[test]
    fn it_takes_what_nobody_else_wants() {
        let mut budget = Budget::new(Instant::now());
        for _ in 0..20 {
            judged(&mut budget, 1, None, None);
        }
        assert_eq!(budget.rate, MOST);
    }

    #[test]
    fn it_gives_way_to_what_has_become_slow_but_not_wholly() {
        let mut budget = Budget::new(Instant::now());
        for _ in 0..50 {
            judged(&mut budget, 0, Some(4 * MS), Some(10 * MS));
        }
        assert_eq!(budget.rate, FIRST, "nothing is judged while nothing is copied");
        assert!(judged(&mut budget, 1, Some(5 * MS), Some(14 * MS)) > FIRST);
        let before = budget.rate;
        assert_eq!(judged(&mut budget, 1, Some(7 * MS), Some(14 * MS)), before, "between the two it stays");
        assert!(judged(&mut budget, 1, Some(4 * MS), Some(21 * MS)) < before, "one kind is enough");
        for _ in 0..50 {
            judged(&mut budget, 1, Some(9 * MS), None);
        }
        assert_eq!(budget.rate, LEAST);
        assert!(judged(&mut budget, 1, Some(4 * MS), None) > LEAST);
    }

    #[test]
    fn what_is_quick_is_not_noticed() {
        let mut budget = Budget::new(Instant::now());
        judged(&mut budget, 0, Some(MS / 10), None);
        assert!(judged(&mut budget, 1, Some(2 * MS), None) > FIRST);
    }

    #[test]
    fn it_keeps_to_its_rate_and_saves_nothing_up() {
        let t0 = Instant::now();
        let mut budget = Budget::new(t0);
        let later = t0 + Duration::from_secs(60);
        assert_eq!(budget.take(FIRST, later), Duration::ZERO);
        assert_eq!(budget.take(FIRST / 2, later), Duration::from_secs(1));
        assert_eq!(budget.take(1, later + Duration::from_secs(1)), Duration::from_millis(500));
    }

    #[test]
    fn a_mean_is_of_what_came_since() {
        let timing = Timing::default();
        timing.took(MS);
        assert_eq!(timing.mean(), None, "one is not enough");
        for _ in 0..ENOUGH {
            timing.took(3 * MS);
        }
        assert_eq!(timing.mean(), Some(3 * MS));
        assert_eq!(timing.mean(), None);
    }
}
