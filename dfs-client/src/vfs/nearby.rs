//! Names looked up one after the other: what follows them in their directory is fetched along.
//!
//! A program that opens the files of a directory in order of their names would ask metad for each. After the second
//! such question the next names are listed in the background, with attributes and extents, which also tells the
//! reader which small chunks lie side by side. The window grows while what was fetched is used, and closes when it is
//! not. Only a hint: answers go into the caches as those of any listing do, and serve for their TTL.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dfs_core::id::Ino;
use dfs_core::limits::DIR_ENTRIES;
use dfs_core::name::Name;

use super::Vfs;
use crate::lock::lock;

/// Names listed at first.
const FIRST: u32 = 32;
/// How much the window grows when most of it was used.
const GROWTH: u32 = 4;
/// Questions in order before the first window.
const RUN: u32 = 2;
/// Questions in order before another try after a window that was not used.
const RUN_AGAIN: u32 = 64;
/// A row that rests this long is over.
const PATIENCE: Duration = Duration::from_secs(5);
/// Directories watched at once; over it, all are forgotten.
const DIRECTORIES: usize = 256;

/// The lookups in one directory.
#[derive(Debug)]
struct Row {
    last: Name,
    at: Instant,
    /// Questions in order still to come before a window is opened.
    missing: u32,
    window: u32,
    /// Names of the window that were asked for.
    used: u32,
    /// The last name listed; `None` when the listing came to the end.
    listed: Option<Name>,
    busy: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Nearby {
    rows: Mutex<HashMap<Ino, Row>>,
    /// Whether any window is open.
    open: AtomicBool,
}

/// What to list: so many names after this one.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    after: Name,
    limit: u32,
}

impl Nearby {
    /// `name` was found by asking metad.
    fn asked(&self, parent: Ino, name: &Name, now: Instant) -> Option<Wanted> {
        let mut rows = lock(&self.rows);
        if rows.len() >= DIRECTORIES && !rows.contains_key(&parent) {
            rows.clear();
        }
        let fresh =
            || Row { last: name.clone(), at: now, missing: RUN - 1, window: 0, used: 0, listed: None, busy: false };
        let row = match rows.entry(parent) {
            std::collections::hash_map::Entry::Vacant(empty) => {
                empty.insert(fresh());
                return None;
            }
            std::collections::hash_map::Entry::Occupied(row) => row.into_mut(),
        };
        let in_order = row.last < *name && now.saturating_duration_since(row.at) < PATIENCE;
        if !in_order && !row.busy {
            *row = Row { missing: row.missing.max(RUN - 1), ..fresh() };
            return None;
        }
        (row.last, row.at) = (name.clone(), now);
        if row.busy {
            return None;
        }
        row.missing = row.missing.saturating_sub(1);
        if row.window > 0 && row.used < row.window / 4 {
            (row.window, row.missing) = (0, RUN_AGAIN);
        }
        if row.missing > 0 {
            return None;
        }
        Some(row.next(name.clone()))
    }

    /// `name` was found in the cache.
    fn found(&self, parent: Ino, name: &Name, now: Instant) -> Option<Wanted> {
        if !self.open.load(Ordering::Relaxed) {
            return None;
        }
        let mut rows = lock(&self.rows);
        let row = rows.get_mut(&parent).filter(|row| row.window > 0)?;
        row.used += 1;
        row.at = now;
        if row.last < *name {
            row.last = name.clone();
        }
        // The next window comes before this one is used up.
        let due = !row.busy && row.used >= row.window / 4 * 3;
        let after = row.listed.clone().filter(|_| due)?;
        Some(row.next(after))
    }

    /// A window that was wanted is here, or is not to be had: `listed` is its last name if there are more.
    fn listed(&self, parent: Ino, listed: Option<Name>) {
        self.open.store(true, Ordering::Relaxed);
        if let Some(row) = lock(&self.rows).get_mut(&parent) {
            (row.busy, row.listed, row.used) = (false, listed, 0);
        }
    }
}

impl Row {
    fn next(&mut self, after: Name) -> Wanted {
        self.window = if self.window == 0 { FIRST } else { self.window * GROWTH }.min(DIR_ENTRIES);
        self.busy = true;
        Wanted { after, limit: self.window }
    }
}

impl Vfs {
    /// Takes note of a lookup that metad answered.
    pub(super) fn note_asked(&self, parent: Ino, name: &Name) {
        let wanted = self.nearby.asked(parent, name, Instant::now());
        self.list_nearby(parent, wanted);
    }

    /// Takes note of a lookup that the cache answered.
    pub(super) fn note_found(&self, parent: Ino, name: &Name, now: Instant) {
        let wanted = self.nearby.found(parent, name, now);
        self.list_nearby(parent, wanted);
    }

    fn list_nearby(&self, parent: Ino, wanted: Option<Wanted>) {
        let (Some(Wanted { after, limit }), Some(vfs)) = (wanted, self.shared()) else { return };
        self.runtime.spawn(async move {
            let listed = match vfs.page(parent, 0, Some(after), true, limit).await {
                Ok(page) => page.more_after(),
                Err(e) => {
                    tracing::debug!(%parent, %e, "what follows in a directory could not be listed");
                    None
                }
            };
            vfs.nearby.listed(parent, listed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> Name {
        Name::new(format!("f{n:06}").as_bytes()).unwrap()
    }

    const DIR: Ino = Ino(7);

    #[test]
    fn lookups_in_order_open_a_window_that_grows_while_it_is_used() {
        let (nearby, now) = (Nearby::default(), Instant::now());
        assert_eq!(nearby.asked(DIR, &name(0), now), None);
        let first = nearby.asked(DIR, &name(1), now).unwrap();
        assert_eq!((first.after, first.limit), (name(1), FIRST));
        assert_eq!(nearby.asked(DIR, &name(2), now), None, "one at a time");
        nearby.listed(DIR, Some(name(33)));
        let mut next = None;
        for n in 2..34 {
            if let Some(wanted) = nearby.found(DIR, &name(n), now) {
                assert!(next.replace(wanted).is_none(), "once");
            }
        }
        let next = next.unwrap();
        assert_eq!((next.after, next.limit), (name(33), FIRST * GROWTH));
        nearby.listed(DIR, None);
        assert!((0..2000).all(|n| nearby.found(DIR, &name(n), now).is_none()), "nothing follows the end");
    }

    #[test]
    fn lookups_here_and_there_fetch_nothing_and_a_window_without_use_closes() {
        let (nearby, now) = (Nearby::default(), Instant::now());
        for n in [50, 40, 30, 20, 10] {
            assert_eq!(nearby.asked(DIR, &name(n), now), None);
        }
        for n in 11..20_u32 {
            assert_eq!(nearby.asked(DIR, &name(n as usize), now + PATIENCE * n), None, "after a rest it begins anew");
        }
        let (nearby, mut windows) = (Nearby::default(), 0);
        for n in 0..1000 {
            // Every hundredth name: what lies between is never asked for.
            if nearby.asked(DIR, &name(100 * n), now).is_some() {
                windows += 1;
                nearby.listed(DIR, Some(name(100 * n + 32)));
            }
        }
        assert!(windows <= 1000 / RUN_AGAIN + 2, "{windows}");
    }

    #[test]
    fn the_directories_watched_are_bounded() {
        let (nearby, now) = (Nearby::default(), Instant::now());
        for n in 0..10_000 {
            nearby.asked(Ino(n), &name(1), now);
        }
        assert!(lock(&nearby.rows).len() <= DIRECTORIES);
    }
}
