//! Leases on the names of directories: what is known to be absent is not asked for.
//!
//! The rules are those of [`dfs_core::lease`]. A directory is leased after metad has said a second time that a name is
//! not in it: then more of that is to come.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dfs_core::id::Ino;
use dfs_core::lease::{Asked, Held};
use dfs_core::name::Name;
use dfs_core::op::{Group, Op};
use dfs_proto::v1;

use super::{MetaClient, Shared, unfit};
use crate::error::FsResult;
use crate::lock::lock;

/// Misses in a directory from which on it is leased.
const MISSES: u32 = 2;
/// A directory whose lease was refused or recalled is not asked for again until after this: others add names there.
const REST: Duration = Duration::from_secs(10);
/// Directories whose misses are counted at most; when there are more, counting begins anew.
const COUNTED: usize = 4096;

/// What was heard of a directory that is not leased.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    misses: u32,
    rests_until: Duration,
}

/// All leases of a session.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: Mutex<Held>,
    /// Whether there may be any: most questions of a mount that has none cost no lock.
    any: AtomicBool,
    heard: Mutex<HashMap<Ino, Heard>>,
    hasher: RandomState,
}

impl Leases {
    /// The stream has ended: nothing is leased any more.
    pub(super) fn lost(&self) {
        let mut held = lock(&self.held);
        held.lost();
        self.any.store(false, Ordering::Release);
    }

    /// metad has echoed a beat of this time.
    pub(super) fn echoed(&self, beat: u64) {
        lock(&self.held).echoed(Duration::from_micros(beat), now());
    }

    /// These are not asked for again for a while.
    fn rest(&self, dirs: &[Ino]) {
        let rests = Heard { misses: 0, rests_until: now() + REST };
        dirs.iter().for_each(|dir| {
            self.counted().insert(*dir, rests);
        });
    }

    fn counted(&self) -> std::sync::MutexGuard<'_, HashMap<Ino, Heard>> {
        let mut heard = lock(&self.heard);
        if heard.len() >= COUNTED {
            heard.clear();
        }
        heard
    }

    /// One more miss; whether the directory is worth a lease now.
    fn missed(&self, dir: Ino) -> bool {
        let now = now();
        let mut counted = self.counted();
        let heard = counted.entry(dir).or_default();
        if now < heard.rests_until {
            return false;
        }
        heard.misses += 1;
        if heard.misses < MISSES {
            return false;
        }
        counted.remove(&dir);
        true
    }

    fn ask(&self, dir: Ino) -> Option<Asked> {
        let mut held = lock(&self.held);
        self.any.store(true, Ordering::Release);
        held.ask(dir)
    }

    fn hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }
}

/// An own change that may add a name, until it is dropped.
#[derive(Debug)]
pub(super) struct Adding<'a> {
    leases: &'a Leases,
    dir: Ino,
    name: u64,
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        lock(&self.leases.held).added(self.dir, self.name);
    }
}

impl Shared {
    /// These are trusted no more, and metad is told so.
    pub(super) fn give_up(&self, dirs: &[Ino]) {
        self.change_held(|held| {
            dirs.iter().for_each(|dir| held.forget(*dir));
            dirs.to_vec()
        });
    }

    /// Changes what is held. What is given up thereby is said before anybody can ask for it again: metad would take it
    /// for that.
    fn change_held(&self, change: impl FnOnce(&mut Held) -> Vec<Ino>) {
        let mut held = lock(&self.leases.held);
        let given = change(&mut held);
        if !given.is_empty() {
            lock(&self.calls).say_returned(given.iter().map(|dir| dir.0));
            drop(held);
            self.leases.rest(&given);
        }
    }
}

impl MetaClient {
    /// Whether it is certain, at this moment and for all mounts, that there is no such name.
    #[must_use]
    pub(crate) fn is_absent(&self, dir: Ino, name: &Name) -> bool {
        let leases = &self.shared().leases;
        if !leases.any.load(Ordering::Acquire) {
            return false;
        }
        let name = leases.hash(name.as_bytes());
        // The time first: what is recalled from now on may be said a moment later than it was found.
        let now = now();
        let absent = lock(&leases.held).is_absent(dir, name, now);
        if absent {
            metrics::counter!("dfs_client_absent_names_total").increment(1);
        }
        absent
    }

    /// Names that these may add, to be kept until their outcome is known.
    pub(super) fn adding(&self, groups: &[Group]) -> Vec<Adding<'_>> {
        let adds = |op: &Op| match op {
            Op::Create(create) => Some((create.parent, create.name.clone())),
            Op::Link { parent, name, .. } => Some((*parent, name.clone())),
            Op::Rename(rename) => Some((rename.new_parent, rename.new_name.clone())),
            _ => None,
        };
        let (shared, leases) = (self.shared(), &self.shared().leases);
        let names = groups.iter().flat_map(|group| &group.ops).filter_map(adds);
        let add = |(dir, name): (Ino, Name)| {
            let name = leases.hash(name.as_bytes());
            shared.change_held(|held| held.adding(dir, name));
            Adding { leases, dir, name }
        };
        names.map(add).collect()
    }

    /// metad said that a name is not there: the directory may be leased in the background.
    pub(crate) fn missed(&self, dir: Ino) {
        if self.shared().leases.missed(dir) {
            let client = self.clone();
            tokio::spawn(async move {
                if let Err(e) = client.lease(dir).await {
                    tracing::debug!(%e, %dir, "no lease on the names of a directory");
                }
            });
        }
    }

    async fn lease(&self, dir: Ino) -> FsResult<()> {
        let shared = self.shared();
        let leases = &shared.leases;
        let Some(asked) = leases.ask(dir) else { return Ok(()) };
        // A change that was given up is counted nowhere else, and may be made after the names were listed.
        let answer = if lock(&shared.calls).is_in_doubt(&[dir]) {
            Ok(v1::call_result::Body::Leased(v1::LeasedNames::default()))
        } else {
            self.call(v1::call::Body::LeaseNames(dir.0)).await
        };
        match answer {
            Ok(v1::call_result::Body::Leased(v1::LeasedNames { granted: true, names })) => {
                let names: Vec<u64> = names.iter().map(|name| leases.hash(name)).collect();
                shared.change_held(|held| held.granted(dir, asked, names));
                Ok(())
            }
            answer => {
                // Whatever became of it in metad.
                shared.give_up(&[dir]);
                match answer? {
                    v1::call_result::Body::Leased(_) => Ok(()),
                    other => Err(unfit(&other)),
                }
            }
        }
    }
}

/// Since the machine was started; goes on while it sleeps.
#[allow(unsafe_code)]
pub(super) fn now() -> Duration {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to where one is. It cannot fail: the clock has been there since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut at) };
    Duration::new(at.tv_sec.unsigned_abs(), u32::try_from(at.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_leased_at_the_second_miss_and_rests_after_a_recall() {
        let leases = Leases::default();
        assert!(!leases.missed(Ino(5)) && !leases.missed(Ino(6)));
        assert!(leases.missed(Ino(5)));
        leases.rest(&[Ino(5)]);
        assert!((0..10).all(|_| !leases.missed(Ino(5))));
        assert!(leases.missed(Ino(6)));
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let leases = Leases::default();
        assert!((0..3 * COUNTED as u64).all(|n| !leases.missed(Ino(n))));
        assert!(lock(&leases.heard).len() <= COUNTED);
    }
}
