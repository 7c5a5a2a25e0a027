//! An open file of the simulated disk.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::state::{Change, FileId, FileState, State};
use crate::aligned::check_direct;
use crate::{Access, DiskFile, Io};

/// The largest file; a simulated one is held in memory several times.
const FILE_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug)]
pub(super) struct CrashFile {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) id: FileId,
    pub(super) access: Access,
    pub(super) io: Io,
}

impl CrashFile {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_buf(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if self.io == Io::Direct { check_direct(buf, offset) } else { Ok(()) }
    }

    fn check_write(&self, end: u64) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if end > FILE_BYTES_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
    }
}

fn file(state: &mut State, id: FileId) -> &mut FileState {
    state.files.get_mut(&id).expect("files are kept for as long as the disk")
}

impl DiskFile for CrashFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.lock();
        state.alive()?;
        self.check_buf(buf, offset)?;
        let live = &file(&mut state, self.id).live;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(live.len());
        let n = buf.len().min(live.len() - start);
        buf[..n].copy_from_slice(&live[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.lock();
        self.check_buf(buf, offset)?;
        let end = offset.saturating_add(buf.len() as u64);
        self.check_write(end)?;
        let power = state.mutate()?;
        if std::mem::take(&mut state.fail_write) {
            return Err(io::Error::other("a write failed"));
        }
        state.reserve(self.id, end)?;
        file(&mut state, self.id).change(Change::Write { offset, data: buf.to_vec() });
        power.check()
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.mutate()?.check()?;
        if std::mem::take(&mut state.fail_sync) {
            file(&mut state, self.id).pending.clear();
            return Err(io::Error::other("a sync failed"));
        }
        file(&mut state, self.id).sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.lock();
        state.alive()?;
        Ok(file(&mut state, self.id).live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        self.check_write(len)?;
        let power = state.mutate()?;
        file(&mut state, self.id).change(Change::Length(len));
        power.check()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        self.check_write(len)?;
        let power = state.mutate()?;
        state.reserve(self.id, len)?;
        if len > file(&mut state, self.id).live.len() as u64 {
            file(&mut state, self.id).change(Change::Length(len));
        }
        power.check()
    }
}
