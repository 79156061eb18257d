//! Threads and tasks that wait for a change of data behind a lock.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::sync::lock;

/// Threads and tasks that wait for one condition on the data behind one lock.
///
/// A waiter registers before it checks, or under that lock, and the notifier has held the same lock in
/// between, so no wake-up is lost. Mostly there is no waiter: then [`notify`](Self::notify) makes no
/// system call, which a bare condition variable would.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    asleep: AtomicUsize,
    has_tasks: AtomicBool,
    threads: Condvar,
    tasks: Mutex<Vec<Waker>>,
}

impl Waiters {
    /// Blocks the thread until the next [`notify`](Self::notify), or spuriously shorter.
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.asleep.fetch_add(1, Ordering::Relaxed);
        let waited = self.threads.wait(guard);
        self.asleep.fetch_sub(1, Ordering::Relaxed);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, for `timeout` at most.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        self.asleep.fetch_add(1, Ordering::Relaxed);
        let waited = self.threads.wait_timeout(guard, timeout);
        self.asleep.fetch_sub(1, Ordering::Relaxed);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Registers a task for the next [`notify`](Self::notify). Call before the condition is checked.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut tasks = lock(&self.tasks);
        if !tasks.iter().any(|known| known.will_wake(waker)) {
            tasks.push(waker.clone());
        }
        self.has_tasks.store(true, Ordering::Relaxed);
    }

    /// Wakes all waiters. The data was changed under its lock before.
    pub(crate) fn notify(&self) {
        if self.asleep.load(Ordering::Relaxed) > 0 {
            self.threads.notify_all();
        }
        if self.has_tasks.load(Ordering::Relaxed) {
            let mut tasks = lock(&self.tasks);
            self.has_tasks.store(false, Ordering::Relaxed);
            let woken = std::mem::take(&mut *tasks);
            drop(tasks);
            woken.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn each_change_wakes_the_thread_and_the_task_that_wait_for_it() {
        let (turn, waiters) = (Mutex::new(0_u32), Waiters::default());
        let (waker, woken) = counting_waker();
        std::thread::scope(|scope| {
            let pass = |from: u32| {
                let mut turn = lock(&turn);
                while *turn % 2 != from {
                    turn = waiters.wait(turn);
                }
                *turn += 1;
                drop(turn);
                waiters.notify();
            };
            scope.spawn(move || (0..2000).for_each(|_| pass(1)));
            (0..2000).for_each(|_| pass(0));
        });
        assert_eq!(*lock(&turn), 4000);
        waiters.notify();
        waiters.register(&waker);
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        waiters.notify();
        waiters.notify();
        assert_eq!(woken.load(Ordering::Relaxed), 1);
    }

    /// A waker, and how often it was used.
    fn counting_waker() -> (Waker, Arc<AtomicUsize>) {
        struct CountingWaker(Arc<AtomicUsize>);
        impl std::task::Wake for CountingWaker {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let woken = Arc::<AtomicUsize>::default();
        (Arc::new(CountingWaker(Arc::clone(&woken))).into(), woken)
    }
}
