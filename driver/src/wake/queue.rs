//! Wake-ups find the worker on which an endpoint lives, also while the endpoint moves.
//!
//! ```text
//!  producer ── enqueues, then WakeFlag::set ──▶ WakeQueue::push of its worker ── wakes ──▶ worker
//!                                                                                          │ WakeFlag::locate
//!                       the wake queue of the new worker ◀── endpoint has moved meanwhile ─┤
//!                                 WakeFlag::clear, then looks at what was enqueued ────────┘
//! ```
//!
//! Invariant: after something was enqueued, the worker that has the endpoint looks at it once more,
//! however the endpoint moves meanwhile. `driver/loom` checks this file, unchanged, under every order of
//! threads.

use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, fence, lock};

/// The wake flag of one endpoint, and where the endpoint lives.
#[derive(Debug)]
pub(crate) struct WakeFlag {
    /// Whether a wake-up is pending: requested, and the worker has not looked since.
    is_set: AtomicBool,
    /// The worker on which the endpoint lives, or to which it is moving.
    home: AtomicUsize,
    /// The index of the endpoint in the table of that worker, which verifies it.
    place: AtomicUsize,
}

/// Where a worker that was woken for an endpoint finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Location {
    /// On this worker, at this index. If it is not there, it is moving here and has its turn when it
    /// arrives, since the flag stays set until then.
    Here { place: usize },
    /// On another worker.
    Moved { home: usize },
}

impl WakeFlag {
    /// The flag of an endpoint that is moving to its first home, where it has a turn anyway.
    pub(crate) fn new(home: usize) -> Self {
        Self {
            is_set: AtomicBool::new(true),
            home: AtomicUsize::new(home),
            place: AtomicUsize::new(0),
        }
    }

    /// Call after something was enqueued. Returns the worker to wake, if no wake-up was pending.
    ///
    /// The flag is loaded before it is swapped: under load a producer finds it set, and the cache line
    /// stays shared. No wake-up is lost by that. The enqueued data is behind a lock that the worker
    /// takes after [`clear`](Self::clear): data enqueued too late for this look was enqueued after the
    /// worker held that lock, so its producer sees the flag cleared.
    #[inline]
    pub(crate) fn set(&self) -> Option<usize> {
        if self.is_set.load(Ordering::Acquire) {
            return None;
        }
        let is_first = !self.is_set.swap(true, Ordering::AcqRel);
        is_first.then(|| self.home.load(Ordering::Acquire))
    }

    /// Locates the endpoint, as seen from a worker that was woken for it.
    pub(crate) fn locate(&self, worker: usize) -> Location {
        match self.home.load(Ordering::Acquire) {
            home if home != worker => Location::Moved { home },
            _ => Location::Here {
                place: self.place.load(Ordering::Relaxed),
            },
        }
    }

    /// The worker on which the endpoint lives, or to which it is moving.
    pub(crate) fn home(&self) -> usize {
        self.home.load(Ordering::Acquire)
    }

    /// The endpoint has arrived on its worker, at this index.
    pub(crate) fn settle(&self, place: usize) {
        self.place.store(place, Ordering::Relaxed);
    }

    /// Call on the worker before code that may enqueue; the worker [clears](Self::clear) the flag and
    /// drains afterwards, so wake-ups are suppressed until then.
    pub(crate) fn suppress(&self) {
        self.is_set.store(true, Ordering::Release);
    }

    /// Call before the queues are drained: data enqueued later requests another wake-up.
    pub(crate) fn clear(&self) {
        self.is_set.store(false, Ordering::Release);
    }

    /// The endpoint leaves for another worker, which receives all wake-ups from now on. The flag stays
    /// set until the endpoint has had its turn there.
    pub(crate) fn move_to(&self, home: usize) {
        self.is_set.store(true, Ordering::Release);
        self.home.store(home, Ordering::Release);
    }
}

/// The endpoints of one worker that wait for a turn.
#[derive(Debug)]
pub(crate) struct WakeQueue<E> {
    /// Holds each endpoint about once, due to [`WakeFlag`]. `None` once the worker has ended: endpoints
    /// hold this queue, and an endpoint in it would keep itself alive.
    pending: Mutex<Option<Vec<E>>>,
    is_asleep: AtomicBool,
}

impl<E> WakeQueue<E> {
    pub(crate) fn new() -> Self {
        Self {
            pending: Mutex::new(Some(Vec::new())),
            is_asleep: AtomicBool::new(false),
        }
    }

    /// Enqueues an endpoint. Call [`must_wake`](Self::must_wake) next.
    pub(crate) fn push(&self, endpoint: E) {
        if let Some(pending) = &mut *lock(&self.pending) {
            pending.push(endpoint);
        }
    }

    /// Swaps the queue with `into`, which is empty, so that its memory is reused.
    pub(crate) fn take_pending(&self, into: &mut Vec<E>) {
        if let Some(pending) = &mut *lock(&self.pending) {
            std::mem::swap(pending, into);
        }
    }

    pub(crate) fn has_pending(&self) -> bool {
        let pending = lock(&self.pending);
        pending.as_ref().is_some_and(|it| !it.is_empty())
    }

    /// Drops the queued endpoints, and all later ones: the worker has ended.
    pub(crate) fn abandon(&self) {
        let _dropped_after_the_lock = lock(&self.pending).take();
    }

    /// Whether the worker sleeps and the caller must wake it. Call after something was enqueued.
    pub(crate) fn must_wake(&self) -> bool {
        // Pairs with the fence in `sleep`: either the worker sees what was enqueued before, or this
        // thread sees that the worker sleeps. Locks order the queues behind them; commands have none.
        fence(Ordering::SeqCst);
        self.is_asleep.swap(false, Ordering::AcqRel)
    }

    /// Calls `sleep` with whether it may block: this queue is empty, and `is_empty` returns true for the
    /// other queues of the worker.
    pub(crate) fn sleep<T>(
        &self,
        is_empty: impl FnOnce() -> bool,
        sleep: impl FnOnce(bool) -> T,
    ) -> T {
        self.is_asleep.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        let may_sleep = is_empty() && !self.has_pending();
        let slept = sleep(may_sleep);
        self.is_asleep.store(false, Ordering::Release);
        slept
    }
}

/// The endpoints that are moving to one worker. A list and not a command: two workers that exchange
/// endpoints must not block on each other's channel.
#[derive(Debug)]
pub(crate) struct Migrants<E>(Mutex<Option<Vec<E>>>);

impl<E> Migrants<E> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    /// Adds an endpoint, or returns it when the worker has stopped. [`WakeQueue::must_wake`] is to be
    /// called next.
    pub(crate) fn push(&self, endpoint: E) -> Result<(), E> {
        match &mut *lock(&self.0) {
            Some(migrants) => migrants.push(endpoint),
            None => return Err(endpoint),
        }
        Ok(())
    }

    pub(crate) fn take(&self) -> Vec<E> {
        let mut migrants = lock(&self.0);
        migrants.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).as_ref().is_none_or(Vec::is_empty)
    }

    /// The worker stops: returns the endpoints that have arrived, and refuses later ones.
    pub(crate) fn close(&self) -> Vec<E> {
        lock(&self.0).take().unwrap_or_default()
    }
}
