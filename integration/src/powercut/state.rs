//! The disk itself: what programs see now, and the trace of what they did.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::trace::{Change, Trace};
use super::tree::{Body, Kind, NodeId, Place, Tree};

/// An errno.
pub(super) type Code = i32;

/// A disk whose power can be cut. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct PowerDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) live: Tree,
    trace: Trace,
    off: bool,
}

impl Default for PowerDisk {
    fn default() -> Self {
        Self::holding(Tree::default())
    }
}

impl PowerDisk {
    /// A disk with these contents, all of them durable.
    #[must_use]
    pub fn holding(tree: Tree) -> Self {
        let trace = Trace { base: tree.clone(), changes: Vec::new() };
        Self { state: Arc::new(Mutex::new(State { live: tree, trace, off: false })) }
    }

    /// How many operations there were: what has returned before this was asked is among them.
    #[must_use]
    pub fn ops(&self) -> usize {
        self.lock().trace.changes.len()
    }

    /// Cuts the power: from now on everything fails, and nothing more is written down.
    pub fn cut(&self) {
        self.lock().off = true;
    }

    /// What was done so far.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.lock().trace.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One operation of a program.
    pub(super) fn with<T>(&self, op: impl FnOnce(&mut State) -> Result<T, Code>) -> Result<T, Code> {
        let mut state = self.lock();
        if state.off { Err(libc::EIO) } else { op(&mut state) }
    }
}

impl State {
    fn change(&mut self, change: Change) {
        self.live.apply(&change);
        self.trace.changes.push(change);
    }

    pub(super) fn find(&self, dir: NodeId, name: &OsStr) -> Result<NodeId, Code> {
        self.live.names.get(&Place::new(dir, name)).copied().ok_or(libc::ENOENT)
    }

    pub(super) fn body(&self, node: NodeId) -> Result<&Body, Code> {
        self.live.nodes.get(&node).ok_or(libc::ESTALE)
    }

    fn is_empty(&self, dir: NodeId) -> bool {
        self.live.entries(dir).next().is_none()
    }

    pub(super) fn make(&mut self, dir: NodeId, name: &OsStr, kind: Kind) -> Result<NodeId, Code> {
        if self.find(dir, name).is_ok() {
            return Err(libc::EEXIST);
        }
        let node = NodeId(self.live.next);
        self.change(Change::Make { place: Place::new(dir, name), node, kind });
        Ok(node)
    }

    pub(super) fn remove(&mut self, dir: NodeId, name: &OsStr, kind: Kind) -> Result<(), Code> {
        let node = self.find(dir, name)?;
        match (self.body(node)?.kind(), kind) {
            (Kind::Dir, Kind::File) => return Err(libc::EISDIR),
            (Kind::File, Kind::Dir) => return Err(libc::ENOTDIR),
            (Kind::Dir, Kind::Dir) if !self.is_empty(node) => return Err(libc::ENOTEMPTY),
            _ => {}
        }
        self.change(Change::Clear { place: Place::new(dir, name) });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: Place, to: Place, replace: bool) -> Result<(), Code> {
        let node = self.find(from.dir, &from.name)?;
        if let Ok(old) = self.find(to.dir, &to.name) {
            match (self.body(node)?.kind(), self.body(old)?.kind()) {
                _ if !replace => return Err(libc::EEXIST),
                _ if old == node => return Ok(()),
                (Kind::File, Kind::Dir) => return Err(libc::EISDIR),
                (Kind::Dir, Kind::File) => return Err(libc::ENOTDIR),
                (Kind::Dir, Kind::Dir) if !self.is_empty(old) => return Err(libc::ENOTEMPTY),
                _ => {}
            }
        }
        self.change(Change::Rename { from, to, node });
        Ok(())
    }

    pub(super) fn read(&self, file: NodeId, offset: u64, size: usize) -> Result<Vec<u8>, Code> {
        match self.body(file)? {
            Body::File(pages) => Ok(pages.read(offset, size)),
            Body::Dir => Err(libc::EISDIR),
        }
    }

    pub(super) fn write(&mut self, file: NodeId, offset: u64, data: &[u8]) -> Result<(), Code> {
        self.body(file)?;
        self.change(Change::Write { file, offset, data: data.into() });
        Ok(())
    }

    pub(super) fn set_len(&mut self, file: NodeId, len: u64) -> Result<(), Code> {
        match self.body(file)? {
            Body::File(pages) if pages.len() == len => {}
            Body::File(_) => self.change(Change::Length { file, len }),
            Body::Dir => return Err(libc::EISDIR),
        }
        Ok(())
    }

    /// fallocate(2): space is never short here, so only lengths and holes matter.
    pub(super) fn allocate(&mut self, file: NodeId, start: u64, len: u64, mode: i32) -> Result<(), Code> {
        let Body::File(pages) = self.body(file)? else { return Err(libc::EISDIR) };
        let (end, size) = (start.checked_add(len).ok_or(libc::EFBIG)?, pages.len());
        match mode {
            0 if end > size => self.change(Change::Length { file, len: end }),
            0 | libc::FALLOC_FL_KEEP_SIZE => {}
            m if m == libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE => {
                self.change(Change::Zero { file, start, end });
            }
            _ => return Err(libc::EOPNOTSUPP),
        }
        Ok(())
    }

    /// fsync(2) and fdatasync(2) of a file.
    pub(super) fn sync(&mut self, file: NodeId) {
        let path = self.live.path(file).unwrap_or_default();
        self.change(Change::Sync { file, path });
    }

    /// fsync(2) of a directory.
    pub(super) fn sync_dir(&mut self, dir: NodeId) {
        let path = self.live.path(dir).unwrap_or_default();
        self.change(Change::SyncDir { dir, path });
    }
}
