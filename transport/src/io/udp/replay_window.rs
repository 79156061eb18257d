//! Anti-replay protection: each counter is accepted once (RFC 6479).

/// The length of the window, in datagrams: more than a path reorders.
const BITS: u64 = 8192;
const WORDS: usize = (BITS / 64) as usize;

/// A sliding window over the counters of one direction.
///
/// ```text
///        too old              window               next
///  ─────────────────┼────────────────────────────┼─────▶ counter
///    never accepted │   accepted once each       │ new
/// ```
#[derive(Debug)]
pub(super) struct ReplayWindow {
    /// The highest accepted counter plus one.
    next: u64,
    /// A ring of bits; the index of a counter is the counter modulo the length of the ring.
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
    /// Whether a counter is within or above the window and was not accepted before.
    pub(super) const fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < u64::MAX;
        }
        let (word, bit) = bit_position(counter);
        self.next - counter <= BITS - 64 && self.seen[word] & bit == 0
    }

    /// Marks the counter of an authentic datagram as accepted.
    pub(super) fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            // Clears the words that enter the window; they hold bits of an earlier round.
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
        fn each_counter_is_accepted_once_as_in_a_model_with_full_history(
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
    fn counters_in_order_are_accepted_once() {
        let mut replay_window = ReplayWindow::default();
        for counter in 0..3 * BITS {
            assert!(replay_window.is_new(counter), "{counter}");
            replay_window.mark(counter);
            assert!(!replay_window.is_new(counter), "{counter}");
        }
        assert!(!replay_window.is_new(0));
    }
}
