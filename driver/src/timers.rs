//! Deadlines of many things, the earliest first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use selvedge_transport::Instant;

/// A heap of deadlines. Entries are not removed when a deadline moves: whoever is called asks
/// itself what is due, so that a late or spurious call does no harm.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Ord + Copy> Timers<K> {
    pub(crate) const fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
        }
    }

    pub(crate) fn push(&mut self, at: Instant, key: K) {
        self.heap.push(Reverse((at, key)));
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, key))| key)
    }
}

/// When a thing is next called, so that the heap holds it once for each time it moves earlier.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Armed(Option<Instant>);

impl Armed {
    /// Whether a deadline at `at` needs a new entry.
    pub(crate) fn arm(&mut self, at: Option<Instant>) -> Option<Instant> {
        let at = at?;
        if self.0.is_some_and(|armed| armed <= at) {
            return None;
        }
        self.0 = Some(at);
        self.0
    }

    /// An entry has come up.
    pub(crate) fn fired(&mut self, now: Instant) {
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
    fn the_earliest_comes_first_and_none_before_its_time() {
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
    fn a_deadline_is_entered_again_only_when_it_moves_earlier() {
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
