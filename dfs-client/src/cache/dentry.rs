//! Which inode a name was, at most one TTL ago. No negative entries before leases exist.
//!
//! An answer that was asked for before an own change of the same directory came back is not kept: see [`Ticket`].

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_core::id::Ino;
use dfs_core::name::Name;
use quick_cache::sync::Cache;

/// Names kept.
const NAMES: usize = 65_536;
/// Directories share this many counters of own changes.
const COUNTERS: usize = 64;

/// Names and what they were.
#[derive(Debug)]
pub struct Dentries {
    names: Cache<(Ino, Name), (Ino, Instant)>,
    changes: Vec<AtomicU64>,
    hasher: RandomState,
    ttl: Duration,
}

/// Taken before a directory is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    changes: u64,
    asked: Instant,
}

impl Ticket {
    /// When it was taken.
    #[must_use]
    pub fn asked(&self) -> Instant {
        self.asked
    }
}

impl Dentries {
    /// Whose names serve for `ttl`.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        let changes = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        let names = Cache::new(NAMES);
        // Memory that is not touched costs nothing, and a table that grows has to hash all its names again.
        names.reserve(NAMES);
        Self { names, changes, hasher: RandomState::new(), ttl }
    }

    fn counter(&self, parent: Ino) -> &AtomicU64 {
        let hash = self.hasher.hash_one(parent);
        &self.changes[(hash % COUNTERS as u64) as usize]
    }

    /// To be taken before asking about names in `parent`.
    #[must_use]
    pub fn ticket(&self, parent: Ino) -> Ticket {
        Ticket { changes: self.counter(parent).load(Ordering::SeqCst), asked: Instant::now() }
    }

    /// An own change in `parent` begins or came back: answers to what was asked before it count for nothing.
    pub fn changed(&self, parent: Ino) {
        self.counter(parent).fetch_add(1, Ordering::SeqCst);
    }

    /// Whether no own change in `parent` has come between.
    #[must_use]
    pub fn is_current(&self, ticket: Ticket, parent: Ino) -> bool {
        self.counter(parent).load(Ordering::SeqCst) == ticket.changes
    }

    /// What a name is, if that still serves, and for how long.
    #[must_use]
    pub fn get(&self, parent: Ino, name: &Name, now: Instant) -> Option<(Ino, Duration)> {
        let (ino, at) = self.names.get(&(parent, name.clone()))?;
        let left = self.ttl.checked_sub(now.saturating_duration_since(at)).filter(|left| !left.is_zero())?;
        Some((ino, left))
    }

    /// An answer.
    pub fn learn(&self, ticket: Ticket, parent: Ino, name: &Name, ino: Ino) {
        if self.is_current(ticket, parent) {
            self.names.insert((parent, name.clone()), (ino, ticket.asked));
        }
    }

    /// What an own change made of a name.
    pub fn set(&self, parent: Ino, name: &Name, ino: Ino, sent: Instant) {
        self.names.insert((parent, name.clone()), (ino, sent));
    }

    /// The name is gone, or nobody knows.
    pub fn forget(&self, parent: Ino, name: &Name) {
        self.names.remove(&(parent, name.clone()));
    }

    /// All names in `parent` are unknown; those that were known, and what they were.
    #[must_use]
    pub fn take_names(&self, parent: Ino) -> Vec<(Name, Ino)> {
        self.changed(parent);
        let here = self.names.iter().filter(|((dir, _), _)| *dir == parent);
        let names: Vec<(Name, Ino)> = here.map(|((_, name), (ino, _))| (name, ino)).collect();
        names.iter().for_each(|(name, _)| self.forget(parent, name));
        names
    }

    /// All names are unknown.
    pub fn clear(&self) {
        for counter in &self.changes {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        self.names.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: Ino = Ino(1);

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_name_serves_for_one_ttl_from_when_it_was_asked_for() {
        let ttl = Duration::from_secs(1);
        let names = Dentries::new(ttl);
        let ticket = names.ticket(DIR);
        names.learn(ticket, DIR, &name("a"), Ino(5));
        assert_eq!(names.get(DIR, &name("a"), ticket.asked() + ttl / 4), Some((Ino(5), ttl / 4 * 3)));
        assert_eq!(names.get(DIR, &name("a"), ticket.asked() + ttl), None);
        assert_eq!(names.get(DIR, &name("b"), ticket.asked()), None);
    }

    #[test]
    fn the_names_of_a_directory_are_taken_and_no_others() {
        let (names, now) = (Dentries::new(Duration::from_secs(1)), Instant::now());
        names.set(DIR, &name("a"), Ino(5), now);
        names.set(Ino(9), &name("b"), Ino(6), now);
        let ticket = names.ticket(DIR);
        assert_eq!(names.take_names(DIR), [(name("a"), Ino(5))]);
        names.learn(ticket, DIR, &name("c"), Ino(7));
        assert_eq!((names.get(DIR, &name("a"), now), names.get(DIR, &name("c"), now)), (None, None));
        assert!(names.get(Ino(9), &name("b"), now).is_some());
    }

    #[test]
    fn an_answer_from_before_an_own_change_is_not_kept() {
        let names = Dentries::new(Duration::from_secs(1));
        let ticket = names.ticket(DIR);
        names.changed(DIR);
        names.forget(DIR, &name("a"));
        names.learn(ticket, DIR, &name("a"), Ino(5));
        assert_eq!(names.get(DIR, &name("a"), ticket.asked()), None);
        let ticket = names.ticket(DIR);
        names.clear();
        names.learn(ticket, DIR, &name("a"), Ino(5));
        assert_eq!(names.get(DIR, &name("a"), ticket.asked()), None);
    }
}
