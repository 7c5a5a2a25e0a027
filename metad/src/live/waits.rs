//! Who waits for which lock.
//!
//! Waiting is not part of the state: it ends with the stream that asked. Who waits is told when the tables say that
//! nothing is in the way any more, and takes the lock by a commit like everybody else; of those that wait for the
//! same bytes only as many are told as can have them, in the order in which they came. One that was told and does not
//! come leaves the others to the next look, which is a quarter of a second later.
//!
//! A wait that would close a ring of owners who wait for each other is refused.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dfs_core::id::{Ino, LockOwner, SessionId};
use dfs_core::limits::LOCK_WAITS;
use dfs_core::lock::LockKind;
use dfs_core::range::ByteRange;
use tokio::sync::Notify;

use crate::kv::Snapshot;
use crate::machine::locks::owners;
use crate::schema::Fault;

/// Owners that the search for a ring looks at; rings are short.
const RING: usize = 256;

/// Who is told, once. Must not block.
pub type Tell = Box<dyn FnOnce() + Send>;

/// A lock that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// By whom.
    pub session: SessionId,
    /// Within the session.
    pub owner: LockOwner,
    /// Of which file.
    pub ino: Ino,
    /// Which bytes.
    pub range: ByteRange,
    /// How.
    pub kind: LockKind,
}

/// Where the answer goes: the number of a stream, and that of the call on it.
pub type Asked = (u64, u64);

struct Wait {
    wanted: Wanted,
    asked: Asked,
    tell: Tell,
}

#[derive(Default)]
struct All {
    last: u64,
    /// In the order in which they came.
    waits: BTreeMap<u64, Wait>,
    asked: BTreeMap<Asked, u64>,
    files: BTreeSet<(Ino, u64)>,
    owners: BTreeSet<(SessionId, LockOwner, u64)>,
    /// Files where something was freed.
    freed: HashSet<Ino>,
    /// Files where somebody was told and others still wait.
    later: HashSet<Ino>,
    /// What somebody was refused and did not wait for, the last of each owner and file; bounded, it comes again.
    refused: HashMap<(Ino, SessionId, LockOwner), Wanted>,
}

impl All {
    fn remove(&mut self, number: u64) -> Option<Wait> {
        let wait = self.waits.remove(&number)?;
        self.asked.remove(&wait.asked);
        self.files.remove(&(wait.wanted.ino, number));
        self.owners.remove(&(wait.wanted.session, wait.wanted.owner, number));
        Some(wait)
    }

    fn of_file(&self, ino: Ino) -> Vec<(u64, Wanted)> {
        let numbers = self.files.range((ino, 0)..=(ino, u64::MAX)).map(|(_, number)| *number);
        numbers.filter_map(|number| Some((number, self.waits.get(&number)?.wanted))).collect()
    }

    fn of_owner(&self, session: SessionId, owner: LockOwner) -> Vec<Wanted> {
        let numbers = self.owners.range((session, owner, 0)..=(session, owner, u64::MAX)).map(|(.., number)| number);
        numbers.filter_map(|number| Some(self.waits.get(number)?.wanted)).collect()
    }
}

/// Everybody who waits; one lock, held for moments.
#[derive(Default)]
pub struct Waits {
    all: Mutex<All>,
    changed: Notify,
}

impl std::fmt::Debug for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waits").field("waits", &self.lock().waits.len()).finish_non_exhaustive()
    }
}

impl Waits {
    fn lock(&self) -> MutexGuard<'_, All> {
        // A panic elsewhere leaves nothing half done in here.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more waits. The tables are to be looked at after this. False: its session has too many.
    pub fn add(&self, wanted: Wanted, asked: Asked, tell: Tell) -> bool {
        let mut all = self.lock();
        let session = wanted.session;
        if all.owners.range((session, LockOwner(0), 0)..=(session, LockOwner(u64::MAX), u64::MAX)).count() >= LOCK_WAITS
        {
            return false;
        }
        if let Some(number) = all.asked.get(&asked).copied() {
            all.remove(number);
        }
        all.last += 1;
        let number = all.last;
        all.asked.insert(asked, number);
        all.files.insert((wanted.ino, number));
        all.owners.insert((session, wanted.owner, number));
        all.waits.insert(number, Wait { wanted, asked, tell });
        true
    }

    /// Nobody waits for the answer to this call any more.
    pub fn cancel(&self, asked: Asked) -> bool {
        let mut all = self.lock();
        let number = all.asked.get(&asked).copied();
        number.and_then(|number| all.remove(number)).is_some()
    }

    /// The stream has ended.
    pub fn end_stream(&self, stream: u64) {
        let mut all = self.lock();
        let numbers: Vec<u64> = all.asked.range((stream, 0)..=(stream, u64::MAX)).map(|(_, number)| *number).collect();
        for number in numbers {
            all.remove(number);
        }
    }

    /// Locks of this file were given up or became shared.
    pub fn freed(&self, ino: Ino) {
        let mut all = self.lock();
        if all.files.range((ino, 0)..=(ino, u64::MAX)).next().is_some() {
            all.freed.insert(ino);
            self.changed.notify_one();
        }
    }

    /// A session has ended, with all its locks.
    pub fn freed_many(&self) {
        let mut all = self.lock();
        let files: Vec<Ino> = all.files.iter().map(|(ino, _)| *ino).collect();
        all.freed.extend(files);
        self.changed.notify_one();
    }

    /// Somebody could not have this lock, and does not wait.
    pub fn refused(&self, wanted: Wanted) {
        let mut all = self.lock();
        let by = (wanted.ino, wanted.session, wanted.owner);
        if all.refused.len() < LOCK_WAITS || all.refused.contains_key(&by) {
            all.refused.insert(by, wanted);
        }
    }

    /// Locks that somebody wants and may not be able to have: those waited for, and those refused since this was asked
    /// last.
    #[must_use]
    pub fn take_contended(&self) -> Vec<Wanted> {
        let mut all = self.lock();
        let refused = std::mem::take(&mut all.refused);
        refused.into_values().chain(all.waits.values().map(|wait| wait.wanted)).collect()
    }

    /// Waits until something was freed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The files to look at now; with `later`, also those where somebody may have been told in vain.
    #[must_use]
    pub fn take_due(&self, later: bool) -> Vec<Ino> {
        let mut all = self.lock();
        let mut due = std::mem::take(&mut all.freed);
        if later {
            due.extend(std::mem::take(&mut all.later));
        }
        due.into_iter().collect()
    }

    /// Tells those for whom nothing is in the way in `snap`, which was taken after they came.
    ///
    /// # Errors
    /// A fault of the store.
    pub fn look(&self, ino: Ino, snap: &dyn Snapshot) -> Result<(), Fault> {
        let waiting = self.lock().of_file(ino);
        if waiting.is_empty() {
            return Ok(());
        }
        let held = owners(snap, ino)?;
        let mut told: Vec<Wanted> = Vec::new();
        let mut numbers = Vec::new();
        for (number, wanted) in &waiting {
            if held
                .iter()
                .any(|o| !o.is(wanted.session, wanted.owner) && o.blocking(wanted.range, wanted.kind).is_some())
                || told.iter().any(|other| excludes(other, wanted))
            {
                continue;
            }
            told.push(*wanted);
            numbers.push(*number);
        }
        let tells: Vec<Tell> = {
            let mut all = self.lock();
            if !numbers.is_empty() && numbers.len() < waiting.len() {
                all.later.insert(ino);
            }
            numbers.into_iter().filter_map(|number| all.remove(number)).map(|wait| wait.tell).collect()
        };
        tells.into_iter().for_each(|tell| tell());
        Ok(())
    }

    /// Whether somebody who stands in the way of this waits, directly or not, for a lock of the same owner.
    ///
    /// # Errors
    /// A fault of the store.
    pub fn is_ring(&self, wanted: &Wanted, snap: &dyn Snapshot) -> Result<bool, Fault> {
        let start = (wanted.session, wanted.owner);
        let mut seen = BTreeSet::from([start]);
        let mut todo = vec![*wanted];
        while let Some(wanted) = todo.pop() {
            for holder in owners(snap, wanted.ino)? {
                let who = (holder.session, holder.owner);
                if who == (wanted.session, wanted.owner) || holder.blocking(wanted.range, wanted.kind).is_none() {
                    continue;
                }
                if who == start {
                    return Ok(true);
                }
                if seen.len() < RING && seen.insert(who) {
                    todo.extend(self.lock().of_owner(who.0, who.1));
                }
            }
        }
        Ok(false)
    }
}

/// Whether two owners cannot have these at the same time.
fn excludes(one: &Wanted, two: &Wanted) -> bool {
    let exclusive = one.kind == LockKind::Write || two.kind == LockKind::Write;
    let others = (one.session, one.owner) != (two.session, two.owner);
    others && exclusive && one.range.intersect(two.range).is_some()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use dfs_core::id::LogIndex;
    use dfs_core::lock::HeldLock;

    use super::*;
    use crate::kv::{Batch, Kv, MemKv, Table};
    use crate::schema::lock::LockRow;
    use crate::schema::{Record, keys};

    const S: SessionId = SessionId(1);

    struct Scene {
        kv: MemKv,
        waits: Waits,
        told: Arc<AtomicU32>,
        index: u64,
    }

    fn wanted(owner: u64, ino: u64, kind: LockKind) -> Wanted {
        let range = ByteRange { start: 0, end: 10 };
        Wanted { session: S, owner: LockOwner(owner), ino: Ino(ino), range, kind }
    }

    impl Scene {
        fn new() -> Self {
            Self { kv: MemKv::new(), waits: Waits::default(), told: Arc::default(), index: 0 }
        }

        fn hold(&mut self, owner: u64, ino: u64, kind: Option<LockKind>) {
            let key = keys::lock(Ino(ino), S, LockOwner(owner)).to_vec();
            let range = ByteRange { start: 0, end: 10 };
            let mut batch = Batch::default();
            match kind {
                Some(kind) => {
                    batch.put(Table::Lock, key, LockRow { held: vec![HeldLock { range, kind, pid: 1 }] }.to_value());
                }
                None => batch.delete(Table::Lock, key),
            }
            self.index += 1;
            self.kv.write(batch, LogIndex(self.index)).unwrap();
        }

        /// Waits; the bit of its owner is set when it is told.
        fn wait(&self, owner: u64, ino: u64, kind: LockKind) -> bool {
            let told = self.told.clone();
            let tell = Box::new(move || {
                told.fetch_or(1 << owner, Ordering::Relaxed);
            });
            assert!(self.waits.add(wanted(owner, ino, kind), (1, owner), tell));
            self.waits.is_ring(&wanted(owner, ino, kind), &self.kv).unwrap()
        }

        fn told(&self, ino: u64) -> u32 {
            self.waits.look(Ino(ino), &self.kv).unwrap();
            self.told.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn as_many_are_told_as_can_have_it_in_their_order() {
        let mut scene = Scene::new();
        scene.hold(1, 5, Some(LockKind::Write));
        assert!(!scene.wait(2, 5, LockKind::Read) && !scene.wait(3, 5, LockKind::Write));
        assert!(!scene.wait(4, 5, LockKind::Read));
        assert_eq!(scene.told(5), 0);
        scene.hold(1, 5, None);
        assert_eq!(scene.told(5), 1 << 2 | 1 << 4);
        assert_eq!(scene.waits.take_due(false), []);
        assert_eq!(scene.waits.take_due(true), [Ino(5)], "those told may not come");
        scene.hold(2, 5, Some(LockKind::Read));
        assert_eq!(scene.told(5), 1 << 2 | 1 << 4);
        scene.waits.freed(Ino(5));
        assert_eq!(scene.waits.take_due(false), [Ino(5)]);
        scene.hold(2, 5, None);
        assert_eq!(scene.told(5), 1 << 2 | 1 << 3 | 1 << 4);
        scene.waits.freed(Ino(5));
        assert_eq!(scene.waits.take_due(true), [], "nobody waits any more");
    }

    #[test]
    fn an_owner_is_not_in_its_own_way() {
        let mut scene = Scene::new();
        scene.hold(1, 5, Some(LockKind::Read));
        assert!(!scene.wait(1, 5, LockKind::Write));
        assert_eq!(scene.told(5), 1 << 1);
    }

    #[test]
    fn rings_are_found_over_any_number_of_owners() {
        let mut scene = Scene::new();
        for owner in 1..=3 {
            scene.hold(owner, owner, Some(LockKind::Write));
        }
        assert!(!scene.wait(1, 2, LockKind::Read));
        assert!(!scene.wait(2, 3, LockKind::Write));
        assert!(!scene.wait(4, 1, LockKind::Write), "it holds nothing");
        assert!(scene.wait(3, 1, LockKind::Read));
        assert!(scene.waits.cancel((1, 2)) && !scene.waits.cancel((1, 2)));
        assert!(!scene.waits.is_ring(&wanted(3, 1, LockKind::Read), &scene.kv).unwrap());
    }

    #[test]
    fn nobody_waits_on_a_stream_that_has_ended() {
        let mut scene = Scene::new();
        scene.hold(1, 5, Some(LockKind::Write));
        scene.wait(2, 5, LockKind::Read);
        scene.waits.end_stream(1);
        scene.hold(1, 5, None);
        assert_eq!(scene.told(5), 0);
    }

    #[test]
    fn a_session_has_so_many_that_wait_and_no_more() {
        let scene = Scene::new();
        for call in 0..LOCK_WAITS as u64 {
            assert!(scene.waits.add(wanted(1, 5, LockKind::Read), (1, call), Box::new(|| ())));
        }
        assert!(!scene.waits.add(wanted(2, 5, LockKind::Read), (1, u64::MAX), Box::new(|| ())));
        let other = Wanted { session: SessionId(2), ..wanted(1, 5, LockKind::Read) };
        assert!(scene.waits.add(other, (2, 1), Box::new(|| ())));
    }
}
