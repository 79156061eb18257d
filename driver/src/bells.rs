//! How who rings for an endpoint finds the worker on which it lives, while it moves.
//!
//! ```text
//!  producer ── puts in, then Bell::ring ──▶ Entrance::ring of its home ── wakes ──▶ worker
//!                                                                                  │ Bell::find
//!                         the entrance of its new home ◀── it has moved meanwhile ─┤
//!                                         Bell::answer, then looks what was put in ┘
//! ```
//!
//! What must hold: when something was put in, and whatever moved meanwhile, the worker that has the
//! endpoint looks once more. `driver/loom` checks this file, as it is, in every order of threads.

use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, fence, lock};

/// What hangs at an endpoint, wherever that lives.
#[derive(Debug)]
pub(crate) struct Bell {
    /// Whether it was rung and nobody has looked yet.
    rung: AtomicBool,
    /// The worker on which the endpoint lives, or to which it is on its way.
    home: AtomicUsize,
    /// Where it is among the endpoints of that worker, which checks it.
    place: AtomicUsize,
}

/// Where an endpoint is to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// At this place here. If it is not there, it is on its way here and is served when it arrives,
    /// since the bell stays rung till then.
    Here { place: usize },
    /// On another worker.
    Moved { home: usize },
}

impl Bell {
    /// The bell of an endpoint that is on its way to its first home, where it is served anyway.
    pub(crate) fn new(home: usize) -> Self {
        Self {
            rung: AtomicBool::new(true),
            home: AtomicUsize::new(home),
            place: AtomicUsize::new(0),
        }
    }

    /// To be called when something was put in. Returns the worker to tell, once until it looks.
    ///
    /// Looks before it swaps: a producer in full flow finds the bell rung, and leaves the line where
    /// it lies in both caches. No word is lost by that. What was put in lies behind a lock that the
    /// worker takes after [`answer`](Self::answer): put in too late for this look, it came behind the
    /// worker in that lock, and so sees that the bell was answered.
    #[inline]
    pub(crate) fn ring(&self) -> Option<usize> {
        if self.rung.load(Ordering::Acquire) {
            return None;
        }
        let is_first = !self.rung.swap(true, Ordering::AcqRel);
        is_first.then(|| self.home.load(Ordering::Acquire))
    }

    /// Where to look, as seen from a worker that was told.
    pub(crate) fn find(&self, worker: usize) -> Found {
        match self.home.load(Ordering::Acquire) {
            home if home != worker => Found::Moved { home },
            _ => Found::Here {
                place: self.place.load(Ordering::Relaxed),
            },
        }
    }

    /// The worker on which the endpoint lives, or to which it is on its way.
    pub(crate) fn home(&self) -> usize {
        self.home.load(Ordering::Acquire)
    }

    /// The endpoint has arrived.
    pub(crate) fn settle(&self, place: usize) {
        self.place.store(place, Ordering::Relaxed);
    }

    /// To be called before what puts things in on the worker itself, which then
    /// [answers](Self::answer) and looks: until then nobody needs to tell it.
    pub(crate) fn hold(&self) {
        self.rung.store(true, Ordering::Release);
    }

    /// To be called before what was put in is looked at: who comes later rings again.
    pub(crate) fn answer(&self) {
        self.rung.store(false, Ordering::Release);
    }

    /// The endpoint leaves. From here on bells go to its new home; they stay rung until it has been
    /// served there.
    pub(crate) fn leave_for(&self, home: usize) {
        self.rung.store(true, Ordering::Release);
        self.home.store(home, Ordering::Release);
    }
}

/// Where a worker is told of bells, and where endpoints come in.
#[derive(Debug)]
pub(crate) struct Entrance<B, E> {
    /// Each endpoint is in it about once: `Bell::rung`. `None` once nobody listens: bells that hang at
    /// what holds this entrance would keep each other for good.
    rung: Mutex<Option<Vec<B>>>,
    /// Endpoints on their way here; `None` once the worker has stopped. A list and not a command:
    /// two workers that exchange endpoints must not wait for each other.
    arrivals: Mutex<Option<Vec<E>>>,
    sleeps: AtomicBool,
}

impl<B, E> Entrance<B, E> {
    pub(crate) fn new() -> Self {
        Self {
            rung: Mutex::new(Some(Vec::new())),
            arrivals: Mutex::new(Some(Vec::new())),
            sleeps: AtomicBool::new(false),
        }
    }

    /// Tells of a bell. [`must_wake`](Self::must_wake) is to be asked next.
    pub(crate) fn ring(&self, bell: B) {
        if let Some(rung) = &mut *lock(&self.rung) {
            rung.push(bell);
        }
    }

    /// Hands an endpoint over, or back when the worker has stopped. [`must_wake`](Self::must_wake) is
    /// to be asked next.
    pub(crate) fn adopt(&self, endpoint: E) -> Result<(), E> {
        match &mut *lock(&self.arrivals) {
            Some(arrivals) => arrivals.push(endpoint),
            None => return Err(endpoint),
        }
        Ok(())
    }

    /// Puts those that have rung into `into`, which is empty: the next ones find its memory.
    pub(crate) fn take_rung(&self, into: &mut Vec<B>) {
        if let Some(rung) = &mut *lock(&self.rung) {
            std::mem::swap(rung, into);
        }
    }

    pub(crate) fn take_arrivals(&self) -> Vec<E> {
        let mut arrivals = lock(&self.arrivals);
        arrivals.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether anything was put in.
    pub(crate) fn has_any(&self) -> bool {
        let has_rung = lock(&self.rung).as_ref().is_some_and(|it| !it.is_empty());
        let has_arrivals = || {
            lock(&self.arrivals)
                .as_ref()
                .is_some_and(|it| !it.is_empty())
        };
        has_rung || has_arrivals()
    }

    /// The worker stops: returns what has arrived, and lets nothing more in.
    pub(crate) fn shut(&self) -> Vec<E> {
        lock(&self.arrivals).take().unwrap_or_default()
    }

    /// The worker is gone: bells are not kept any more.
    pub(crate) fn abandon(&self) {
        let _unheard = lock(&self.rung).take();
    }

    /// Whether the worker sleeps and must be woken, by the caller. Something was put in before.
    pub(crate) fn must_wake(&self) -> bool {
        // Pairs with the fence in `sleep`: either the worker sees what was put in before, or this
        // sees that it sleeps. The locks order it for what lies behind them; commands have none.
        fence(Ordering::SeqCst);
        self.sleeps.swap(false, Ordering::AcqRel)
    }

    /// Calls `sleep`, with whether it may sleep: nothing was put in here, nor elsewhere as
    /// `is_empty` says.
    pub(crate) fn sleep<T>(
        &self,
        is_empty: impl FnOnce() -> bool,
        sleep: impl FnOnce(bool) -> T,
    ) -> T {
        self.sleeps.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        let may_sleep = is_empty() && !self.has_any();
        let slept = sleep(may_sleep);
        self.sleeps.store(false, Ordering::Release);
        slept
    }
}
