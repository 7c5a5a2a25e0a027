//! The command log: what metad acknowledged, in order, before anything else knows of it.
//!
//! It owns a directory of preallocated files. Entries are appended in groups:
//! each [`Log::append`] is one frame with one checksum, written by one call at
//! a multiple of 4 KiB, so that nothing synced is ever written again. Files
//! that are no longer needed are used again under a new number; the number is
//! part of every checksum, so what an earlier life left is never taken for an
//! entry.
//!
//! # What it promises
//! - After [`Log::sync`] returned, all that was appended survives a power cut.
//! - What is found after a crash is a prefix of what was appended.
//! - Damage to synced entries is reported with file and offset, never cut off
//!   silently: every frame says up to which entry the log was known to be synced
//!   when it was written, so a valid frame behind a broken one tells whether
//!   that one was ever synced. (Damage to the very last frame cannot be told
//!   from a torn write. The caller compares [`Log::last_index`] with what it
//!   has applied.)
//! - After a failed write or sync it takes nothing more until it is opened
//!   anew: what the system lost then cannot be known. A full disk is no such
//!   failure: the append is refused and may be repeated.
//!
//! Who opens it holds the lock of the data directory: two processes at once
//! would destroy it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_core::id::{ClusterId, LogIndex};
use dfs_disk::{AlignedBuf, Disk, DiskFile};

mod entries;
mod error;
mod files;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod header;
mod recovery;
#[cfg(test)]
mod tests;

pub use entries::Entries;
pub use error::LogError;

use files::{FileNumber, Spares};
use frame::Salt;

/// The unit of all writes, and the size of a file's header.
const UNIT: usize = dfs_disk::DIRECT_ALIGN;

/// The largest payload of an entry in bytes. Small files allow less: [`Log::payload_bytes_max`].
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// Beyond this the buffer for frames is given back after use.
const KEPT_BUF_BYTES: usize = 1 << 20;

/// One entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// In whose term it was written.
    pub term: u64,
    /// Its place: one more than that of the entry before.
    pub index: LogIndex,
    /// The command; the log does not look into it.
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { term, index, payload } = self;
        write!(f, "Entry {{ term: {term}, index: {index}, {} bytes }}", payload.len())
    }
}

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Bytes of each file: a multiple of 4 KiB from 16 KiB to 64 MiB.
    pub file_bytes: u64,
    /// The filesystem that the log belongs to.
    pub cluster: ClusterId,
}

impl LogOptions {
    /// The usual options: files of 16 MiB.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        Self { file_bytes: 16 << 20, cluster }
    }
}

/// An open log.
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: LogOptions,
    /// All files in order; the last is the one written to. Never empty.
    files: VecDeque<LogFile>,
    current: Current,
    spares: Spares,
    last: LogIndex,
    synced: LogIndex,
    buf: AlignedBuf,
    poisoned: Option<String>,
}

/// A file of the log.
#[derive(Clone, Copy, Debug)]
struct LogFile {
    number: FileNumber,
    /// Its first entry, or the one that will be.
    first: LogIndex,
}

/// The file that is written to.
#[derive(Debug)]
struct Current {
    file: Arc<dyn DiskFile>,
    bytes: u64,
    /// Where the next frame goes.
    tail: u64,
}

impl Log {
    /// Opens the log in `dir`, or begins one there. What was being written when
    /// the last user stopped is either whole and durable when this returns, or gone.
    ///
    /// # Errors
    /// `Foreign` or `Version` when the files are not ours, `Corrupt` when they
    /// are damaged, else what the disk says. The log is unchanged then.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: LogOptions) -> Result<Self, LogError> {
        recovery::open(disk, dir, options)
    }

    /// The last entry; 0 when there never was one.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.last
    }

    /// The last entry that is known to be durable.
    #[must_use]
    pub fn synced_index(&self) -> LogIndex {
        self.synced
    }

    /// The first entry that is still here (one above the last, if none is).
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.files.front().map_or(LogIndex(self.last.0 + 1), |f| f.first)
    }

    /// The largest payload that an entry may have.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        PAYLOAD_BYTES_MAX.min(self.group_bytes_max() - frame::ENTRY_HEAD)
    }

    /// The largest group, counted as [`Log::group_bytes`] does.
    #[must_use]
    pub fn group_bytes_max(&self) -> usize {
        frame::body_bytes_max(self.options.file_bytes)
    }

    /// What a group of these entries takes up of [`Log::group_bytes_max`].
    #[must_use]
    pub fn group_bytes(entries: &[Entry]) -> usize {
        frame::body_bytes(entries)
    }

    /// Appends a group, whole or not at all. It is durable after [`Log::sync`].
    ///
    /// # Errors
    /// `Gap` when the entries do not follow the last, `TooLarge` when they do
    /// not fit into a file, `StorageFull` when there is no space for another
    /// file: these leave the log as it was. After any other error it takes no more.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        self.check_usable()?;
        self.check_entries(entries)?;
        let Some(last) = entries.last() else { return Ok(()) };
        let bytes = frame::frame_bytes(entries) as u64;
        if self.current.tail + bytes > self.current.bytes {
            self.rotate()?;
        }
        let salt = self.salt();
        frame::encode(&mut self.buf, salt, entries, self.synced);
        if let Err(e) = self.current.file.write_at(&self.buf, self.current.tail) {
            let path = self.current_path();
            return Err(self.poison(LogError::io(&path, "write", e)));
        }
        self.current.tail += bytes;
        self.last = last.index;
        if self.buf.capacity() > KEPT_BUF_BYTES {
            self.buf = AlignedBuf::new();
        }
        Ok(())
    }

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// What the disk says. Then nothing since the last sync is certain, and the log takes no more.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check_usable()?;
        if self.synced == self.last {
            return Ok(());
        }
        if let Err(e) = self.current.file.sync() {
            let path = self.current_path();
            return Err(self.poison(LogError::io(&path, "sync", e)));
        }
        self.synced = self.last;
        Ok(())
    }

    /// The entries from `index` to the last, read file by file.
    ///
    /// # Errors
    /// `Released` when that entry is gone.
    pub fn entries_from(&self, index: LogIndex) -> Result<Entries<'_>, LogError> {
        Entries::new(self, index)
    }

    /// Gives up files all of whose entries are below `index`. How many go and when is the log's affair.
    ///
    /// # Errors
    /// What the disk says; what was not released yet stays.
    pub fn release_before(&mut self, index: LogIndex) -> Result<(), LogError> {
        self.check_usable()?;
        while self.files.len() > 1 && self.files[1].first <= index {
            let path = self.files[0].number.path(&self.dir);
            // One by one and in order, each durable before the next: after a crash
            // the files that are left follow each other, and a missing one is damage.
            // And a file must have lost its old name for good before it is written again.
            let slot = self.spares.free_slot();
            match slot {
                Some(slot) => self.disk.rename(&path, &slot.path(&self.dir)),
                None => self.disk.remove(&path),
            }
            .map_err(|e| LogError::io(&path, "release", e))?;
            self.files.pop_front();
            if let Err(e) = self.disk.sync_dir(&self.dir) {
                let dir = self.dir.clone();
                return Err(self.poison(LogError::io(&dir, "sync", e)));
            }
            if let Some(slot) = slot {
                self.spares.add(slot);
            }
        }
        Ok(())
    }

    /// Makes the file that will be needed next, if there is none: for idle
    /// moments, else the append that needs it does.
    ///
    /// # Errors
    /// `StorageFull`, or what the disk says; the log is as usable as before.
    pub fn prepare(&mut self) -> Result<(), LogError> {
        self.check_usable()?;
        self.spares.prepare(&*self.disk, &self.dir, self.options.file_bytes)
    }

    /// Goes over to the next file. All that the present one holds is durable
    /// then, so only the last file can end in a torn write.
    fn rotate(&mut self) -> Result<(), LogError> {
        self.sync()?;
        self.prepare()?;
        if self.files[self.files.len() - 1].number.0.max(self.last.0) >= recovery::INDEX_MAX {
            // The header would be refused at the next start.
            let source = std::io::Error::other("the numbers of the log are used up");
            return Err(LogError::Io { path: self.current_path(), what: "go on from", source });
        }
        let next = LogFile { number: self.files[self.files.len() - 1].number.next(), first: LogIndex(self.last.0 + 1) };
        match files::begin(&*self.disk, &self.dir, &mut self.spares, next, &self.options) {
            Ok(current) => {
                self.files.push_back(next);
                self.current = current;
                Ok(())
            }
            Err(e) => Err(self.poison(e)),
        }
    }

    fn check_entries(&self, entries: &[Entry]) -> Result<(), LogError> {
        let mut expected = self.last;
        for entry in entries {
            expected.0 += 1;
            if entry.index != expected {
                return Err(LogError::Gap { expected, found: entry.index });
            }
            if entry.payload.len() > self.payload_bytes_max() {
                return Err(LogError::TooLarge { bytes: entry.payload.len(), max: self.payload_bytes_max() });
            }
        }
        let bytes = Self::group_bytes(entries);
        if bytes > self.group_bytes_max() {
            return Err(LogError::TooLarge { bytes, max: self.group_bytes_max() });
        }
        Ok(())
    }

    fn check_usable(&self) -> Result<(), LogError> {
        match &self.poisoned {
            Some(cause) => Err(LogError::Poisoned(cause.clone())),
            None => Ok(()),
        }
    }

    /// `StorageFull` promises that the log is as it was; behind a write or sync that failed nobody can know that.
    fn poison(&mut self, cause: LogError) -> LogError {
        self.poisoned = Some(cause.to_string());
        match cause {
            LogError::StorageFull { path } => {
                LogError::Io { path, what: "write", source: std::io::ErrorKind::StorageFull.into() }
            }
            other => other,
        }
    }

    fn salt(&self) -> Salt {
        Salt { cluster: self.options.cluster, number: self.files[self.files.len() - 1].number }
    }

    fn current_path(&self) -> PathBuf {
        self.files[self.files.len() - 1].number.path(&self.dir)
    }
}
