//! The client's side: which names may be there, in the directories that it has leased.
//!
//! Names are told apart by a hash that the caller makes: two of one hash only mean that metad is asked once too often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{HELD, LEASE};
use crate::id::Ino;

/// Names kept in all directories together: some 4 MiB.
const NAMES: usize = 1 << 18;

/// A directory that is leased, or asked for.
#[derive(Debug)]
struct Dir {
    asked: u64,
    granted: bool,
    /// Names that may be there: those listed, and own ones of since. None is taken out.
    names: BTreeSet<u64>,
    used: u64,
}

/// Which question for a lease this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(u64);

/// All leases of a client.
#[derive(Debug, Default)]
pub struct Held {
    dirs: BTreeMap<Ino, Dir>,
    names: usize,
    /// Own changes under way that may add a name.
    adding: BTreeMap<Ino, Vec<u64>>,
    count: u64,
    /// Nothing is trusted from then on.
    until: Duration,
}

impl Held {
    /// A lease is asked for from now on: what is added until the answer comes counts. `None`: it was asked for already.
    pub fn ask(&mut self, dir: Ino) -> Option<Asked> {
        if self.dirs.contains_key(&dir) {
            return None;
        }
        self.count += 1;
        let names: BTreeSet<u64> = self.adding.get(&dir).into_iter().flatten().copied().collect();
        self.names += names.len();
        self.dirs.insert(dir, Dir { asked: self.count, granted: false, names, used: self.count });
        Some(Asked(self.count))
    }

    /// It was granted, with the names that were there after it was. The directories to be given back.
    #[must_use]
    pub fn granted(&mut self, dir: Ino, asked: Asked, names: impl IntoIterator<Item = u64>) -> Vec<Ino> {
        match self.dirs.get_mut(&dir).filter(|at| at.asked == asked.0) {
            Some(at) => {
                let before = at.names.len();
                at.names.extend(names);
                at.granted = true;
                self.names += at.names.len() - before;
                self.give_up_some()
            }
            // Recalled meanwhile, or from before another stream: whatever metad believes, this client has it not.
            None => {
                self.forget(dir);
                vec![dir]
            }
        }
    }

    /// Those used least lately, until there is room.
    fn give_up_some(&mut self) -> Vec<Ino> {
        let mut given = Vec::new();
        while self.dirs.len() > HELD || self.names > NAMES {
            let Some(oldest) = self.dirs.iter().min_by_key(|(_, at)| at.used).map(|(dir, _)| *dir) else { break };
            self.forget(oldest);
            given.push(oldest);
        }
        given
    }

    /// It is recalled, refused or given up: not trusted from now on. To be told to metad in the same moment, before
    /// anything is asked later.
    pub fn forget(&mut self, dir: Ino) {
        if let Some(at) = self.dirs.remove(&dir) {
            self.names -= at.names.len();
        }
    }

    /// The stream has ended, and all leases with it.
    pub fn lost(&mut self) {
        self.dirs.clear();
        (self.names, self.until) = (0, Duration::ZERO);
    }

    /// metad has echoed a beat that was sent at `sent`.
    pub fn echoed(&mut self, sent: Duration, now: Duration) {
        // One from the future is nobody's beat.
        if sent <= now {
            self.until = self.until.max(sent + LEASE);
        }
    }

    /// An own change that may add this name begins. The directories to be given back.
    #[must_use]
    pub fn adding(&mut self, dir: Ino, name: u64) -> Vec<Ino> {
        self.adding.entry(dir).or_default().push(name);
        if let Some(at) = self.dirs.get_mut(&dir)
            && at.names.insert(name)
        {
            self.names += 1;
            return self.give_up_some();
        }
        Vec::new()
    }

    /// It has ended.
    pub fn added(&mut self, dir: Ino, name: u64) {
        if let Some(names) = self.adding.get_mut(&dir) {
            if let Some(one) = names.iter().position(|n| *n == name) {
                names.swap_remove(one);
            }
            if names.is_empty() {
                self.adding.remove(&dir);
            }
        }
    }

    /// Whether it is certain that there is no such name.
    pub fn is_absent(&mut self, dir: Ino, name: u64, now: Duration) -> bool {
        if now >= self.until {
            return false;
        }
        let Some(at) = self.dirs.get_mut(&dir).filter(|at| at.granted) else { return false };
        self.count += 1;
        at.used = self.count;
        !at.names.contains(&name)
    }
}
