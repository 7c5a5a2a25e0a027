//! Writing: into the buffer, and the ways in which it is made durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::{FILE_BYTES, SMALL_CHUNK_BYTES};
use dfs_core::op::{Op, OpReply};

use super::handle::FileHandle;
use super::inode::{Inode, is_bare_setgid, without_privileges};
use super::{Vfs, now};
use crate::error::{FsError, FsResult};
use crate::file::budget::Writer;
use crate::file::buffer::WriteInfo;
use crate::file::seal::Work;
use crate::lock::lock;

impl Vfs {
    /// [`Vfs::write`] without waiting: when there is room and nothing has to be asked. Leaves a file that is setgid
    /// without group execution to who asks [`Vfs::drop_bare_setgid`].
    pub fn try_write(&self, fh: u64, offset: u64, data: &[u8], kill_priv: bool) -> Option<FsResult<u32>> {
        let handle = match self.handle(fh) {
            Ok(handle) => handle,
            Err(e) => return Some(Err(e)),
        };
        if handle.appends() && self.may_have_capability(&handle) {
            return None;
        }
        if kill_priv && handle.inode.state().newest().is_some_and(|attr| is_bare_setgid(&attr)) {
            return None;
        }
        self.write_now(&handle, Writer::Program, offset, data, kill_priv)
    }

    /// Copies `data` into the file's buffer; waits while the mount has too much unsaved. A handle opened with
    /// `O_APPEND` writes at the end of the file, wherever `offset` is.
    ///
    /// # Errors
    /// An earlier error of saving the file, once; `FileTooLarge`; `Io` when there is no room by the deadline.
    pub async fn write(&self, fh: u64, offset: u64, data: Bytes, kill_priv: bool) -> FsResult<u32> {
        let handle = self.handle(fh)?;
        if handle.appends() {
            // Known well, where the end is too, attributes mostly say that there is none.
            self.getattr(handle.inode.ino).await?;
            if self.may_have_capability(&handle) {
                self.drop_capability(handle.inode.ino).await?;
            }
        }
        self.write_when_possible(&handle, Writer::Program, offset, &data, kill_priv).await
    }

    /// [`Vfs::write`] that returns when the file is durable, as with `O_SYNC` and `O_DSYNC`.
    ///
    /// # Errors
    /// As for [`Vfs::write`] and [`Vfs::fsync`].
    pub async fn write_durable(&self, fh: u64, offset: u64, data: Bytes, kill_priv: bool) -> FsResult<u32> {
        let written = self.write(fh, offset, data, kill_priv).await?;
        self.fsync(fh).await?;
        Ok(written)
    }

    /// [`Vfs::write_pages`] without waiting.
    pub fn try_write_pages(&self, fh: u64, offset: u64, data: &[u8]) -> Option<FsResult<u32>> {
        match self.handle(fh) {
            Ok(handle) => self.write_now(&handle, Writer::Pages, offset, data, false),
            Err(e) => Some(Err(e)),
        }
    }

    /// What the kernel brings of mapped pages that were written to, through any handle of the file. Unlike
    /// [`Vfs::write`] it finds room when programs have to wait, because the kernel may not drop pages, as it was
    /// told to, before these are taken; and it hears of no earlier error, which would make the kernel drop them.
    ///
    /// # Errors
    /// `FileTooLarge`; `Io` when even so there is no room by the deadline.
    pub async fn write_pages(&self, fh: u64, offset: u64, data: Bytes) -> FsResult<u32> {
        let handle = self.handle(fh)?;
        self.write_when_possible(&handle, Writer::Pages, offset, &data, false).await
    }

    async fn write_when_possible(
        &self,
        handle: &FileHandle,
        writer: Writer,
        offset: u64,
        data: &[u8],
        kill_priv: bool,
    ) -> FsResult<u32> {
        let until = tokio::time::Instant::now() + self.config.deadline;
        loop {
            if let Some(done) = self.write_now(handle, writer, offset, data, kill_priv) {
                return done;
            }
            if self.budget.has_room(writer, data.len()) {
                self.getattr(handle.inode.ino).await?;
            } else {
                self.wake.notify_one();
                tokio::time::timeout_at(until, self.budget.room(writer, data.len()))
                    .await
                    .map_err(|_| FsError::io("unsaved data of the mount does not get less"))?;
            }
            if tokio::time::Instant::now() >= until {
                return Err(FsError::io("the write found no moment at which its file's attributes were known"));
            }
        }
    }

    fn write_now(
        &self,
        handle: &FileHandle,
        writer: Writer,
        offset: u64,
        data: &[u8],
        kill_priv: bool,
    ) -> Option<FsResult<u32>> {
        if writer == Writer::Program
            && let Err(e) = handle.report()
        {
            return Some(Err(e));
        }
        let Ok(len) = u32::try_from(data.len()) else { return Some(Err(Refusal::Invalid.into())) };
        if len == 0 {
            return Some(Ok(0));
        }
        if !self.budget.has_room(writer, data.len()) {
            self.wake.notify_one();
            return None;
        }
        let inode = &handle.inode;
        let at_once = Instant::now();
        let mut state = inode.state();
        let append = handle.appends() && writer == Writer::Program;
        let attr = if append {
            // Where the end is must be known well.
            state.visible(state.known.fresh(at_once, self.config.ttl)?.0)
        } else {
            state.newest()?
        };
        let at = if append { attr.size } else { offset };
        if at.checked_add(u64::from(len)).is_none_or(|end| end > FILE_BYTES) {
            return Some(Err(Refusal::FileTooLarge.into()));
        }
        let kill_priv = kill_priv && without_privileges(attr.mode) != attr.mode;
        let info = WriteInfo { now: at_once, time: now(), kill_priv };
        let was_clean = state.buffer().is_clean();
        Inode::change_buffer(&mut state, &self.budget, |buffer| buffer.write(at, data, info));
        let ended = self.stream(&mut state);
        let pages = state.known.has_pages();
        drop(state);
        for no in ended {
            self.launch(vec![Work { inode: inode.clone(), no }]);
        }
        if was_clean {
            lock(&self.dirty).insert(inode.ino, inode.clone());
        }
        if append && (pages || at != offset) {
            // The kernel did not see where the bytes went.
            self.invalidations.inode(inode.ino, pages);
        }
        if self.budget.is_pressed() {
            self.wake.notify_one();
        }
        Some(Ok(len))
    }

    /// close(2) of a descriptor: starts saving, waits for nothing.
    ///
    /// # Errors
    /// An earlier error of saving the file, once.
    pub fn flush(&self, fh: u64) -> FsResult<()> {
        let handle = self.handle(fh)?;
        if !handle.writes {
            return Ok(());
        }
        self.start_saving(&handle.inode);
        handle.report()
    }

    /// What is unsaved of the file goes on its way; a small file waits a moment for others to go with.
    pub(super) fn start_saving(&self, inode: &Arc<Inode>) {
        let (bytes, streaming) = {
            let state = inode.state();
            (state.buffer().unsealed(), state.buffer().is_streaming())
        };
        if bytes == 0 {
            return;
        }
        if bytes < SMALL_CHUNK_BYTES && !streaming {
            if lock(&self.closed).add(inode, bytes, Instant::now()) {
                self.wake.notify_one();
            }
        } else {
            self.seal_now(inode);
        }
    }

    /// Everything unsealed of the file becomes a seal, and that is on its way.
    fn seal_now(&self, inode: &Arc<Inode>) {
        let taken = self.take_seal(&mut inode.state());
        if let Some((no, _)) = taken {
            self.launch(vec![Work { inode: inode.clone(), no }]);
        }
    }

    /// Seals what is unsaved of the file and waits until it is saved or given up.
    ///
    /// # Errors
    /// `Io` when that takes longer than two seals may: the data is still on its way.
    pub(super) async fn save(&self, inode: &Arc<Inode>) -> FsResult<()> {
        self.seal_now(inode);
        let newest = inode.state().buffer().newest_seal();
        if let Some(no) = newest {
            tokio::time::timeout(self.config.deadline * 2, inode.wait_saved(no))
                .await
                .map_err(|_| FsError::io("the data is not saved yet"))?;
        }
        Ok(())
    }

    /// One op, durable when this returns, after all that is unsaved of a file: in one commit with what no seal has
    /// taken yet.
    ///
    /// # Errors
    /// What kept the data from being saved: then the op is not done. Else as for the op alone.
    pub(super) async fn change_after(&self, unsaved: Option<&Arc<Inode>>, op: &Op, about: &[Ino]) -> FsResult<OpReply> {
        if let Some(inode) = unsaved {
            if let Some(done) = self.ride(inode, op, about).await {
                return done;
            }
            self.save_or_fail(inode.ino).await?;
        }
        self.change_one_about(op.clone(), about).await
    }

    /// [`Vfs::save`]; an error if not everything is saved.
    pub(super) async fn save_or_fail(&self, ino: Ino) -> FsResult<()> {
        let Some(inode) = self.inodes.find(ino) else { return Ok(()) };
        let before = {
            let state = inode.state();
            if state.buffer().is_clean() {
                return Ok(());
            }
            state.failures()
        };
        self.save(&inode).await?;
        let state = inode.state();
        if state.failures() != before {
            return Err(state.failure());
        }
        Ok(())
    }

    /// Makes the file durable, with everything that was written to it before, through whatever handle.
    ///
    /// # Errors
    /// What could not be saved since the last fsync of this handle.
    pub async fn fsync(&self, fh: u64) -> FsResult<()> {
        let handle = self.handle(fh)?;
        let inode = &handle.inode;
        self.save(inode).await?;
        let saved = handle.report_synced();
        if saved.is_err() {
            self.unheard.take(inode.ino);
        }
        saved
    }

    /// Makes the whole mount durable.
    ///
    /// # Errors
    /// What could not be saved meanwhile.
    pub async fn sync_all(&self) -> FsResult<()> {
        let before = self.lost_seals.load(Ordering::Relaxed);
        // Of all inodes: the list of dirty ones hears of a first write a moment after others can write too.
        let mut inodes = self.inodes.all();
        inodes.retain(|inode| !inode.state().buffer().is_clean());
        self.seal_many(&inodes);
        let all = async {
            for inode in &inodes {
                let newest = inode.state().buffer().newest_seal();
                if let Some(no) = newest {
                    inode.wait_saved(no).await;
                }
            }
        };
        let in_time = tokio::time::timeout(self.config.deadline * 2, all).await;
        in_time.map_err(|_| FsError::io("not everything is saved yet"))?;
        self.send_atimes().await;
        if self.lost_seals.load(Ordering::Relaxed) != before {
            return Err(FsError::io("some data could not be saved"));
        }
        Ok(())
    }

    /// Whether any file has unsaved bytes.
    pub(super) fn has_unsaved(&self) -> bool {
        self.budget.used() > 0
    }

    /// Forgets unsaved bytes of a file without names, unless somebody has it open.
    pub(super) fn drop_unsaved(&self, inode: &Inode) {
        let mut state = inode.state();
        if state.opens > 0 {
            return;
        }
        state.feeds.clear();
        Inode::change_buffer(&mut state, &self.budget, |buffer| buffer.discard());
        drop(state);
        inode.saved.notify_waiters();
    }
}
