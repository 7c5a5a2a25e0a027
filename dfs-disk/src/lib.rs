//! The narrow disk seam below metad's log and chunkd's stores.
//!
//! Both promise that what they acknowledged survives a power cut, and both
//! prove it the same way: they run over a [`Disk`] that is either the real one
//! ([`real::RealDisk`]) or a simulated one ([`crash::CrashDisk`]) that forgets,
//! tears and reorders what was not synced. One crate, so that there is one
//! model of what a power cut does.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub mod aligned;
pub mod crash;
pub mod real;

pub use aligned::AlignedBuf;

/// How a file's bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// Through the page cache.
    Buffered,
    /// `O_DIRECT` where the filesystem below offers it, else buffered. Offsets,
    /// lengths and addresses must be multiples of [`DIRECT_ALIGN`].
    Direct,
}

/// Alignment of direct I/O in bytes.
pub const DIRECT_ALIGN: usize = 4096;

/// What a caller may do with an opened file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads.
    Read,
    /// Reads and writes.
    ReadWrite,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, which is valid UTF-8 (others are not ours and are skipped).
    pub name: String,
    /// Whether it is a directory.
    pub dir: bool,
    /// Length in bytes: 0 for a directory, the largest number when the disk does not tell it.
    pub len: u64,
}

/// Space of the filesystem that holds a path, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What this process may still use.
    pub free: u64,
}

/// A directory tree of files, as a program sees it.
pub trait Disk: Debug + Send + Sync {
    /// Makes a new file. It is durable only after [`Disk::sync_dir`] of its directory.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the system says.
    fn create(&self, path: &Path, io: Io) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn open(&self, path: &Path, access: Access, io: Io) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing `to`. Durable after `sync_dir` of both directories.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after `sync_dir`.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory and its parents; no error when it is there already.
    /// What it made is durable when it returns.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the entries of a directory durable (names, not contents).
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// The entries of a directory, in any order.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>>;

    /// Space below `path`.
    ///
    /// # Errors
    /// What the system says.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// An open file.
#[allow(clippy::len_without_is_empty, reason = "asking a file for its length may fail")]
pub trait DiskFile: Debug + Send + Sync {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `buf` at `offset`.
    ///
    /// # Errors
    /// What the system says (`StorageFull` on a full disk).
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the contents and the length durable (`fdatasync`), not the name.
    ///
    /// # Errors
    /// What the system says. After an error nothing unsynced may be trusted.
    fn sync(&self) -> io::Result<()>;

    /// Current length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Sets the length; new bytes read as zero.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space for bytes `0..len` so that writing them cannot run out of
    /// space, and sets the length to at least `len`. New bytes read as zero.
    ///
    /// # Errors
    /// `StorageFull`, or what the system says.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

impl dyn DiskFile + '_ {
    /// Reads exactly `buf.len()` bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before, or what the system says.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buf, offset)? == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
