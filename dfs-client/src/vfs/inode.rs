//! What this client holds of one inode, and the table of all of them.
//!
//! An inode is in the table while it is open, dirty or was lately used; the table is bounded. There is one
//! [`Inode`] for a number at any time. Its state is guarded by a lock that nobody holds across an await.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_core::attr::{Attr, FileKind};
use dfs_core::chunk::ChunkRef;
use dfs_core::id::Ino;
use dfs_core::op::Put;
use dfs_core::time::Timestamp;
use rustc_hash::FxBuildHasher;
use tokio::sync::{Notify, mpsc, oneshot};

use super::types::Entry;
use crate::cache::attr::Known;
use crate::cache::extents::Room;
use crate::error::{FsError, FsResult};
use crate::file::budget::Budget;
use crate::file::buffer::{Buffer, SealNo};
use crate::lock::lock;

/// Inodes kept; over it, the older half of those that nothing needs goes.
const INODES: usize = 32_768;
const SHARDS: usize = 64;

/// Of whatever was never written to.
static CLEAN: LazyLock<Buffer> = LazyLock::new(Buffer::default);

/// One inode.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) ino: Ino,
    state: Mutex<State>,
    /// One truncation (or other change that needs a quiet file) at a time.
    pub(crate) quiet: tokio::sync::Mutex<()>,
    /// One change of locks at a time, in the order in which they were asked for.
    locking: OnceLock<Arc<tokio::sync::Mutex<()>>>,
    /// A seal left the buffer.
    pub(crate) saved: Notify,
    /// When it was last taken from the table, by the table's clock.
    touched: AtomicU64,
}

/// The running upload of a file's stream.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Gone when the stream has ended.
    pub(crate) parts: Option<mpsc::Sender<Bytes>>,
    /// What became of it.
    pub(crate) result: oneshot::Receiver<FsResult<Put>>,
}

/// The small files listed with an inode, and its own place among them.
#[derive(Clone, Debug)]
pub(crate) struct Neighbours {
    pub(crate) chunks: Arc<[ChunkRef]>,
    pub(crate) own: usize,
}

/// What is guarded by the inode's lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) known: Known,
    /// Changed through [`Inode::change_buffer`] alone. None for what was never written: of all inodes that a client
    /// knows, most.
    buffer: Option<Box<Buffer>>,
    pub(crate) feeds: HashMap<SealNo, Feed>,
    /// Handles.
    pub(crate) opens: u32,
    /// How many errors nobody could be told of directly, and the last.
    failures: u64,
    failure: Option<FsError>,
    /// Read, not yet told to metad.
    pub(crate) atime: Option<Timestamp>,
    /// Where it was last seen.
    pub(crate) parent: Option<Ino>,
    pub(crate) neighbours: Option<Neighbours>,
    /// When it was known to have no `security.capability`, which the kernel asks for before the first write.
    pub(crate) no_capability: Option<Instant>,
    /// This client has set one: it asks each time from then on.
    pub(crate) capability_set: bool,
}

impl State {
    fn new(room: Arc<Room>) -> Self {
        Self {
            known: Known::new(room),
            buffer: None,
            feeds: HashMap::new(),
            opens: 0,
            failures: 0,
            failure: None,
            atime: None,
            parent: None,
            neighbours: None,
            no_capability: None,
            capability_set: false,
        }
    }

    pub(crate) fn buffer(&self) -> &Buffer {
        self.buffer.as_deref().unwrap_or(&CLEAN)
    }

    /// Committed attributes with what this client has done since laid over them, but for `stored`, which takes a
    /// look at all that is unsaved: [`State::shown`] has it.
    pub(crate) fn visible(&self, mut attr: Attr) -> Attr {
        if let Some(end) = self.buffer().end() {
            attr.size = attr.size.max(end);
        }
        if let Some(mtime) = self.buffer().mtime() {
            attr.mtime = mtime;
        }
        if let Some(written) = self.buffer().written() {
            attr.ctime = attr.ctime.max(written);
        }
        if self.buffer().kills_priv() {
            attr.mode = without_privileges(attr.mode);
        }
        if let Some(atime) = self.buffer().later().atime {
            attr.atime = atime;
        }
        if let Some(atime) = self.atime {
            attr.atime = attr.atime.max(atime);
        }
        attr
    }

    /// The newest attributes, own changes included, however old.
    pub(crate) fn newest(&self) -> Option<Attr> {
        self.known.attr().map(|attr| self.visible(attr))
    }

    /// The newest attributes as others may see them.
    pub(crate) fn shown(&self) -> Option<Attr> {
        self.known.attr().map(|attr| Attr { stored: self.stored(&attr).0, ..self.visible(attr) })
    }

    /// An answer that still serves.
    pub(crate) fn entry(&self, now: Instant, ttl: Duration) -> Option<Entry> {
        let (attr, left) = self.known.fresh(now, ttl)?;
        let (stored, unknown) = self.stored(&attr);
        // What may be wrong is not to be kept.
        let ttl = if unknown.is_some() { Duration::ZERO } else { left };
        Some(Entry { attr: Attr { stored, ..self.visible(attr) }, ttl })
    }

    /// Remembers an error for every handle that is open now.
    pub(crate) fn fail(&mut self, error: FsError) {
        self.failures += 1;
        self.failure = Some(error);
    }

    /// How many errors there were before one that nobody was told of, for a handle that is to report it.
    pub(crate) fn failures_before(&mut self, why: FsError) -> u64 {
        if self.failures == 0 {
            // Whatever was known of the inode has been forgotten since.
            self.fail(why);
        }
        self.failures - 1
    }

    /// How many errors there were; a handle that has seen fewer has one to report.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// The last error.
    pub(crate) fn failure(&self) -> FsError {
        self.failure.clone().unwrap_or_else(|| FsError::io("data could not be saved"))
    }
}

/// A mode after a write or chown by somebody without privileges.
pub(crate) fn without_privileges(mode: u32) -> u32 {
    let setgid = if mode & 0o010 != 0 { 0o2000 } else { 0 };
    mode & !(0o4000 | setgid)
}

/// Whether a file is setgid although its group may not execute it: it stays so for writers who are in the group.
pub(crate) fn is_bare_setgid(attr: &Attr) -> bool {
    attr.kind != FileKind::Directory && attr.mode & 0o2010 == 0o2000
}

impl Inode {
    pub(crate) fn new(ino: Ino, room: Arc<Room>) -> Self {
        Self {
            ino,
            state: Mutex::new(State::new(room)),
            quiet: tokio::sync::Mutex::new(()),
            locking: OnceLock::new(),
            saved: Notify::new(),
            touched: AtomicU64::new(0),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// See the field; most inodes are never locked.
    pub(crate) fn locking(&self) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.locking.get_or_init(Arc::default))
    }

    /// Changes the buffer and accounts for what that costs.
    pub(crate) fn change_buffer<T>(state: &mut State, budget: &Budget, change: impl FnOnce(&mut Buffer) -> T) -> T {
        let buffer = state.buffer.get_or_insert_default();
        let before = buffer.weight();
        let out = change(buffer);
        budget.change(before, buffer.weight());
        out
    }

    /// Waits until the seal `no` and all before it are saved or given up.
    pub(crate) async fn wait_saved(&self, no: SealNo) {
        self.wait(|state| state.buffer().first_seal().is_none_or(|first| first > no)).await;
    }

    /// Waits until it is the turn of seal `no` to be committed, or it is gone.
    pub(crate) async fn wait_turn(&self, no: SealNo) {
        self.wait(|state| state.buffer().first_seal().is_none_or(|first| first >= no)).await;
    }

    async fn wait(&self, done: impl Fn(&State) -> bool) {
        loop {
            let saved = self.saved.notified();
            tokio::pin!(saved);
            saved.as_mut().enable();
            if done(&self.state()) {
                return;
            }
            saved.await;
        }
    }

    /// Whether anything would be lost or wrong without it.
    fn is_needed(&self) -> bool {
        let state = self.state();
        state.opens > 0 || !state.buffer().is_clean() || state.atime.is_some()
    }
}

/// By number. metad chooses the numbers, so nobody chooses them to collide.
type Shard = HashMap<Ino, Arc<Inode>, FxBuildHasher>;

/// All inodes.
#[derive(Debug)]
pub(crate) struct Table {
    shards: Vec<Mutex<Shard>>,
    clock: AtomicU64,
    room: Arc<Room>,
}

impl Table {
    pub(crate) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, clock: AtomicU64::new(0), room: Arc::default() }
    }

    fn shard(&self, ino: Ino) -> &Mutex<Shard> {
        // Not the bits by which the shard's own table chooses.
        &self.shards[((FxBuildHasher.hash_one(ino) >> 32) % SHARDS as u64) as usize]
    }

    fn touch(&self, inode: &Inode) {
        inode.touched.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The inode, if something is held of it.
    pub(crate) fn find(&self, ino: Ino) -> Option<Arc<Inode>> {
        let inode = lock(self.shard(ino)).get(&ino).cloned()?;
        self.touch(&inode);
        Some(inode)
    }

    /// The inode.
    pub(crate) fn get(&self, ino: Ino) -> Arc<Inode> {
        let mut shard = lock(self.shard(ino));
        if let Some(inode) = shard.get(&ino) {
            self.touch(inode);
            return inode.clone();
        }
        if shard.len() >= INODES / SHARDS {
            Self::shrink(&mut shard);
        }
        let inode = Arc::new(Inode::new(ino, self.room.clone()));
        self.touch(&inode);
        shard.insert(ino, inode.clone());
        inode
    }

    /// Drops the older half of what nobody uses or needs.
    fn shrink(shard: &mut Shard) {
        let idle = |inode: &Arc<Inode>| Arc::strong_count(inode) == 1 && !inode.is_needed();
        let mut ages: Vec<u64> =
            shard.values().filter(|i| idle(i)).map(|i| i.touched.load(Ordering::Relaxed)).collect();
        if ages.is_empty() {
            return;
        }
        let middle = ages.len() / 2;
        let (_, oldest_kept, _) = ages.select_nth_unstable(middle);
        let oldest_kept = *oldest_kept;
        shard.retain(|_, inode| inode.touched.load(Ordering::Relaxed) > oldest_kept || !idle(inode));
    }

    /// Drops an inode that nobody uses or needs.
    pub(crate) fn forget(&self, ino: Ino) {
        let mut shard = lock(self.shard(ino));
        if shard.get(&ino).is_some_and(|inode| Arc::strong_count(inode) == 1 && !inode.is_needed()) {
            shard.remove(&ino);
        }
    }

    /// Forgets extents if too many are known: first of files whose extents nobody looked at since this was last needed,
    /// of these and of the others the longest.
    pub(crate) fn bound_extents(&self) {
        if !self.room.is_over() {
            return;
        }
        let mut files: Vec<_> = self
            .all()
            .into_iter()
            .filter_map(|inode| {
                let (used, count) = inode.state().known.extents_worth()?;
                Some((used, Reverse(count), inode))
            })
            .collect();
        files.sort_by_key(|(used, count, _)| (*used, *count));
        for (_, Reverse(count), inode) in files {
            if self.room.surplus() == 0 {
                break;
            }
            tracing::debug!(ino = %inode.ino, count, "forgets extents");
            inode.state().known.forget_extents();
        }
    }

    /// All of them at this moment.
    pub(crate) fn all(&self) -> Vec<Arc<Inode>> {
        self.shards.iter().flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::chunk::ChunkId;
    use dfs_core::extent::Extent;
    use dfs_core::id::SlotId;
    use dfs_core::range::ByteRange;

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_needed() {
        let table = Table::new();
        let open = table.get(Ino(1));
        open.state().opens = 1;
        drop(open);
        for n in 2..200_000 {
            table.get(Ino(n));
        }
        assert!(table.all().len() <= INODES);
        assert_eq!(table.find(Ino(1)).map(|i| i.state().opens), Some(1));
        table.forget(Ino(1));
        assert!(table.find(Ino(1)).is_some());
        assert!(table.find(Ino(199_999)).is_some(), "the newest stay");
        table.forget(Ino(199_999));
        assert!(table.find(Ino(199_999)).is_none());
    }

    #[test]
    fn too_many_extents_are_forgotten_where_nobody_looks_and_a_few_never() {
        let table = Table::new();
        let chunk = ChunkRef { id: ChunkId([1; 32]), len: 4096, slot: SlotId(1) };
        let learn = |ino, count: u64| {
            let range = |n| ByteRange { start: n * 4096, end: n * 4096 + 4096 };
            let extents: Vec<Extent> = (0..count).map(|n| Extent { range: range(n), chunk, offset: 0 }).collect();
            table.get(Ino(ino)).state().known.learn_extents(1, 0, &extents, true);
        };
        let knows = |ino| table.get(Ino(ino)).state().known.extents_worth().is_some();
        let look = |ino| assert!(table.get(Ino(ino)).state().known.extents_from(1, 0).is_some());
        for (ino, count) in [(2, 90_000), (3, 120_000), (4, 140_000), (5, 120_000), (6, 5)] {
            learn(ino, count);
        }
        table.bound_extents();
        assert!((2..6).all(knows), "there is room");
        [3, 5].into_iter().for_each(look);
        learn(7, 60_000);
        look(7);
        table.bound_extents();
        assert_eq!([2, 3, 4, 5, 7].map(knows), [true, true, false, true, true], "the most that nobody looked at");
        learn(4, 140_000);
        look(4);
        table.bound_extents();
        assert_eq!([2, 3, 4, 5, 7].map(knows), [true, false, true, false, true], "not looked at since");
        look(6);
    }

    #[test]
    fn setgid_without_group_execution_is_no_privilege() {
        assert_eq!(without_privileges(0o6755), 0o755);
        assert_eq!(without_privileges(0o6745), 0o2745);
    }
}
