//! What threads meet at. `driver/loom` puts loom's in its place, and tries every order of threads.

use std::sync::PoisonError;

pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
pub(crate) use std::sync::{Mutex, MutexGuard};

/// Locks, whoever panicked while holding it: every update of what is locked here is complete at each
/// step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
