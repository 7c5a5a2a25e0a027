//! A filesystem in memory that knows what a power cut may do to it.
//!
//! It owns, for each file and directory, what is durable and the ordered
//! changes that are not yet. A test runs a history over a [`CrashDisk`], cuts
//! the power after the n-th mutating operation ([`CrashDisk::crash_after`]),
//! and opens what may be left ([`CrashDisk::image`]).
//!
//! # The model
//! - A file's bytes and length are durable once its `sync` returned; a name
//!   once `sync_dir` of its directory returned. Neither implies the other.
//! - Of unsynced bytes, each sector of 512 bytes holds, by itself, what it held
//!   before or after any one of the unsynced writes to it. So writes are lost,
//!   torn and reordered, also among each other, but a sector never goes back
//!   from a newer to an older write, as no cache or drive does that.
//! - The length is the one before or after any of the unsynced changes. Bytes
//!   below it that never reached the disk are zero.
//! - Of unsynced name changes any may be lost, and with each that is lost all
//!   later ones of the same names. A rename is one change of two names: both
//!   happened or neither. `sync_dir` of either directory of a rename makes it
//!   durable. Directories are durable at once ([`Disk::create_dir`] says so).
//! - The operation that meets the fault point fails, but may have happened:
//!   it counts as unsynced. After it everything fails, reads too.
//! - A `sync` that fails by itself ([`CrashDisk::fail_sync`]) has lost what it
//!   should have synced, though reads still show it and the next `sync`
//!   succeeds: that is what Linux does.

mod file;
mod image;
mod state;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use image::Survive;

use crate::{Access, Disk, DiskFile, Entry, Io, Space};
use file::CrashFile;
use state::{NameChange, State};

/// The simulated disk. Clones share their contents.
#[derive(Clone, Debug, Default)]
pub struct CrashDisk {
    state: Arc<Mutex<State>>,
}

impl CrashDisk {
    /// An empty disk without bounds or faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bounds the bytes that files may take up: beyond, writes and
    /// reservations fail with `StorageFull`. `None` lifts the bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Cuts the power at the mutating operation that comes after `n` more.
    pub fn crash_after(&self, n: u64) {
        let mut state = self.lock();
        state.crash_at = Some(state.ops + n);
    }

    /// Whether the power was cut.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// How many mutating operations there were.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.lock().ops
    }

    /// Lets the next `sync` of a file fail and lose what it should have synced.
    pub fn fail_sync(&self) {
        self.lock().fail_sync = true;
    }

    /// Lets the next write fail without effect.
    pub fn fail_write(&self) {
        self.lock().fail_write = true;
    }

    /// A disk as a power cut now may leave it. It has no faults, all of it is
    /// durable, and this one is not changed by it.
    #[must_use]
    pub fn image(&self, survive: Survive) -> CrashDisk {
        CrashDisk { state: Arc::new(Mutex::new(image::after_power_cut(&self.lock(), survive))) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for CrashDisk {
    fn create(&self, path: &Path, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        let name = state.locate(path)?;
        if state.lookup(&name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let power = state.mutate()?;
        let id = state.new_file();
        state.change_names(NameChange::Set { name, id });
        power.check()?;
        Ok(Arc::new(CrashFile { state: Arc::clone(&self.state), id, access: Access::ReadWrite, io }))
    }

    fn open(&self, path: &Path, access: Access, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.lock();
        let name = state.locate(path)?;
        let id = state.lookup(&name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(CrashFile { state: Arc::clone(&self.state), id, access, io }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let (from, to) = (state.locate(from)?, state.locate(to)?);
        let id = state.lookup(&from).ok_or(io::ErrorKind::NotFound)?;
        let power = state.mutate()?;
        if from != to {
            state.change_names(NameChange::Rename { from, to, id });
        }
        power.check()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let name = state.locate(path)?;
        state.lookup(&name).ok_or(io::ErrorKind::NotFound)?;
        let power = state.mutate()?;
        state.change_names(NameChange::Clear { name });
        power.check()
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.alive()?;
        state.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.locate_dir(path)?;
        state.mutate()?.check()?;
        state.sync_dir(path);
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let state = self.lock();
        state.locate_dir(path)?;
        Ok(state.entries(path))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let state = self.lock();
        state.alive()?;
        let total = state.capacity.unwrap_or(u64::MAX);
        Ok(Space { total, free: total.saturating_sub(state.used) })
    }
}

#[cfg(test)]
mod tests;
