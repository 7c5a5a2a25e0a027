//! How fast a store copies what it lacks: as fast as its disk takes it, until those that wait for the store notice.
//!
//! What they notice is the slow among their requests: the nineteen in twenty that are quicker than this are looked at twice a
//! second. The rate rises by a quarter as long as that is no more than half as long again as while nothing is copied, and is
//! halved when it is twice as long (rise little, fall much: so several that share a disk come to rest, as in TCP). What has
//! too few copies is never copied slower than [`URGENT`]: that is a danger of its own. Where nobody else asks for anything the rate doubles.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic::Status;

/// Bytes a second at least, at least of what has too few copies, at first, and at most.
const LEAST: u64 = 2 << 20;
const URGENT: u64 = 128 << 20;
const FIRST: u64 = 8 << 20;
const MOST: u64 = 1 << 30;
/// How often the rate is judged anew.
const WINDOW: Duration = Duration::from_millis(500);
/// Requests below which nothing is said about them.
const ENOUGH: u32 = 20;
/// What is quicker than this is not noticed by anybody, whatever it was before.
const QUICK: Duration = Duration::from_millis(2);
/// What is usual while nothing is copied counts the last time one in so many.
const MEMORY: u32 = 8;
/// Times are told apart by a fifth, from 2^10 ns (a microsecond) to a minute.
const BUCKETS: usize = 4 * 26;
const FIRST_OCTAVE: u32 = 10;

/// Nobody who copies from a store waits longer: less than his patience for the whole answer, which is 30 s.
const LONGEST: Duration = Duration::from_secs(10);
/// What is not known yet is taken for this.
const UNKNOWN: Duration = Duration::from_millis(20);

/// How long requests of one kind took.
#[derive(Debug)]
pub(crate) struct Timing {
    buckets: [AtomicU32; BUCKETS],
    under_way: AtomicU32,
}

impl Default for Timing {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU32::new(0)), under_way: AtomicU32::new(0) }
    }
}

/// A request under way; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    timing: Arc<Timing>,
    began: Instant,
}

impl UnderWay {
    pub(crate) fn begin(timing: &Arc<Timing>) -> Self {
        timing.under_way.fetch_add(1, Ordering::Relaxed);
        Self { timing: Arc::clone(timing), began: Instant::now() }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.timing.under_way.fetch_sub(1, Ordering::Relaxed);
        self.timing.took(self.began.elapsed());
    }
}

/// What the requests since the last look say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// There were none, and there are none.
    Nothing,
    /// There were some, or are: the next look says more.
    TooLittle,
    /// Nineteen in twenty took no longer.
    Slow(Duration),
}

impl Timing {
    fn took(&self, time: Duration) {
        self.buckets[bucket(time)].fetch_add(1, Ordering::Relaxed);
    }

    fn said(&self) -> Said {
        let count: u32 = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).sum();
        if count < ENOUGH {
            let is_idle = count == 0 && self.under_way.load(Ordering::Relaxed) == 0;
            return if is_idle { Said::Nothing } else { Said::TooLittle };
        }
        let counts: Vec<u32> = self.buckets.iter().map(|b| b.swap(0, Ordering::Relaxed)).collect();
        let slower = counts.iter().sum::<u32>() / 20;
        let mut left = slower;
        let at = counts.iter().rposition(|count| {
            let is_here = *count > left;
            left = left.saturating_sub(*count);
            is_here
        });
        Said::Slow(upper(at.unwrap_or(0)))
    }
}

/// Four to an octave.
fn bucket(time: Duration) -> usize {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1 << FIRST_OCTAVE);
    let octave = nanos.ilog2();
    let quarter = (nanos >> (octave - 2)) & 3;
    (((octave - FIRST_OCTAVE) * 4) as usize + quarter as usize).min(BUCKETS - 1)
}

/// No time in the bucket is longer.
fn upper(bucket: usize) -> Duration {
    let octave = FIRST_OCTAVE as usize + bucket / 4;
    Duration::from_nanos((5 + bucket as u64 % 4) << (octave - 2))
}

/// Why something is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// There are too few copies.
    Danger,
    /// There are enough, and one is to lie elsewhere.
    Order,
}

/// Whether a store copies from others, or others from it: each has the whole rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
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

    /// Waits until so many bytes may be copied to this store.
    pub(crate) async fn take(&self, bytes: u64, need: Need) {
        self.look();
        let wait = self.lock().take(bytes, Way::In, need, Instant::now());
        tokio::time::sleep(wait).await;
    }

    /// Waits until so many bytes may be copied from this store, unless others wait for so long already that who asks
    /// would give up before: what he does not get any more is not counted.
    ///
    /// # Errors
    /// `UNAVAILABLE`: another store may have more time.
    pub(crate) async fn lend(&self, bytes: u64, need: Need) -> Result<(), Status> {
        self.look();
        let wait = self.lock().lend(bytes, need, Instant::now());
        tokio::time::sleep(wait.ok_or_else(|| Status::unavailable("too many stores copy from this one"))?).await;
        Ok(())
    }

    /// Learns how long requests take. To be called now and then while nothing is copied.
    pub(crate) fn look(&self) {
        let now = Instant::now();
        let mut budget = self.lock();
        if budget.is_due(now) {
            budget.judge(now, [self.timings[0].said(), self.timings[1].said()]);
        }
    }
}

#[derive(Debug)]
struct Budget {
    rate: u64,
    /// What was taken is paid for until then, each way.
    paid: [Instant; 2],
    judged: Instant,
    copied: u64,
    usual: [Option<Duration>; 2],
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { rate: FIRST, paid: [now; 2], judged: now, copied: 0, usual: [None; 2] }
    }

    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.judged) >= WINDOW
    }

    /// How long to wait before so much is copied.
    fn take(&mut self, bytes: u64, way: Way, need: Need, now: Instant) -> Duration {
        let rate = if need == Need::Danger { self.rate.max(URGENT) } else { self.rate };
        self.copied = self.copied.saturating_add(bytes);
        // Time in which nothing was copied is not saved up.
        let paid = &mut self.paid[usize::from(way == Way::Out)];
        let from = (*paid).max(now);
        *paid = from + Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
        from.saturating_duration_since(now)
    }

    /// As [`Budget::take`]; `None`: it would be too long.
    fn lend(&mut self, bytes: u64, need: Need, now: Instant) -> Option<Duration> {
        let wait = self.paid[1].saturating_duration_since(now);
        (wait <= LONGEST).then(|| self.take(bytes, Way::Out, need, now))
    }

    fn judge(&mut self, now: Instant, said: [Said; 2]) {
        let window = now.saturating_duration_since(self.judged).as_millis();
        self.judged = now;
        let copied = std::mem::take(&mut self.copied);
        let slow = said.map(|said| if let Said::Slow(time) = said { Some(time) } else { None });
        // At a low rate there are windows in which only the wait goes on.
        if copied == 0 && self.paid.iter().any(|paid| *paid + WINDOW > now) {
            return;
        }
        if copied == 0 {
            for (usual, slow) in self.usual.iter_mut().zip(slow) {
                let learned = slow.map(|slow| usual.map_or(slow, |u| (u * (MEMORY - 1) + slow) / MEMORY));
                *usual = learned.or(*usual);
            }
            return;
        }
        let slower_than = |factor: u32| {
            let is_slower = |(usual, slow): (&Option<Duration>, Option<Duration>)| {
                // Halves, so that one and a half is a factor.
                slow.is_some_and(|slow| slow * 2 > usual.unwrap_or(UNKNOWN).max(QUICK) * factor)
            };
            self.usual.iter().zip(slow).any(is_slower)
        };
        // A rate that is not used up says nothing about a higher one.
        let is_used = u128::from(copied) * 2000 >= u128::from(self.rate) * window;
        if said == [Said::Nothing; 2] {
            // There is nobody to give way to.
            self.rate = (self.rate * 2).min(MOST);
        } else if slower_than(4) {
            self.rate = (self.rate / 2).max(LEAST);
        } else if is_used && !slower_than(3) && !said.contains(&Said::TooLittle) {
            self.rate = (self.rate / 4 * 5).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A window with so much copied and these times.
    fn judged(budget: &mut Budget, copied: u64, reads: Option<Duration>, writes: Option<Duration>) -> u64 {
        let now = (budget.judged + WINDOW).max(budget.paid[0] + WINDOW);
        if copied > 0 {
            budget.take(copied, Way::In, Need::Order, now);
        }
        budget.judge(now, [reads, writes].map(|time| time.map_or(Said::Nothing, Said::Slow)));
        budget.rate
    }

    #[test]
    fn it_takes_what_nobody_else_wants() {
        let mut budget = Budget::new(Instant::now());
        for _ in 0..7 {
            judged(&mut budget, 1, None, None);
        }
        assert_eq!(budget.rate, MOST);
        let mut budget = Budget::new(Instant::now());
        assert_eq!(judged(&mut budget, FIRST / 8, Some(MS), None), FIRST, "it is not used");
        budget.take(FIRST, Way::In, Need::Order, budget.judged + WINDOW);
        budget.judge(budget.judged + WINDOW, [Said::Nothing, Said::TooLittle]);
        assert_eq!(budget.rate, FIRST, "it is not known yet how others fare");
    }

    #[test]
    fn it_gives_way_to_what_has_become_slow_but_not_wholly() {
        let mut budget = Budget::new(Instant::now());
        let much = MOST;
        for _ in 0..50 {
            judged(&mut budget, 0, Some(4 * MS), Some(10 * MS));
        }
        assert_eq!(budget.rate, FIRST, "nothing is judged while nothing is copied");
        assert!(judged(&mut budget, much, Some(5 * MS), Some(14 * MS)) > FIRST);
        let before = budget.rate;
        assert_eq!(judged(&mut budget, much, Some(7 * MS), Some(14 * MS)), before, "between the two it stays");
        assert!(judged(&mut budget, much, Some(4 * MS), Some(21 * MS)) < before, "one kind is enough");
        for _ in 0..50 {
            judged(&mut budget, much, Some(9 * MS), None);
        }
        assert_eq!(budget.rate, LEAST);
        assert!(judged(&mut budget, much, Some(4 * MS), None) > LEAST);
    }

    #[test]
    fn what_is_quick_or_unknown_is_not_slow() {
        let mut budget = Budget::new(Instant::now());
        judged(&mut budget, 0, Some(MS / 10), None);
        assert!(judged(&mut budget, MOST, Some(2 * MS), None) > FIRST);
        let before = budget.rate;
        assert!(judged(&mut budget, MOST, None, Some(30 * MS)) > before, "it may always be so");
        let before = budget.rate;
        assert!(judged(&mut budget, MOST, None, Some(900 * MS)) < before, "that is slow in any case");
    }

    #[test]
    fn it_keeps_to_its_rate_and_saves_nothing_up() {
        let t0 = Instant::now();
        let mut budget = Budget::new(t0);
        let later = t0 + Duration::from_secs(60);
        assert_eq!(budget.take(FIRST, Way::In, Need::Order, later), Duration::ZERO);
        assert_eq!(budget.take(FIRST / 2, Way::In, Need::Order, later), Duration::from_secs(1));
        assert_eq!(budget.take(1, Way::In, Need::Order, later + Duration::from_secs(1)), Duration::from_millis(500));
        assert_eq!(budget.take(1, Way::Out, Need::Order, later), Duration::ZERO);
    }

    #[test]
    fn of_many_who_copy_from_it_the_last_are_sent_to_others() {
        let mut budget = Budget::new(Instant::now());
        let now = budget.paid[0];
        let served = (0..100).filter(|_| budget.lend(FIRST, Need::Order, now).is_some()).count();
        assert_eq!(served, 11, "each takes a second, and the last of them waits ten");
        assert_eq!(budget.lend(FIRST, Need::Order, now + Duration::from_secs(2)), Some(Duration::from_secs(9)));
        assert_eq!(budget.take(1, Way::In, Need::Order, now), Duration::ZERO);
    }

    #[test]
    fn what_has_too_few_copies_does_not_wait_for_everybody() {
        let mut budget = Budget::new(Instant::now());
        budget.rate = LEAST;
        let later = budget.paid[0] + Duration::from_secs(60);
        budget.take(URGENT, Way::In, Need::Danger, later);
        assert_eq!(budget.take(LEAST, Way::In, Need::Order, later), Duration::from_secs(1));
        assert_eq!(budget.take(1, Way::In, Need::Order, later), Duration::from_secs(2));
    }

    #[test]
    fn the_slow_are_looked_at_and_not_the_one_in_twenty() {
        let timing = Timing::default();
        assert_eq!(timing.said(), Said::Nothing);
        for _ in 0..18 {
            timing.took(MS);
        }
        assert_eq!(timing.said(), Said::TooLittle);
        timing.took(500 * MS);
        timing.took(MS);
        let Said::Slow(one) = timing.said() else { panic!("it was enough") };
        assert!(one >= MS && one < MS * 5 / 4, "{one:?}");
        assert_eq!(timing.said(), Said::Nothing, "it begins anew");
        let timing = Arc::new(timing);
        let one = UnderWay::begin(&timing);
        assert_eq!(timing.said(), Said::TooLittle, "somebody waits");
        drop(one);
        assert_eq!(timing.said(), Said::TooLittle);
        timing.buckets.iter().for_each(|b| b.store(0, Ordering::Relaxed));
        for n in 0..40 {
            timing.took(if n < 3 { 500 * MS } else { MS });
        }
        let Said::Slow(three) = timing.said() else { panic!("it was enough") };
        assert!(three >= 500 * MS && three < 625 * MS, "{three:?}");
    }

    #[test]
    fn buckets_hold_every_time_within_a_quarter() {
        let mut time = Duration::from_micros(2);
        while time < Duration::from_secs(40) {
            let upper = upper(bucket(time));
            assert!(upper >= time && upper <= time * 5 / 4 + Duration::from_nanos(2), "{time:?} {upper:?}");
            time = time * 21 / 20;
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }
}
