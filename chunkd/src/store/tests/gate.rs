//! A disk whose syncs of files wait until they are let through.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use dfs_disk::crash::CrashDisk;
use dfs_disk::{Access, Disk, DiskFile, Entry, Io, Space};

#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<bool>,
    changed: Condvar,
    writes: AtomicU64,
    waiting: AtomicU64,
}

#[derive(Clone, Debug)]
pub(super) struct GatedDisk {
    inner: CrashDisk,
    gate: Arc<Gate>,
}

impl GatedDisk {
    pub(super) fn new(inner: CrashDisk) -> Self {
        Self { inner, gate: Arc::default() }
    }

    pub(super) fn close(&self) {
        *self.gate.closed.lock().unwrap() = true;
    }

    pub(super) fn open_gate(&self) {
        *self.gate.closed.lock().unwrap() = false;
        self.gate.changed.notify_all();
    }

    /// Writes so far.
    pub(super) fn writes(&self) -> u64 {
        self.gate.writes.load(Ordering::SeqCst)
    }

    /// Syncs at the gate.
    pub(super) fn waiting(&self) -> u64 {
        self.gate.waiting.load(Ordering::SeqCst)
    }

    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(GatedFile { inner: file, gate: Arc::clone(&self.gate) })
    }
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl Disk for GatedDisk {
    fn create(&self, path: &Path, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.inner.create(path, io)?))
    }
    fn open(&self, path: &Path, access: Access, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.inner.open(path, access, io)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.inner.read_dir(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.inner.space(path)
    }
}

impl DiskFile for GatedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(buf, offset)?;
        self.gate.writes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.gate.waiting.fetch_add(1, Ordering::SeqCst);
        let mut closed = self.gate.closed.lock().unwrap();
        while *closed {
            closed = self.gate.changed.wait(closed).unwrap();
        }
        drop(closed);
        self.gate.waiting.fetch_sub(1, Ordering::SeqCst);
        self.inner.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }
}
