//! What can go wrong for a caller of the filesystem, and the number it gets for it.

use dfs_core::error::Refusal;

/// Why a call did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// A definite answer: nothing was done.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// A fault: a server is away, too slow or wrong. A change may or may not have happened.
    #[error("input/output error: {0}")]
    Io(String),
    /// Something of this machine that the configuration names cannot be used; says what, why, and what to do.
    #[error("{0}")]
    Unusable(String),
    /// The file was removed by another client and is gone, though it is held open here.
    #[error("the file is gone: it was removed by another client")]
    Gone,
    /// No store has room.
    #[error("no space left on any store")]
    NoSpace,
    /// The caller has a signal to attend to.
    #[error("interrupted")]
    Interrupted,
}

impl FsError {
    /// The Linux errno of this error.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused(refusal) => refusal.errno(),
            Self::Io(_) | Self::Unusable(_) => libc::EIO,
            Self::Gone => libc::ESTALE,
            Self::NoSpace => libc::ENOSPC,
            Self::Interrupted => libc::EINTR,
        }
    }

    /// An I/O fault in words.
    pub(crate) fn io(what: impl Into<String>) -> Self {
        Self::Io(what.into())
    }
}

/// Result of a call into the filesystem.
pub type FsResult<T> = Result<T, FsError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_linux() {
        assert_eq!(FsError::from(Refusal::NotEmpty).errno(), libc::ENOTEMPTY);
        assert_eq!(FsError::io("x").errno(), libc::EIO);
        assert_eq!(FsError::Gone.errno(), libc::ESTALE);
        assert_eq!(FsError::NoSpace.errno(), libc::ENOSPC);
        assert_eq!(FsError::Interrupted.errno(), libc::EINTR);
    }
}
