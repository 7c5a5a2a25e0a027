//! How fast cleaning goes beside what programs do with the mount.
//!
//! What has to be copied follows from what is overwritten, so that is the measure: a multiple of what programs write, and
//! a little more to catch up with what they have written before. A burst leaves a debt that is paid slowly while
//! somebody works, and fast when nobody does.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// With no call of a program for so long, nobody is in the way.
const ALONE: Duration = Duration::from_millis(250);
/// Time over which the rate of writing is taken.
const OVER: Duration = Duration::from_secs(4);
/// Bytes copied for each that is written: one is about what a file at the bound costs (see `dfs_core::cleaning`).
const EACH: f64 = 3.0;
/// Bytes a second that are copied however little is written.
const LEAST: f64 = 4e6;
/// Between two looks whether programs have stopped.
const LOOK: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(super) struct Pace(Mutex<Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    called: Instant,
    /// Bytes written lately, at `at`: older ones count less and less.
    lately: f64,
    at: Instant,
    /// All rests together.
    rested: Duration,
}

impl Seen {
    fn lately(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64() / OVER.as_secs_f64();
        self.lately * (-age).exp()
    }

    fn wrote(&mut self, bytes: u64, now: Instant) {
        #[allow(clippy::cast_precision_loss)]
        let more = bytes as f64;
        (self.lately, self.at) = (self.lately(now) + more, now.max(self.at));
    }

    /// How long to rest from when copying `bytes` began.
    fn rest(&self, bytes: u64, now: Instant) -> Duration {
        if now.saturating_duration_since(self.called) >= ALONE {
            return Duration::ZERO;
        }
        let rate = LEAST.max(self.lately(now) / OVER.as_secs_f64() * EACH);
        #[allow(clippy::cast_precision_loss)]
        let seconds = bytes as f64 / rate;
        Duration::from_secs_f64(seconds)
    }
}

impl Pace {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Seen { called: now, lately: 0.0, at: now, rested: Duration::ZERO }))
    }

    /// A program wants something.
    pub(super) fn called(&self) {
        lock(&self.0).called = Instant::now();
    }

    /// Bytes of programs are on their way to the stores.
    pub(super) fn wrote(&self, bytes: u64) {
        lock(&self.0).wrote(bytes, Instant::now());
    }

    /// How long it was rested in all.
    pub(super) fn rested(&self) -> Duration {
        lock(&self.0).rested
    }

    /// Waits as long as one who began to copy `bytes` at `began` shall; not after programs have stopped.
    pub(super) async fn rest(&self, bytes: u64, began: Instant) {
        let begins = Instant::now();
        loop {
            let now = Instant::now();
            let rest = { *lock(&self.0) }.rest(bytes, now);
            let left = (began + rest).saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
        lock(&self.0).rested += begins.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    /// Somebody who writes `bytes` each 100 ms for ten seconds, and when that ended.
    fn writing(bytes: u64) -> (Seen, Instant) {
        let mut now = Instant::now();
        let mut seen = Seen { called: now, lately: 0.0, at: now, rested: Duration::ZERO };
        for _ in 0..100 {
            now += Duration::from_millis(100);
            seen.called = now;
            seen.wrote(bytes, now);
        }
        (seen, now)
    }

    fn rate(seen: &Seen, now: Instant) -> f64 {
        100.0 / seen.rest(100 * MB, now).as_secs_f64()
    }

    #[test]
    fn it_follows_what_is_written() {
        let (seen, now) = writing(MB);
        let fast = rate(&seen, now);
        assert!((25.0..35.0).contains(&fast), "{fast} MB/s beside 10 MB/s");
        let (seen, now) = writing(4096);
        assert!((rate(&seen, now) - 4.0).abs() < 0.1, "{} MB/s beside little", rate(&seen, now));
    }

    #[test]
    fn after_a_burst_it_is_slow_while_somebody_works_and_fast_when_nobody_does() {
        let (mut seen, now) = writing(8 * MB);
        let later = now + 5 * OVER;
        assert_eq!(seen.rest(100 * MB, later), Duration::ZERO);
        seen.called = later;
        let slow = rate(&seen, later);
        assert!(slow < 5.0, "{slow} MB/s beside calls that write nothing");
    }

    #[tokio::test]
    async fn a_rest_ends_when_programs_have_stopped() {
        let pace = Pace::new();
        let began = Instant::now();
        // At the least rate this would be longer than any test runs.
        let rest = pace.rest(1_000_000 * MB, began);
        tokio::pin!(rest);
        let running = tokio::time::timeout(Duration::from_millis(1), &mut rest).await;
        assert!(running.is_err(), "a program has just called");
        std::thread::sleep(ALONE);
        rest.await;
        assert!(pace.rested() >= ALONE, "{:?}", pace.rested());
    }
}
