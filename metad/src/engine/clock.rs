//! metad's own clock: what entries are stamped with, and what their due times are compared with.
//!
//! It follows the system's clock but never goes back, and where that one was
//! set back it goes on at the pace of time: a due time written while the clock
//! was years ahead comes when its wait is over, not years later.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use dfs_core::time::Timestamp;

#[derive(Debug)]
pub(super) struct Clock(Mutex<(Timestamp, Instant)>);

impl Clock {
    /// A clock that goes on from here.
    pub(super) fn new(last: Timestamp) -> Self {
        Self(Mutex::new((last, Instant::now())))
    }

    pub(super) fn now(&self) -> Timestamp {
        // A panic elsewhere leaves nothing half done in here.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        let gone = at.saturating_duration_since(last.1);
        let nanos = u64::from(last.0.nanos) + u64::from(gone.subsec_nanos());
        let secs = gone.as_secs() + nanos / 1_000_000_000;
        let own = Timestamp {
            secs: last.0.secs.saturating_add(i64::try_from(secs).unwrap_or(i64::MAX)),
            nanos: u32::try_from(nanos % 1_000_000_000).unwrap_or(0),
        };
        *last = (own.max(Timestamp::from(SystemTime::now())), at);
        last.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_follows_the_system_and_goes_on_where_that_was_set_back() {
        let real = Timestamp::from(SystemTime::now());
        assert!(Clock::new(Timestamp::default()).now() >= real);
        let ahead = Timestamp { secs: 1 << 40, nanos: 999_999_999 };
        let clock = Clock::new(ahead);
        std::thread::sleep(Duration::from_millis(30));
        let later = clock.now();
        assert!(later.as_millis() >= ahead.as_millis() + 30 && later.as_millis() < ahead.as_millis() + 60_000);
        assert!(clock.now() >= later);
    }
}
