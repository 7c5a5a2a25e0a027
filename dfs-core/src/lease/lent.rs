//! metad's side: who has which directory's names, and who waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{LEASE, LEASES, SLACK};
use crate::id::{Ino, SessionId};

/// For how long a session is lent nothing that did not give back what it was told to, and nobody a directory that had
/// too many names.
const REFUSED: Duration = Duration::from_secs(60);

/// Directories with too many names that are remembered.
const LARGE: usize = 4096;

/// A session that a stream serves.
#[derive(Debug)]
struct Holder {
    stream: u64,
    /// When its last beat came; before the first, when the stream began.
    heard: Duration,
    /// What that beat said, for its echo.
    beat: Option<u64>,
    dirs: BTreeSet<Ino>,
    /// Those of them that it has been told to give back, and when.
    recalled: BTreeMap<Ino, Duration>,
    /// It was told to give something back, did not, and went on beating: it is lent nothing until then.
    refused_until: Duration,
}

impl Holder {
    fn has_lapsed(&self, now: Duration) -> bool {
        now >= self.heard + LEASE + SLACK
    }

    /// One that beats but does not give back what it was told to is not believed any more.
    fn is_stubborn(&self, now: Duration) -> bool {
        self.recalled.values().any(|told| now >= *told + LEASE)
    }
}

/// A directory that somebody holds, or adds a name to.
#[derive(Debug, Default)]
struct Dir {
    holders: BTreeSet<SessionId>,
    /// Changes under way, each by its session.
    changes: Vec<SessionId>,
}

/// All leases.
#[derive(Debug)]
pub struct Lent {
    sessions: BTreeMap<SessionId, Holder>,
    dirs: BTreeMap<Ino, Dir>,
    /// Sessions of before the start: each may believe until `settled` in what the metad before this one lent, unless
    /// it comes back, which it does with empty hands.
    unsettled: BTreeSet<SessionId>,
    settled: Duration,
    /// Directories that had too many names, and until when they are not lent.
    large: BTreeMap<Ino, Duration>,
}

impl Lent {
    /// Of a metad that starts at `now` and finds these sessions.
    #[must_use]
    pub fn new(found: impl IntoIterator<Item = SessionId>, now: Duration) -> Self {
        let unsettled = found.into_iter().collect();
        Self {
            sessions: BTreeMap::new(),
            dirs: BTreeMap::new(),
            unsettled,
            settled: now + LEASE + SLACK,
            large: BTreeMap::new(),
        }
    }

    /// A stream begins to serve a session, which has given up what it had before it said hello. `None`, and nothing is
    /// done, if a later stream (by its number) serves it already; else as [`Lent::end`].
    pub fn attach(&mut self, session: SessionId, stream: u64, now: Duration) -> Option<bool> {
        if self.sessions.get(&session).is_some_and(|holder| holder.stream > stream) {
            return None;
        }
        let frees = self.end(session);
        let (dirs, recalled) = (BTreeSet::new(), BTreeMap::new());
        let holder = Holder { stream, heard: now, beat: None, dirs, recalled, refused_until: now };
        self.sessions.insert(session, holder);
        Some(frees)
    }

    /// A session has ended, or holds nothing any more. Whether a change that waits may be made now.
    pub fn end(&mut self, session: SessionId) -> bool {
        // A change does not wait for its own session.
        let mut frees = self.unsettled.remove(&session) && self.unsettled.len() <= 1;
        for dir in self.sessions.remove(&session).into_iter().flat_map(|holder| holder.dirs) {
            frees |= self.drop_holder(dir, session);
        }
        frees
    }

    /// Whether a change waits there.
    fn drop_holder(&mut self, dir: Ino, session: SessionId) -> bool {
        let Some(at) = self.dirs.get_mut(&dir) else { return false };
        at.holders.remove(&session);
        let waits = !at.changes.is_empty();
        if at.holders.is_empty() && !waits {
            self.dirs.remove(&dir);
        }
        waits
    }

    /// The holder, if it is this stream that serves it.
    fn served(&mut self, session: SessionId, stream: u64) -> Option<&mut Holder> {
        self.sessions.get_mut(&session).filter(|holder| holder.stream == stream)
    }

    /// A beat came, which says `beat`.
    pub fn beat(&mut self, session: SessionId, stream: u64, beat: u64, now: Duration) {
        if let Some(holder) = self.served(session, stream) {
            if holder.is_stubborn(now) {
                holder.refused_until = now + REFUSED;
            } else {
                (holder.heard, holder.beat) = (now, Some(beat));
            }
        }
    }

    /// What to echo: the last beat that came.
    #[must_use]
    pub fn echo(&self, session: SessionId, stream: u64) -> Option<u64> {
        self.sessions.get(&session).filter(|holder| holder.stream == stream)?.beat
    }

    /// Lends the names of `dir`, which are to be listed after this. False: not now, somebody else is changing them, or it
    /// has too many.
    pub fn lend(&mut self, session: SessionId, stream: u64, dir: Ino, now: Duration) -> bool {
        let Some(holder) = self.served(session, stream) else { return false };
        if now < holder.refused_until || holder.dirs.len() >= LEASES && !holder.dirs.contains(&dir) {
            return false;
        }
        if self.large.get(&dir).is_some_and(|until| now < *until) {
            return false;
        }
        let changed = |at: &Dir| at.changes.iter().any(|by| *by != session);
        if self.dirs.get(&dir).is_some_and(changed) {
            return false;
        }
        self.dirs.entry(dir).or_default().holders.insert(session);
        if let Some(holder) = self.served(session, stream) {
            holder.dirs.insert(dir);
        }
        true
    }

    /// Given back. Whether a change that waits may be made now.
    pub fn returned(&mut self, session: SessionId, stream: u64, dir: Ino) -> bool {
        let Some(holder) = self.served(session, stream) else { return false };
        holder.dirs.remove(&dir);
        holder.recalled.remove(&dir);
        self.drop_holder(dir, session)
    }

    /// What was lent turned out to have too many names.
    pub fn too_large(&mut self, dir: Ino, now: Duration) {
        if self.large.len() >= LARGE {
            self.large.clear();
        }
        self.large.insert(dir, now + REFUSED);
    }

    /// A session is about to add names in these directories: from now on nobody else is lent them. To be followed by
    /// [`Lent::done`], whatever happens. Whom to tell that which directory is recalled, in any case before anything else
    /// that they are told later.
    #[must_use]
    pub fn change(&mut self, session: SessionId, dirs: &[Ino], now: Duration) -> Vec<(SessionId, Ino)> {
        let mut recalls = Vec::new();
        for dir in dirs {
            let at = self.dirs.entry(*dir).or_default();
            at.changes.push(session);
            for by in at.holders.iter().filter(|by| **by != session) {
                let Some(holder) = self.sessions.get_mut(by) else { continue };
                holder.recalled.entry(*dir).or_insert_with(|| {
                    recalls.push((*by, *dir));
                    now
                });
            }
        }
        recalls
    }

    /// Whether the change may be made. `Err`: when it is worth asking again, unless something is given back before.
    ///
    /// # Errors
    /// As said.
    pub fn may_change(&mut self, session: SessionId, dirs: &[Ino], now: Duration) -> Result<(), Duration> {
        if now < self.settled {
            if self.unsettled.iter().any(|other| *other != session) {
                return Err(self.settled);
            }
        } else {
            self.unsettled.clear();
        }
        for dir in dirs {
            while let Some(by) = self.holder_but(*dir, session) {
                match self.sessions.get_mut(&by) {
                    // Whoever else holds it: before this one is gone nothing may be done.
                    Some(holder) if !holder.has_lapsed(now) => return Err(holder.heard + LEASE + SLACK),
                    Some(holder) => {
                        holder.dirs.remove(dir);
                        holder.recalled.remove(dir);
                    }
                    None => {}
                }
                self.drop_holder(*dir, by);
            }
        }
        Ok(())
    }

    fn holder_but(&self, dir: Ino, session: SessionId) -> Option<SessionId> {
        self.dirs.get(&dir)?.holders.iter().find(|by| **by != session).copied()
    }

    /// The change was made, or will not be.
    pub fn done(&mut self, session: SessionId, dirs: &[Ino]) {
        for dir in dirs {
            if let Some(at) = self.dirs.get_mut(dir) {
                if let Some(one) = at.changes.iter().position(|by| *by == session) {
                    at.changes.swap_remove(one);
                }
                if at.holders.is_empty() && at.changes.is_empty() {
                    self.dirs.remove(dir);
                }
            }
        }
    }

    /// Directories that are lent, counted once for each session.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sessions.values().map(|holder| holder.dirs.len()).sum()
    }
}
