//! The whole filesystem without a kernel: what `dfs-fuse` and programs call.
//!
//! A namespace change is answered when it is durable. A write is answered when it is in the buffer; it is saved
//! in the background, by fsync, or together with a rename, link or truncation of its file. Every call has a deadline.
//! The `try_` calls answer from memory without waiting and say `None` where that is not possible.

mod acl;
mod attr;
mod background;
mod careful;
mod clean;
mod copy;
mod dir;
mod handle;
mod inode;
mod invalidate;
mod listing;
mod lock;
mod namespace;
mod nearby;
mod pace;
mod space;
#[cfg(test)]
mod tests;
mod types;
mod unheard;
mod write;
mod xattr;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use dfs_core::attr::Attr;
use dfs_core::id::Ino;
use dfs_core::op::{Group, Op, OpReply};
use dfs_core::time::Timestamp;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, Semaphore};

pub use self::acl::acl_kind;
pub(crate) use self::handle::FileHandle;
pub(crate) use self::inode::{Feed, Inode, Neighbours, State};
pub use self::lock::{Leaving, LockRequest, Unlocked};
pub use self::space::Seek;
pub use self::types::{Caller, DirItem, Entry, Invalidator, Opened};

use self::background::Closed;
use self::careful::Careful;
use self::clean::Cuts;
use self::copy::Copied;
use self::dir::DirHandles;
use self::handle::FileHandles;
use self::inode::Table;
use self::invalidate::Invalidations;
use self::lock::Locks;
use self::nearby::Nearby;
use self::pace::Pace;
use self::unheard::Unheard;
use crate::cache::attr::Pages;
use crate::cache::chunk::Chunks;
use crate::cache::dentry::Dentries;
use crate::cache::disk::Disk;
use crate::cache::told::Told;
use crate::chunks::ChunkClient;
use crate::config::ClientConfig;
use crate::error::{FsError, FsResult};
use crate::file::budget::Budget;
use crate::file::upload::Progress;
use crate::lock::lock;
use crate::meta::MetaClient;

/// Big chunks being uploaded from sealed bytes at the same time (streams not counted).
const UPLOADS: usize = 4;
/// How long somebody waits at most for the kernel to drop old pages.
const SETTLE: Duration = Duration::from_secs(1);
/// Pieces being read ahead at the same time.
const AHEAD: usize = 16;

/// A mounted filesystem.
#[derive(Debug)]
pub struct Vfs {
    me: Weak<Vfs>,
    pub(crate) config: ClientConfig,
    pub(crate) meta: MetaClient,
    pub(crate) chunks: ChunkClient,
    pub(crate) runtime: Runtime,
    pub(crate) inodes: Table,
    dentries: Dentries,
    told: Told,
    nearby: Nearby,
    pub(crate) pieces: Chunks,
    handles: FileHandles,
    dirs: DirHandles,
    pub(crate) budget: Budget,
    /// Inodes with unsaved bytes (and some that just got clean).
    dirty: Mutex<HashMap<Ino, Arc<Inode>>>,
    /// Small files that were closed dirty and wait for company.
    closed: Mutex<Closed>,
    /// Seals of many files are taken by one at a time: see `background`.
    taking: Mutex<()>,
    /// Something should be sealed before the next look at the clock.
    wake: Notify,
    /// Seals that were given up since the mount.
    pub(crate) lost_seals: AtomicU64,
    /// How uploads get on.
    pub(crate) progress: Progress,
    /// How uploads can be spared: see `copy`.
    pub(crate) copied: Copied,
    atimes: Mutex<HashMap<Ino, Timestamp>>,
    invalidations: Invalidations,
    /// What was lost of files that nobody had open.
    pub(crate) unheard: Unheard,
    locks: Locks,
    careful: Careful,
    /// Cuts that metad wants cleaned.
    cuts: Mutex<Cuts>,
    pace: Pace,
    pub(crate) uploads: Semaphore,
    pub(crate) ahead: Arc<Semaphore>,
}

impl Vfs {
    /// Opens a session and mounts the filesystem. To be called inside a multi-threaded tokio runtime, which it
    /// goes on to use.
    ///
    /// # Errors
    /// A configuration out of bounds, a directory for the disk cache that cannot be used, or metad not reachable, of
    /// another version or another cluster.
    pub async fn connect(config: ClientConfig) -> FsResult<Arc<Vfs>> {
        config.validate()?;
        let disk = open_disk(&config).await?;
        let pieces = Chunks::new(config.cache_bytes, disk);
        let meta = MetaClient::connect(&config).await?;
        let chunks = ChunkClient::new(meta.clone(), &config);
        let vfs = Arc::new_cyclic(|me| Vfs {
            me: me.clone(),
            chunks,
            runtime: Runtime::current(),
            inodes: Table::new(),
            dentries: Dentries::new(config.ttl),
            told: Told::default(),
            nearby: Nearby::default(),
            pieces,
            handles: FileHandles::default(),
            dirs: DirHandles::default(),
            budget: Budget::new(config.dirty_bytes),
            dirty: Mutex::default(),
            closed: Mutex::default(),
            taking: Mutex::default(),
            wake: Notify::new(),
            lost_seals: AtomicU64::new(0),
            progress: Progress::new(),
            copied: Copied::default(),
            atimes: Mutex::default(),
            invalidations: Invalidations::default(),
            unheard: Unheard::default(),
            locks: Locks::default(),
            careful: Careful::default(),
            cuts: Mutex::default(),
            pace: Pace::new(),
            uploads: Semaphore::new(UPLOADS),
            ahead: Arc::new(Semaphore::new(AHEAD)),
            meta: meta.clone(),
            config,
        });
        let held = vfs.me.clone();
        meta.on_held_question(Box::new(move |inos| held.upgrade().map_or_else(|| inos.to_vec(), |v| v.not_held(inos))));
        let cleaner = vfs.me.clone();
        meta.on_clean(Box::new(move |cuts| {
            if let Some(vfs) = cleaner.upgrade() {
                vfs.have_cleaned(cuts);
            }
        }));
        let lost = vfs.me.clone();
        meta.on_session_lost(Box::new(move |old, new| {
            tracing::error!(%old, %new, "the session has ended; what it had not saved is lost");
            if let Some(vfs) = lost.upgrade() {
                vfs.session_lost();
            }
        }));
        background::start(&vfs);
        vfs.pieces.loaded().await;
        Ok(vfs)
    }

    /// Sets, once, who is told what to forget.
    pub fn set_invalidator(&self, invalidator: Box<dyn Invalidator>) {
        self.invalidations.start(invalidator, self.me.clone());
    }

    /// Saves everything and ends the session.
    ///
    /// # Errors
    /// What could not be saved. The session has ended all the same.
    pub async fn shutdown(&self) -> FsResult<()> {
        let saved = self.sync_all().await;
        self.meta.close().await;
        self.pieces.settle().await;
        saved
    }

    /// This filesystem for a task. `None` while the last reference goes away.
    pub(crate) fn shared(&self) -> Option<Arc<Vfs>> {
        self.me.upgrade()
    }

    /// One group of ops, which concern `about` too, durable when this returns. Caches have what the replies say.
    async fn change(&self, ops: Vec<Op>, about: &[Ino]) -> FsResult<Vec<OpReply>> {
        let group = Group { time: now(), needs: Vec::new(), ops };
        let sent = std::time::Instant::now();
        self.pace.called();
        let mut reply = self.meta.commit_about(Vec::new(), vec![group], about).await?;
        let replies = match reply.groups.pop() {
            Some(done) => done?,
            None => return Err(FsError::io("metad answered a commit without saying what became of its group")),
        };
        for attr in replies.iter().flat_map(|r| &r.attrs) {
            self.learn_own(attr, sent);
        }
        Ok(replies)
    }

    /// One op of [`Vfs::change`].
    async fn change_one(&self, op: Op) -> FsResult<OpReply> {
        self.change_one_about(op, &[]).await
    }

    /// One op that concerns inodes which it does not name.
    async fn change_one_about(&self, op: Op, about: &[Ino]) -> FsResult<OpReply> {
        self.change_if(None, op, about).await
    }

    /// The same, if what is expected (an op that changes nothing) holds.
    async fn change_if(&self, expected: Option<Op>, op: Op, about: &[Ino]) -> FsResult<OpReply> {
        let mut replies = self.change(expected.into_iter().chain([op]).collect(), about).await?;
        replies.pop().ok_or_else(|| FsError::io("metad answered a group without saying what became of its op"))
    }

    /// Bytes of programs are on their way to the stores.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.pace.wrote(bytes);
    }

    /// Attributes out of the answer to an own change.
    pub(crate) fn learn_own(&self, attr: &Attr, sent: std::time::Instant) {
        self.learn(&self.inodes.get(attr.ino), *attr, sent);
    }

    /// Attributes out of any answer to what was asked at `asked`.
    pub(crate) fn learn(&self, inode: &Inode, attr: Attr, asked: std::time::Instant) {
        let pages = inode.state().known.learn(attr, asked);
        self.judged(inode.ino, pages);
    }

    /// Passes a verdict about the kernel's pages on.
    pub(crate) fn judged(&self, ino: Ino, pages: Pages) {
        if pages == Pages::Stale {
            self.tell_kernel(ino, true);
        }
    }

    /// The kernel is to forget what it knows of an inode; with `data`, its pages too.
    pub(crate) fn tell_kernel(&self, ino: Ino, data: bool) {
        if !self.invalidations.inode(ino, data)
            && let Some(inode) = self.inodes.find(ino)
        {
            // There is no kernel that has any.
            inode.state().known.all_settled();
        }
    }

    /// Waits until the kernel has dropped the pages of files that are known to be old, before it hears of the attributes
    /// that came with that: with a longer size it would take what follows the end in its last page for bytes of the file.
    /// A moment at most, since the kernel may be waiting for somebody else. Not for calls during which it holds pages.
    pub(crate) async fn settle_all(&self, inos: &[Ino]) {
        let all = async {
            for ino in inos {
                let old = self.inodes.find(*ino).is_some_and(|inode| !inode.state().known.is_settled());
                if old {
                    self.invalidations.inode_now(*ino, true).await;
                }
            }
        };
        if tokio::time::timeout(SETTLE, all).await.is_err() {
            tracing::warn!(?inos, "the kernel does not give up old pages");
        }
    }

    /// [`Vfs::getattr`] for the kernel, which has dropped old pages of the file when it hears of the attributes.
    ///
    /// # Errors
    /// The same.
    pub async fn getattr_settled(&self, ino: Ino) -> FsResult<Entry> {
        let entry = self.getattr(ino).await?;
        self.settle_all(&[ino]).await;
        Ok(entry)
    }

    /// Of unlinked inodes those that nobody here has open; what is cached of them goes.
    fn not_held(&self, inos: &[Ino]) -> Vec<Ino> {
        let mut free = Vec::new();
        for ino in inos {
            let held = self.inodes.find(*ino).is_some_and(|inode| {
                let mut state = inode.state();
                let held = state.opens > 0 || !state.buffer().is_clean();
                if !held {
                    state.known.distrust();
                }
                held
            });
            if !held {
                self.inodes.forget(*ino);
                free.push(*ino);
            }
        }
        free
    }

    /// Nothing that was believed in the old session may be believed, nothing that it had not saved can be saved.
    fn session_lost(&self) {
        self.dentries.clear();
        lock(&self.atimes).clear();
        self.locks_lost();
        for inode in self.inodes.all() {
            let mut state = inode.state();
            let pages = state.known.doubt_pages();
            state.known.distrust();
            state.atime = None;
            state.feeds.clear();
            if Inode::change_buffer(&mut state, &self.budget, |buffer| buffer.discard()) {
                let lost = FsError::io("the session ended before the data was saved");
                tracing::error!(ino = %inode.ino, "unsaved data is lost");
                if !self.has_writer(&inode) {
                    self.unheard.add(inode.ino, lost.clone());
                }
                state.fail(lost);
                metrics::counter!("dfs_client_lost_seals_total").increment(1);
                self.lost_seals.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            drop(state);
            inode.saved.notify_waiters();
            self.tell_kernel(inode.ino, pages);
        }
    }
}

/// The cache on disk, if there is to be one.
async fn open_disk(config: &ClientConfig) -> FsResult<Option<Disk>> {
    let Some(disk) = config.disk_cache.clone() else { return Ok(None) };
    match tokio::task::spawn_blocking(move || Disk::open(&disk)).await {
        Ok(disk) => disk.map(Some),
        Err(e) => Err(FsError::Io(format!("the cache on disk was not opened: {e}"))),
    }
}

/// The time of day.
pub(crate) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}
