//! The little that changes: two copies in one file, written in turn.
//!
//! A change overwrites the older copy and syncs; a crash tears at most that one, and the other is
//! still the last state that anybody was told of. One sync for a change, and no space: it works on
//! a full disk. It also owns the latch that stops the store after a failed write or sync.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use dfs_core::id::{ClusterId, LogIndex, LossNo, OrderNo, StartCounter, StartId};
use dfs_disk::{Access, Disk, DiskFile, Io};

use super::api::{Remembered, StoreError};
use super::layout::{crc, create_anew};
use super::lock;

const MAGIC: [u8; 4] = *b"dfst";
/// Where the second copy is: on another page of any disk.
const STRIDE: u64 = 4096;
/// Length of a copy, less than a sector.
const COPY_BYTES: usize = 128;

/// Nothing is ever counted beyond this, and it can be counted further without an overflow.
const COUNT_MAX: u64 = u64::MAX / 2;

/// What a start has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All that could be looked at without reading it is there.
    All,
    /// Chunks are lost.
    Losses,
}

/// What a store must not forget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Raised by each change; the higher of the two copies counts.
    version: u64,
    pub(super) starts: StartCounter,
    pub(super) orders: OrderNo,
    pub(super) cluster: Option<ClusterId>,
    pub(super) remembered: Option<Remembered>,
    pub(super) untrusted: bool,
    pub(super) losses: LossNo,
}

impl State {
    fn encode(&self) -> [u8; COPY_BYTES] {
        let mut b = [0; COPY_BYTES];
        b[..4].copy_from_slice(&MAGIC);
        b[8..16].copy_from_slice(&self.version.to_be_bytes());
        b[16..24].copy_from_slice(&self.starts.0.to_be_bytes());
        b[24..36].copy_from_slice(&self.orders.to_bytes());
        b[36] = u8::from(self.cluster.is_some());
        b[37] = u8::from(self.remembered.is_some());
        b[38] = u8::from(self.untrusted);
        b[40..56].copy_from_slice(&self.cluster.unwrap_or_default().to_bytes());
        if let Some(seen) = self.remembered {
            b[56..72].copy_from_slice(&seen.start.to_bytes());
            b[72..80].copy_from_slice(&seen.index.0.to_be_bytes());
        }
        b[80..88].copy_from_slice(&self.losses.0.to_be_bytes());
        let sum = crc(&b[..COPY_BYTES - 4]);
        b[COPY_BYTES - 4..].copy_from_slice(&sum.to_be_bytes());
        b
    }

    fn decode(b: &[u8; COPY_BYTES]) -> Option<Self> {
        if b[..4] != MAGIC || b[COPY_BYTES - 4..] != crc(&b[..COPY_BYTES - 4]).to_be_bytes() {
            return None;
        }
        let long = |at: usize| b[at..at + 8].try_into().ok().map(u64::from_be_bytes);
        let seen = Remembered { start: StartId::from_slice(&b[56..72])?, index: LogIndex(long(72)?) };
        let state = Self {
            version: long(8)?,
            starts: StartCounter(long(16)?),
            orders: OrderNo::from_slice(&b[24..36])?,
            cluster: if b[36] == 1 { Some(ClusterId::from_slice(&b[40..56])?) } else { None },
            remembered: (b[37] == 1).then_some(seen),
            untrusted: b[38] == 1,
            losses: LossNo(long(80)?),
        };
        state.is_countable().then_some(state)
    }

    /// Whether its numbers are such as changes and starts, each of which counts one more, can have come to. None
    /// that are not are ever written: what a store has written it can read.
    fn is_countable(&self) -> bool {
        self.version.max(self.starts.0) <= COUNT_MAX
    }
}

/// Makes the file, with both copies in it.
pub(super) fn create(disk: &dyn Disk, path: &Path, cluster: Option<ClusterId>) -> io::Result<()> {
    let file = create_anew(disk, path)?;
    file.allocate(2 * STRIDE)?;
    for version in 0..2 {
        let state = State { version, cluster, ..State::default() };
        file.write_at(&state.encode(), version * STRIDE)?;
    }
    file.sync()
}

/// The state in a file; `None` when there is none that can be read.
pub(super) fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<State>> {
    match disk.open(path, Access::Read, Io::Buffered) {
        Ok(file) => newest(&file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn newest(file: &Arc<dyn DiskFile>) -> io::Result<Option<State>> {
    let (mut newest, mut refused): (Option<State>, _) = (None, None);
    for copy in 0..2 {
        let mut b = [0; COPY_BYTES];
        match file.read_at(&mut b, copy * STRIDE) {
            Ok(COPY_BYTES) => {
                let state = State::decode(&b).filter(|state| newest.is_none_or(|n| n.version < state.version));
                newest = state.or(newest);
            }
            Ok(_) => {}
            // One that cannot be read is like one that rots: there is the other.
            Err(e) => refused = Some(e),
        }
    }
    match (newest, refused) {
        (None, Some(e)) => Err(e),
        (newest, _) => Ok(newest),
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct StateFile {
    file: Arc<dyn DiskFile>,
    /// One change at a time.
    writing: Mutex<()>,
    /// What is synced. Never held over I/O.
    synced: Mutex<State>,
    failed: Mutex<Option<String>>,
}

impl StateFile {
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, StoreError> {
        let what = format!("reading {}", path.display());
        let corrupt = || StoreError::Corrupt { path: path.to_owned() };
        let file = match disk.open(path, Access::ReadWrite, Io::Buffered) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(corrupt()),
            other => other.map_err(StoreError::io(what.clone()))?,
        };
        let state = newest(&file).map_err(StoreError::io(what))?.ok_or_else(corrupt)?;
        Ok(Self { file, writing: Mutex::new(()), synced: Mutex::new(state), failed: Mutex::new(None) })
    }

    /// What is synced.
    pub(super) fn get(&self) -> State {
        *lock(&self.synced)
    }

    /// Makes a change durable, and visible after that.
    pub(super) fn update(&self, change: impl FnOnce(&mut State)) -> Result<(), StoreError> {
        let _one = lock(&self.writing);
        self.check()?;
        let before = self.get();
        let mut next = before;
        change(&mut next);
        if next == before {
            return Ok(());
        }
        self.write(next)
    }

    /// Raises the start counter, in both copies: should one rot, the other must not show the start before. With it
    /// the number of losses, if there are some.
    pub(super) fn start(&self, found: Found) -> Result<StartCounter, StoreError> {
        self.update(|s| {
            s.starts.0 += 1;
            if found == Found::Losses {
                s.losses.raise();
            }
        })?;
        let _one = lock(&self.writing);
        let state = self.get();
        self.write(state)?;
        Ok(state.starts)
    }

    /// The caller holds `writing`.
    fn write(&self, mut next: State) -> Result<(), StoreError> {
        next.version += 1;
        if !next.is_countable() {
            return Err(self.fail("counting a change of the state", &io::Error::other("its numbers are used up")));
        }
        let write = self.file.write_at(&next.encode(), next.version % 2 * STRIDE).and_then(|()| self.file.sync());
        if let Err(e) = write {
            return Err(self.fail("writing the state", &e));
        }
        *lock(&self.synced) = next;
        Ok(())
    }

    /// Refuses when the store has failed.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.failed().map_or(Ok(()), |why| Err(StoreError::Failed(why)))
    }

    pub(super) fn failed(&self) -> Option<String> {
        lock(&self.failed).clone()
    }

    /// Latches the failure: what is on the disk is not known any more.
    pub(super) fn fail(&self, what: &str, e: &io::Error) -> StoreError {
        let why = lock(&self.failed).get_or_insert_with(|| format!("{what}: {e}")).clone();
        StoreError::Failed(why)
    }
}
