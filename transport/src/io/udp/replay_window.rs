//! Which counters have been seen, so that no datagram counts twice (RFC 6479).

/// How far back is remembered, in datagrams: more than any window in flight reorders.
const BITS: u64 = 8192;
const WORDS: usize = (BITS / 64) as usize;

/// A window over the counters of one direction.
///
/// ```text
///        too old            remembered            next
///  ─────────────────┼────────────────────────────┼─────▶ counter
///    never taken    │ taken once each            │ new
/// ```
#[derive(Debug)]
pub(super) struct ReplayWindow {
    /// One more than the highest counter seen.
    next: u64,
    /// A ring: the bit of a counter is at the counter modulo the length.
    seen: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            next: 0,
            seen: [0; WORDS],
        }
    }
}

const fn bit_position(counter: u64) -> (usize, u64) {
    let bit = counter % BITS;
    ((bit / 64) as usize, 1 << (bit % 64))
}

impl ReplayWindow {
    /// Whether a datagram with that counter has not been seen, as far as is remembered.
    pub(super) const fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < u64::MAX;
        }
        let (word, bit) = bit_position(counter);
        self.next - counter <= BITS - 64 && self.seen[word] & bit == 0
    }

    /// It has been seen, and was authentic.
    pub(super) fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            // Words that come into the window hold bits of a turn ago.
            let (from, to) = (self.next.div_ceil(64), counter / 64);
            let fresh = (to + 1).saturating_sub(from).min(WORDS as u64);
            for word in (to + 1 - fresh)..=to {
                self.seen[(word % WORDS as u64) as usize] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = bit_position(counter);
        self.seen[word] |= bit;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_counter_is_taken_once_as_a_full_memory_would(
            steps in prop::collection::vec((-300_i64..300, 0..40_u64), 1..400),
        ) {
            let (mut replay_window, mut seen, mut at) = (ReplayWindow::default(), HashSet::new(), 20_000_i64);
            for (step, leap) in steps {
                at += step + if leap == 0 { 9_000 } else { 0 };
                let counter = at as u64;
                let highest = seen.iter().copied().max().unwrap_or(0);
                let is_new = replay_window.is_new(counter);
                if counter + BITS - 64 > highest {
                    prop_assert_eq!(is_new, !seen.contains(&counter));
                } else {
                    prop_assert!(!is_new, "{} is too far behind {}", counter, highest);
                }
                if is_new {
                    replay_window.mark(counter);
                    seen.insert(counter);
                }
            }
        }
    }

    #[test]
    fn a_stream_in_order_is_all_new_and_none_of_it_twice() {
        let mut replay_window = ReplayWindow::default();
        for counter in 0..3 * BITS {
            assert!(replay_window.is_new(counter), "{counter}");
            replay_window.mark(counter);
            assert!(!replay_window.is_new(counter), "{counter}");
        }
        assert!(!replay_window.is_new(0));
    }
}
