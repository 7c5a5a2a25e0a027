//! What can go wrong with the log.

use std::io;
use std::path::{Path, PathBuf};

use dfs_core::id::{ClusterId, LogIndex};

/// Why the log refused, or failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no space for another file. The log is as before; repeat when there is.
    #[error("no space left for the log: {}", path.display())]
    StorageFull {
        /// What could not be written.
        path: PathBuf,
    },
    /// More than one entry or group may hold.
    #[error("{bytes} bytes are too many for the log, which takes {max} at once")]
    TooLarge {
        /// What it would take.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// An entry that does not follow the last.
    #[error("the next log entry is {expected}, not {found}")]
    Gap {
        /// What would be next.
        expected: LogIndex,
        /// What came.
        found: LogIndex,
    },
    /// Entries that were given up.
    #[error("log entry {index} is gone, the log begins at {first}")]
    Released {
        /// What was asked for.
        index: LogIndex,
        /// What there is.
        first: LogIndex,
    },
    /// What was synced is not there any more.
    #[error("the log is damaged: {} at byte {offset}: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// How it shows.
        what: String,
    },
    /// The log of another filesystem.
    #[error("{} belongs to the filesystem {found}, this is {expected}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be.
        expected: ClusterId,
    },
    /// A log that another version wrote.
    #[error("{} has log format {found}, this program knows {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The one format that this program reads.
        known: u32,
    },
    /// An earlier write or sync failed, so what is on disk is uncertain.
    #[error("the log takes no more until it is opened anew, because: {0}")]
    Poisoned(String),
    /// Options that make no sense.
    #[error("a log file must have a multiple of 4 KiB from 16 KiB to 64 MiB, not {0} bytes")]
    FileBytes(u64),
    /// The disk or the system failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl LogError {
    pub(super) fn io(path: &Path, what: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::StorageFull { path },
            _ => Self::Io { path, what, source },
        }
    }

    pub(super) fn corrupt(path: &Path, offset: usize, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), offset: offset as u64, what: what.into() }
    }
}
