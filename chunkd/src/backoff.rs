//! Waiting longer after each failure, with some randomness so that many do not come back at once.

use std::time::Duration;

use rand::Rng;

/// Doubles from a first wait to a longest one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// It worked: the next failure waits shortly again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait now: between half and all of what this failure's turn is.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_anew() {
        let ms = Duration::from_millis;
        let mut b = Backoff::new(ms(100), ms(350));
        for want in [100, 200, 350, 350] {
            let wait = b.next_wait();
            assert!(ms(want) / 2 <= wait && wait <= ms(want), "{wait:?} for {want}");
        }
        b.reset();
        assert!(b.next_wait() <= ms(100));
    }
}
