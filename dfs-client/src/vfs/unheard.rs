//! Losses that nobody could be told of: who wrote the file had closed it before it turned out that its data cannot be
//! saved.
//!
//! As with an error that Linux notes for a file, the first to ask is told: fsync of a handle that was opened later.
//! And who gives such a file another name (`mv new old` of a program that does not fsync) would put what is left of
//! it in the place of a whole one, so rename and link are refused, once.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_core::id::Ino;

use crate::error::FsError;
use crate::lock::lock;

/// Files remembered; of more than these only the log tells.
const FILES: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Unheard {
    /// Whether there may be any: as a rule nothing was ever lost.
    any: AtomicBool,
    files: Mutex<HashMap<Ino, FsError>>,
}

impl Unheard {
    /// Data of a file is lost, and it is not open.
    pub(crate) fn add(&self, ino: Ino, why: FsError) {
        let mut files = lock(&self.files);
        if files.len() < FILES || files.contains_key(&ino) {
            files.insert(ino, why);
        }
        self.any.store(true, Ordering::Release);
    }

    /// Whether there may be any.
    pub(crate) fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// What was lost of a file, for who can be told now.
    pub(crate) fn get(&self, ino: Ino) -> Option<FsError> {
        if self.is_any() { lock(&self.files).get(&ino).cloned() } else { None }
    }

    /// Somebody was told, or the file is empty or gone: nobody needs to be.
    pub(crate) fn take(&self, ino: Ino) -> Option<FsError> {
        if !self.is_any() {
            return None;
        }
        let mut files = lock(&self.files);
        let taken = files.remove(&ino);
        if files.is_empty() {
            self.any.store(false, Ordering::Release);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_once_and_not_more_are_kept_than_there_is_room_for() {
        let unheard = Unheard::default();
        assert_eq!((unheard.get(Ino(5)), unheard.take(Ino(5))), (None, None));
        unheard.add(Ino(5), FsError::NoSpace);
        assert_eq!(unheard.get(Ino(5)), Some(FsError::NoSpace));
        assert_eq!((unheard.take(Ino(5)), unheard.take(Ino(5))), (Some(FsError::NoSpace), None));
        assert!(!unheard.is_any());
        for n in 0..=FILES as u64 {
            unheard.add(Ino(n), FsError::NoSpace);
        }
        assert_eq!((unheard.get(Ino(FILES as u64)), lock(&unheard.files).len()), (None, FILES));
    }
}
