//! The logs: appending, and the one sync that many callers share.
//!
//! Only the last log is written to, under the appender's lock, and the index is changed under the
//! same hold: whoever knows the end of the log knows that the index shows all that is before it.
//! While one caller syncs, others append; the next sync is for all of them. A log that is left has
//! been synced. Records win over all earlier ones of the same chunk, by log and then by offset.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use dfs_core::chunk::ChunkId;
use dfs_core::id::SlotId;
use dfs_disk::{Access, Disk, DiskFile, Io};

use super::api::{PutError, StoreError};
use super::index::{Index, LogSeq, Place, Position};
use super::lock;
use super::record::{HEADER, Head, LogId, Records, record_len};
use super::state::StateFile;
use super::stats::StoreStats;

/// Open files of logs that are not written to any more.
const OPEN_FILES: usize = 256;
/// The smallest log worth making on a disk that is almost full.
const SMALLEST: u32 = 64 << 10;
/// How long a log is left alone of which the disk refuses something.
const REFUSED_FOR: Duration = Duration::from_secs(3600);

/// What is known of one log.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) id: LogId,
    pub(super) path: PathBuf,
    /// End of the last record.
    pub(super) end: AtomicU32,
    /// Bytes of records that the index names.
    pub(super) live: AtomicU64,
    /// Bytes of tombstones.
    pub(super) tombstones: AtomicU64,
}

impl LogFile {
    pub(super) fn new(id: LogId, path: PathBuf, end: u32, tombstones: u64) -> Self {
        Self { id, path, end: AtomicU32::new(end), live: AtomicU64::new(0), tombstones: AtomicU64::new(tombstones) }
    }
}

/// Why something is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It must leave the reserve alone.
    Put,
    /// Deleting and compacting: it may use the reserve.
    Upkeep,
}

#[derive(Debug)]
struct Current {
    log: Arc<LogFile>,
    file: Arc<dyn DiskFile>,
    room: u32,
}

#[derive(Debug)]
struct Appender {
    current: Option<Current>,
    /// Number of the next log.
    next: LogSeq,
}

#[derive(Debug)]
struct Syncing {
    durable: Position,
    running: bool,
}

/// All logs of a store.
#[derive(Debug)]
pub(super) struct Logs {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    log_bytes: u32,
    reserve: u64,
    appender: Mutex<Appender>,
    syncing: Mutex<Syncing>,
    synced: Condvar,
    /// Held while a log is synced: see [`Logs::sync`].
    one_sync: Mutex<()>,
    /// Logs that could not be compacted because the disk does not give some of their chunks, and since when.
    refused: Mutex<BTreeMap<LogSeq, Instant>>,
    files: RwLock<BTreeMap<LogSeq, Arc<LogFile>>>,
    open: Mutex<BTreeMap<LogSeq, Arc<dyn DiskFile>>>,
    /// End of what the checkpoint covers.
    pub(super) checkpoint: Mutex<Position>,
}

/// How far an append came.
#[derive(Debug)]
pub(super) struct Appended {
    /// End of what was appended: wait for this to be durable.
    pub(super) end: Position,
    /// Records that are in the log, from the first on.
    pub(super) done: usize,
    /// Why the others are not.
    pub(super) error: Option<PutError>,
}

impl Logs {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, log_bytes: u32, reserve: u64) -> Self {
        Self {
            disk,
            dir,
            log_bytes: log_bytes.max(HEADER as u32),
            reserve,
            appender: Mutex::new(Appender { current: None, next: LogSeq(1) }),
            syncing: Mutex::new(Syncing { durable: Position::default(), running: false }),
            synced: Condvar::new(),
            one_sync: Mutex::new(()),
            refused: Mutex::default(),
            files: RwLock::default(),
            open: Mutex::default(),
            checkpoint: Mutex::default(),
        }
    }

    /// Adds a log that recovery found.
    pub(super) fn adopt(&self, log: LogFile) -> Arc<LogFile> {
        let log = Arc::new(log);
        self.write_files().insert(log.id.seq, Arc::clone(&log));
        log
    }

    /// Forgets a log whose file recovery removed.
    pub(super) fn forget(&self, seq: LogSeq) {
        self.write_files().remove(&seq);
    }

    /// Ends recovery: all that there is is durable, and the next log comes after `last`.
    pub(super) fn start_after(&self, last: LogSeq) {
        let next = LogSeq(last.0 + 1);
        lock(&self.appender).next = next;
        lock(&self.syncing).durable = Position { seq: next, offset: 0 };
    }

    fn write_files(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<LogSeq, Arc<LogFile>>> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The logs in order.
    pub(super) fn all(&self) -> Vec<Arc<LogFile>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn get(&self, seq: LogSeq) -> Option<Arc<LogFile>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(&seq).cloned()
    }

    pub(super) fn log_bytes(&self) -> u32 {
        self.log_bytes
    }

    /// The log that is written to.
    pub(super) fn current(&self) -> Option<LogSeq> {
        lock(&self.appender).current.as_ref().map(|c| c.log.id.seq)
    }

    /// The end of all records; the index shows what is before it.
    pub(super) fn written(&self) -> Position {
        lock(&self.appender).written()
    }

    /// Notes in the index where a chunk is.
    pub(super) fn place(&self, index: &Index, slot: SlotId, id: ChunkId, place: Place) {
        if let Some(old) = index.insert(slot, id, place) {
            self.account(old, false);
        }
        self.account(place, true);
    }

    /// Removes a chunk from the index.
    pub(super) fn unplace(&self, index: &Index, slot: SlotId, id: ChunkId) -> Option<Place> {
        let old = index.remove(slot, id)?;
        self.account(old, false);
        Some(old)
    }

    fn account(&self, place: Place, live: bool) {
        let Some(log) = place.record().and_then(|at| self.get(at.seq)) else { return };
        let bytes = u64::from(record_len(place.len));
        if live {
            log.live.fetch_add(bytes, Ordering::Relaxed);
        } else {
            log.live.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Appends records. `apply` is called for each that is in the log, under the appender's lock, and
    /// changes the index. They are durable after [`Logs::wait_durable`] of the end.
    pub(super) fn append(
        &self,
        state: &StateFile,
        stats: &StoreStats,
        records: &mut Records,
        purpose: Purpose,
        mut apply: impl FnMut(Head, Position),
    ) -> Appended {
        let mut appender = lock(&self.appender);
        let mut done = 0;
        let error = loop {
            if let Err(e) = state.check() {
                break Some(e.into());
            }
            if done == records.len() {
                break None;
            }
            let room = appender.current.as_ref().map_or(0, |c| c.room - c.log.end.load(Ordering::Relaxed));
            let count = records.fitting(done, room);
            let Some(current) = appender.current.as_ref().filter(|_| count > 0) else {
                let need = records.head(done).record_len();
                match self.rotate(&mut appender, state, stats, need, purpose) {
                    Ok(()) => continue,
                    Err(e) => break Some(e),
                }
            };
            let log = &current.log;
            let at = log.end.load(Ordering::Relaxed);
            let bytes = records.encode(done, count, log.id, at);
            let len = bytes.len() as u32;
            if let Err(e) = current.file.write_at(bytes, u64::from(at)) {
                // Some of it may be in the file, and a later sync would make it count.
                break Some(state.fail("appending to a log", &e).into());
            }
            log.end.store(at + len, Ordering::Relaxed);
            let mut offset = at;
            for i in done..done + count {
                let head = records.head(i);
                if head.len.is_none() {
                    log.tombstones.fetch_add(HEADER as u64, Ordering::Relaxed);
                }
                apply(head, Position { seq: log.id.seq, offset });
                offset += head.record_len();
            }
            done += count;
        };
        Appended { end: appender.written(), done, error }
    }

    /// Leaves the current log, synced, and makes the next with room for `need` bytes.
    fn rotate(
        &self,
        appender: &mut Appender,
        state: &StateFile,
        stats: &StoreStats,
        need: u32,
        purpose: Purpose,
    ) -> Result<(), PutError> {
        // What is made here must be found again.
        if appender.next >= LogSeq::END {
            return Err(PutError::from_io("making a log", io::Error::other("the numbers of logs are used up")));
        }
        let mut size = self.log_bytes.max(need);
        if purpose == Purpose::Put {
            let space = self.disk.space(&self.dir).map_err(|e| PutError::from_io("asking for space", e))?;
            if space.free < self.reserve.saturating_add(u64::from(size)) {
                return Err(PutError::Full);
            }
        }
        if let Some(current) = &appender.current {
            self.sync(state, stats, current.file.as_ref())?;
            self.advance(appender.written());
            // Not before: who waits for what is in it takes no log for nothing to sync.
            appender.current = None;
        }
        loop {
            let id = LogId { seq: appender.next, nonce: rand::random() };
            let path = self.dir.join(file_name(id));
            match self.make(&path, size) {
                Ok(file) => {
                    if let Err(e) = file.sync().and_then(|()| self.disk.sync_dir(&self.dir)) {
                        return Err(state.fail("making a log", &e).into());
                    }
                    let log = self.adopt(LogFile::new(id, path, 0, 0));
                    appender.next.0 += 1;
                    appender.current = Some(Current { log, file, room: size });
                    return Ok(());
                }
                Err(e) => {
                    remove_if_there(self.disk.as_ref(), &path).map_err(|e| PutError::from_io("removing a log", e))?;
                    let smaller = (size / 4).max(SMALLEST).max(need);
                    if e.kind() != io::ErrorKind::StorageFull || purpose == Purpose::Put || smaller >= size {
                        return Err(PutError::from_io("making a log", e));
                    }
                    size = smaller;
                }
            }
        }
    }

    fn make(&self, path: &std::path::Path, size: u32) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.create(path, Io::Buffered)?;
        file.allocate(u64::from(size))?;
        Ok(file)
    }

    fn advance(&self, to: Position) {
        let mut syncing = lock(&self.syncing);
        syncing.durable = syncing.durable.max(to);
        self.synced.notify_all();
    }

    /// Returns when all before `end` is durable, by a sync of its own or another's.
    pub(super) fn wait_durable(&self, state: &StateFile, stats: &StoreStats, end: Position) -> Result<(), StoreError> {
        let mut syncing = lock(&self.syncing);
        loop {
            if syncing.durable >= end {
                return Ok(());
            }
            state.check()?;
            if syncing.running {
                syncing = self.synced.wait(syncing).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            syncing.running = true;
            drop(syncing);
            let result = self.sync_current(state, stats);
            syncing = lock(&self.syncing);
            syncing.running = false;
            let outcome = result.map(|to| syncing.durable = syncing.durable.max(to));
            self.synced.notify_all();
            outcome?;
        }
    }

    /// Syncs the current log; up to where.
    fn sync_current(&self, state: &StateFile, stats: &StoreStats) -> Result<Position, StoreError> {
        let (file, to) = {
            let appender = lock(&self.appender);
            (appender.current.as_ref().map(|c| Arc::clone(&c.file)), appender.written())
        };
        if let Some(file) = file {
            self.sync(state, stats, file.as_ref())?;
        }
        Ok(to)
    }

    /// Syncs a log, one caller at a time: Linux tells of a page that it could not write once for each open file, so who
    /// syncs beside the one that is told, or after it, would take the page for written. The next finds the store failed.
    fn sync(&self, state: &StateFile, stats: &StoreStats, file: &dyn DiskFile) -> Result<(), StoreError> {
        let _one = lock(&self.one_sync);
        state.check()?;
        stats.syncs.fetch_add(1, Ordering::Relaxed);
        file.sync().map_err(|e| state.fail("syncing a log", &e))
    }

    /// The disk does not give some chunks of a log: others come first for a while.
    pub(super) fn refuse(&self, seq: LogSeq) {
        lock(&self.refused).insert(seq, Instant::now());
    }

    /// Whether that was a short time ago.
    pub(super) fn is_refused(&self, seq: LogSeq) -> bool {
        let mut refused = lock(&self.refused);
        refused.retain(|_, since| since.elapsed() < REFUSED_FOR);
        refused.contains_key(&seq)
    }

    /// The file of a log, to read from; `None` when there is no such log (any more).
    pub(super) fn reader(&self, seq: LogSeq) -> io::Result<Option<Arc<dyn DiskFile>>> {
        if let Some(file) = lock(&self.open).get(&seq) {
            return Ok(Some(Arc::clone(file)));
        }
        let Some(log) = self.get(seq) else { return Ok(None) };
        let file = match self.disk.open(&log.path, Access::Read, Io::Buffered) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut open = lock(&self.open);
        if open.len() >= OPEN_FILES {
            open.pop_first();
        }
        // A log that was removed meanwhile must not stay open.
        if self.get(seq).is_some() {
            open.insert(seq, Arc::clone(&file));
        }
        Ok(Some(file))
    }

    /// Removes a log that nothing needs, durably.
    pub(super) fn remove(&self, state: &StateFile, seq: LogSeq) -> Result<(), StoreError> {
        let Some(log) = self.write_files().remove(&seq) else { return Ok(()) };
        lock(&self.open).remove(&seq);
        remove_if_there(self.disk.as_ref(), &log.path)
            .and_then(|()| self.disk.sync_dir(&self.dir))
            .map_err(|e| state.fail("removing a log", &e))
    }
}

impl Appender {
    fn written(&self) -> Position {
        match &self.current {
            Some(c) => Position { seq: c.log.id.seq, offset: c.log.end.load(Ordering::Relaxed) },
            None => Position { seq: self.next, offset: 0 },
        }
    }
}

/// Removes a file; no error when it is gone already.
pub(super) fn remove_if_there(disk: &dyn Disk, path: &std::path::Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Name of a log's file.
pub(super) fn file_name(id: LogId) -> String {
    format!("{:08x}-{:016x}.log", id.seq.0, id.nonce)
}

/// The log that a file name stands for.
pub(super) fn parse_name(name: &str) -> Option<LogId> {
    let (seq, nonce) = name.strip_suffix(".log")?.split_once('-')?;
    let id = LogId { seq: LogSeq(u32::from_str_radix(seq, 16).ok()?), nonce: u64::from_str_radix(nonce, 16).ok()? };
    (file_name(id) == name && id.seq < LogSeq::END).then_some(id)
}
