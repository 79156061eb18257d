//! Primitives by which threads synchronise. `driver/loom` replaces this file by loom's equivalents.

use std::sync::PoisonError;

pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
pub(crate) use std::sync::{Mutex, MutexGuard};

/// Locks a mutex even if a thread has panicked while it held it: the data behind the mutexes of this
/// crate is consistent after each single step of an update.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
