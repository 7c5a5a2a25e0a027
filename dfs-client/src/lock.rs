//! Locks of the standard library without poisoning: what they guard here is
//! left whole by every step, so a panic elsewhere must not take the mount along.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; never held across an await.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
