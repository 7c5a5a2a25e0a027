//! Inode numbers granted to the session, handed out one by one.

use std::collections::VecDeque;

use dfs_core::id::{Ino, SessionId};
use dfs_core::limits;

/// Numbers left at which the next range is asked for: many may be wanted before the answer.
const LOW: u64 = limits::INO_GRANT;

/// What a caller should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// A number, if there was one.
    pub(super) ino: Option<Ino>,
    /// Whether the caller must ask for a range now.
    pub(super) ask: bool,
}

/// The ranges of one session.
#[derive(Debug, Default)]
pub(super) struct Inos {
    session: SessionId,
    ranges: VecDeque<(u64, u64)>,
    asking: bool,
}

impl Inos {
    /// The next number. Those of another session are void.
    pub(super) fn take(&mut self, session: SessionId) -> Taken {
        if session != self.session {
            self.ranges.clear();
            self.session = session;
        }
        let ino = self.ranges.front_mut().map(|range| {
            range.0 += 1;
            Ino(range.0 - 1)
        });
        self.ranges.retain(|(start, end)| start < end);
        let left: u64 = self.ranges.iter().map(|(start, end)| end - start).sum();
        let ask = left < LOW && !self.asking;
        self.asking |= ask;
        Taken { ino, ask }
    }

    /// An answer to asking: a range granted to `session`, or none.
    pub(super) fn granted(&mut self, session: SessionId, range: Option<(u64, u64)>) {
        self.asking = false;
        if let Some((start, end)) = range
            && session == self.session
            && end.checked_sub(start).is_some_and(|n| (1..=limits::INO_GRANT).contains(&n))
            && self.ranges.len() < limits::INO_RANGES - 1
        {
            self.ranges.push_back((start, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_once_and_early_and_forgets_another_sessions_numbers() {
        let mut inos = Inos::default();
        let a = SessionId(1);
        assert_eq!(inos.take(a), Taken { ino: None, ask: true });
        assert_eq!(inos.take(a), Taken { ino: None, ask: false });
        inos.granted(a, Some((10, 10 + 4096)));
        assert_eq!(inos.take(a), Taken { ino: Some(Ino(10)), ask: true }, "the second range at once");
        inos.granted(a, Some((9000, 9000 + 4096)));
        for n in 11..10 + 4096 {
            assert_eq!(inos.take(a), Taken { ino: Some(Ino(n)), ask: false });
        }
        assert_eq!(inos.take(a), Taken { ino: Some(Ino(9000)), ask: true });
        inos.granted(a, None);
        assert!(inos.take(a).ask, "asks again after a failure");
        inos.granted(a, Some((0, u64::MAX)));
        assert!(inos.take(a).ask, "more than can be granted is no grant");
        inos.granted(SessionId(9), Some((1, 5)));
        assert_eq!(inos.take(SessionId(2)), Taken { ino: None, ask: true });
    }
}
