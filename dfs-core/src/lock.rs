//! POSIX (fcntl) locks: what one owner holds of a file, and what stands in whose way.
//!
//! An owner's locks of a file never overlap; what it locks anew takes the place of what it had there (POSIX
//! splitting), and neighbours of one kind become one. Offsets end at [`LOCK_END`], which stands for "to the end,
//! however long the file becomes".

use serde::{Deserialize, Serialize};

use crate::id::{Ino, LockOwner, SessionId};
use crate::range::ByteRange;

/// One past the last offset that a lock can cover: that of `off_t`.
pub const LOCK_END: u64 = 1 << 63;

/// Kind of a lock. Serialized by position: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockKind {
    /// Shared: beside others of its kind.
    Read,
    /// Exclusive.
    Write,
}

/// What an owner wants of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockChange {
    /// The file.
    pub ino: Ino,
    /// Whose, within the session.
    pub owner: LockOwner,
    /// Process, for those who ask whose lock it is.
    pub pid: u32,
    /// Which bytes; ends at [`LOCK_END`] at most.
    pub range: ByteRange,
    /// What the owner has there afterwards; `None`: nothing.
    pub kind: Option<LockKind>,
}

/// A lock that an owner has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldLock {
    /// Which bytes.
    pub range: ByteRange,
    /// How.
    pub kind: LockKind,
    /// The process that asked for it.
    pub pid: u32,
}

/// A lock and who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockInfo {
    /// Whose session.
    pub session: SessionId,
    /// The lock.
    pub lock: HeldLock,
}

/// Whether these can be locked bytes.
#[must_use]
pub fn is_lockable(range: ByteRange) -> bool {
    range.start < range.end && range.end <= LOCK_END
}

impl HeldLock {
    /// Whether another owner cannot have `range` as `kind` beside this.
    #[must_use]
    pub fn blocks(&self, range: ByteRange, kind: LockKind) -> bool {
        let exclusive = self.kind == LockKind::Write || kind == LockKind::Write;
        exclusive && self.range.intersect(range).is_some()
    }
}

/// What an owner has after it changed `range`; `held` and the result are in order, and neighbours differ.
#[must_use]
pub fn changed(held: &[HeldLock], range: ByteRange, kind: Option<LockKind>, pid: u32) -> Vec<HeldLock> {
    let mut all = Vec::with_capacity(held.len() + 2);
    for lock in held {
        let before = ByteRange::new(lock.range.start, lock.range.end.min(range.start));
        let after = ByteRange::new(lock.range.start.max(range.end), lock.range.end);
        all.extend([before, after].into_iter().flatten().map(|range| HeldLock { range, ..*lock }));
    }
    all.extend(kind.map(|kind| HeldLock { range, kind, pid }));
    all.sort_unstable_by_key(|lock| lock.range.start);
    let mut merged: Vec<HeldLock> = Vec::with_capacity(all.len());
    for lock in all {
        match merged.last_mut() {
            Some(last) if last.range.end == lock.range.start && last.kind == lock.kind => {
                last.range.end = lock.range.end;
                if lock.range.start == range.start {
                    last.pid = lock.pid;
                }
            }
            _ => merged.push(lock),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange { start, end }
    }

    #[test]
    fn locks_split_merge_and_change_kind() {
        let (read, write) = (Some(LockKind::Read), Some(LockKind::Write));
        let lock = |start, end, kind, pid| HeldLock { range: range(start, end), kind, pid };
        let held = changed(&[], range(0, 100), read, 1);
        assert_eq!(held, [lock(0, 100, LockKind::Read, 1)]);
        let held = changed(&held, range(40, 60), write, 2);
        let split =
            [lock(0, 40, LockKind::Read, 1), lock(40, 60, LockKind::Write, 2), lock(60, 100, LockKind::Read, 1)];
        assert_eq!(held, split);
        assert_eq!(changed(&held, range(40, 60), read, 3), [lock(0, 100, LockKind::Read, 3)]);
        assert_eq!(changed(&held, range(0, LOCK_END), None, 0), []);
        assert_eq!(
            changed(&held, range(10, 90), None, 0),
            [lock(0, 10, LockKind::Read, 1), lock(90, 100, LockKind::Read, 1)]
        );
    }

    #[test]
    fn only_readers_stand_beside_each_other() {
        let held = |kind| HeldLock { range: range(10, 20), kind, pid: 1 };
        assert!(!held(LockKind::Read).blocks(range(0, 100), LockKind::Read));
        assert!(held(LockKind::Read).blocks(range(19, 100), LockKind::Write));
        assert!(held(LockKind::Write).blocks(range(0, 11), LockKind::Read));
        assert!(!held(LockKind::Write).blocks(range(20, 30), LockKind::Write));
        assert!(!held(LockKind::Write).blocks(range(0, 10), LockKind::Write));
    }

    proptest! {
        #[test]
        fn bytes_have_the_kind_that_was_asked_for_last(
            steps in prop::collection::vec((0_u64..30, 1_u64..12, prop::option::of(any::<bool>())), 1..20)
        ) {
            let mut held = Vec::new();
            let mut bytes = [None; 64];
            for (start, len, kind) in steps {
                let kind = kind.map(|write| if write { LockKind::Write } else { LockKind::Read });
                held = changed(&held, range(start, start + len), kind, 1);
                bytes[start as usize..(start + len) as usize].fill(kind);
                for (at, kind) in bytes.iter().enumerate() {
                    let found = held.iter().find(|l| l.range.contains(at as u64)).map(|l| l.kind);
                    prop_assert_eq!(found, *kind);
                }
                let apart = held.windows(2).all(|two| {
                    two[0].range.end < two[1].range.start
                        || (two[0].range.end == two[1].range.start && two[0].kind != two[1].kind)
                });
                prop_assert!(apart, "{:?}", held);
            }
        }
    }
}
