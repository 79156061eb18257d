//! Counts lost, repeated and reordered results by their sequence numbers. Pure.

use std::collections::BTreeSet;

/// Counts results by the sequence number that each carries.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    sent: u64,
    received: BTreeSet<u64>,
    repeated: u64,
    reordered: u64,
}

impl Tally {
    /// Notes that the message with this number was sent. Numbers begin at 1.
    pub(crate) fn sent(&mut self, seq: u64) {
        self.sent = self.sent.max(seq);
    }

    /// Notes that the result with this number was received.
    pub(crate) fn received(&mut self, seq: u64) {
        if self.received.last().is_some_and(|&last| seq < last) {
            self.reordered += 1;
        }
        if !self.received.insert(seq) {
            self.repeated += 1;
        }
    }

    pub(crate) const fn sent_count(&self) -> u64 {
        self.sent
    }

    pub(crate) fn received_count(&self) -> u64 {
        self.received.len() as u64
    }

    pub(crate) fn lost(&self) -> u64 {
        (1..=self.sent)
            .filter(|seq| !self.received.contains(seq))
            .count() as u64
    }

    pub(crate) const fn repeated(&self) -> u64 {
        self.repeated
    }

    pub(crate) const fn reordered(&self) -> u64 {
        self.reordered
    }

    pub(crate) fn is_perfect(&self) -> bool {
        self.lost() + self.repeated + self.reordered == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_repeated_and_reordered_results_are_counted_separately() {
        let mut tally = Tally::default();
        (1..=5).for_each(|seq| tally.sent(seq));
        for seq in [1, 2, 2, 5, 4] {
            tally.received(seq);
        }
        assert_eq!((tally.sent_count(), tally.received_count()), (5, 4));
        assert_eq!(
            (tally.lost(), tally.repeated(), tally.reordered()),
            (1, 1, 1)
        );
        assert!(!tally.is_perfect());
        let mut tally = Tally::default();
        tally.sent(1);
        tally.received(1);
        assert!(tally.is_perfect());
    }
}
