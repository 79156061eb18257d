//! The time of a worker's turn, and the deadlines of everything on the worker.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use selvedge_transport::Instant;

/// What a deadline belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKey {
    /// The index of an endpoint.
    Endpoint(usize),
    /// The index of a connection, and the generation of its slot.
    Connection(usize, u32),
    /// The index of a listener.
    Listener(usize),
}

/// The clock and the timers of a worker.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The time of this turn.
    pub(super) now: Instant,
    pub(super) timers: Timers<TimerKey>,
    /// When the first endpoint had a turn, by the clock in use: the heartbeats of all endpoints are aligned
    /// to ticks from there.
    ticks_from: Option<Instant>,
}

impl Schedule {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            now,
            timers: Timers::new(),
            ticks_from: None,
        }
    }

    /// The time from which heartbeat ticks are counted.
    pub(super) fn ticks_from(&mut self) -> Instant {
        *self.ticks_from.get_or_insert(self.now)
    }

    /// Pushes a timer for the next deadline of `key`, if an earlier one than `armed` is needed.
    pub(super) fn arm(&mut self, armed: &mut Armed, deadline: Option<Instant>, key: TimerKey) {
        if let Some(at) = armed.arm(deadline) {
            self.timers.push(at, key);
        }
    }
}

/// A heap of deadlines. Entries are not removed when a deadline moves: the owner checks what is due, so a
/// late or spurious expiry does no harm.
#[derive(Debug)]
pub(super) struct Timers<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Ord + Copy> Timers<K> {
    pub(super) const fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
        }
    }

    pub(super) fn push(&mut self, at: Instant, key: K) {
        self.heap.push(Reverse((at, key)));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, key))| key)
    }
}

/// The earliest timer of one owner that is in the heap, so that a deadline is pushed once for each time it
/// moves earlier.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Armed(Option<Instant>);

impl Armed {
    /// Returns the deadline to push, if a new entry is needed.
    fn arm(&mut self, at: Option<Instant>) -> Option<Instant> {
        let at = at?;
        if self.0.is_some_and(|armed| armed <= at) {
            return None;
        }
        self.0 = Some(at);
        self.0
    }

    /// An entry has expired.
    pub(super) fn fired(&mut self, now: Instant) {
        if self.0.is_some_and(|armed| armed <= now) {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timers_expire_in_order_and_not_early() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::new();
        for ms in [30, 10, 20] {
            timers.push(after(ms), ms);
        }
        assert_eq!(timers.next(), Some(after(10)));
        assert_eq!(timers.pop_due(after(9)), None);
        let due: Vec<_> = std::iter::from_fn(|| timers.pop_due(after(25))).collect();
        assert_eq!(due, [10, 20]);
    }

    #[test]
    fn a_deadline_is_pushed_again_only_when_it_moves_earlier() {
        let start = Instant::now();
        let after = |ms| Some(start + Duration::from_millis(ms));
        let mut armed = Armed::default();
        assert_eq!(armed.arm(after(20)), after(20));
        assert_eq!(armed.arm(after(30)), None);
        assert_eq!(armed.arm(after(10)), after(10));
        armed.fired(start + Duration::from_millis(10));
        assert_eq!(armed.arm(after(30)), after(30));
    }
}
