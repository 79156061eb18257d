//! Which numbered packets have arrived, and when to acknowledge them: RFC 9000, section 13.2.

use std::time::Duration;

use rangemap::RangeSet;
use selvedge_transport::Instant;

use super::rtt::PACKET_ACK_DELAY_MAX;
use crate::wire::{PacketAck, RANGES_MAX};

/// So many packets may wait for one answer (RFC 9000, section 13.2.2).
const UNANSWERED_MAX: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct Arrivals {
    seen: RangeSet<u64>,
    /// When the highest number arrived.
    latest: Option<Instant>,
    unanswered: u32,
    /// When to answer.
    due: Option<Instant>,
}

impl Arrivals {
    /// A packet has arrived and was kept.
    pub(super) fn arrived(&mut self, now: Instant, number: u64) {
        let next = self.seen.last().map_or(0, |range| range.end);
        if number >= next {
            self.latest = Some(now);
        }
        let is_in_order = number == next;
        self.seen.insert(number..number + 1);
        while self.seen.len() > RANGES_MAX
            && let Some(oldest) = self.seen.first().cloned()
        {
            self.seen.remove(oldest);
        }
        self.unanswered += 1;
        let at = if self.unanswered >= UNANSWERED_MAX || !is_in_order {
            now
        } else {
            now + PACKET_ACK_DELAY_MAX
        };
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When an answer is to be sent at the latest.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The answer, if one is due.
    pub(super) fn answer(&mut self, now: Instant) -> Option<PacketAck> {
        if self.due? > now {
            return None;
        }
        self.due = None;
        self.unanswered = 0;
        let delay = self
            .latest
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        Some(PacketAck {
            delay,
            ranges: self.seen.iter().rev().cloned().collect(),
        })
    }

    /// Answers at once, whatever was answered before.
    pub(super) const fn answer_now(&mut self, now: Instant) {
        self.due = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_packet_is_answered_and_a_single_one_after_a_while() {
        let (mut arrivals, now) = (
            Arrivals::default(),
            Instant::from_origin(Duration::from_secs(1)),
        );
        arrivals.arrived(now, 0);
        assert!(arrivals.answer(now).is_none());
        assert_eq!(arrivals.due(), Some(now + PACKET_ACK_DELAY_MAX));
        arrivals.arrived(now, 1);
        let seen = arrivals.answer(now).unwrap();
        assert_eq!(seen.ranges.first(), Some(&(0..2)));
        arrivals.arrived(now, 2);
        let later = now + PACKET_ACK_DELAY_MAX;
        assert_eq!(arrivals.answer(later).unwrap().delay, PACKET_ACK_DELAY_MAX);
        assert!(arrivals.answer(later).is_none());
    }

    #[test]
    fn a_gap_is_told_at_once_and_the_highest_range_comes_first() {
        let (mut arrivals, now) = (
            Arrivals::default(),
            Instant::from_origin(Duration::from_secs(1)),
        );
        for number in [0, 1, 5, 3] {
            arrivals.arrived(now, number);
        }
        assert_eq!(arrivals.answer(now).unwrap().ranges, vec![5..6, 3..4, 0..2]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut arrivals, now) = (
            Arrivals::default(),
            Instant::from_origin(Duration::from_secs(1)),
        );
        for number in 0..10_000 {
            arrivals.arrived(now, number * 2);
        }
        let ranges = arrivals.answer(now).unwrap().ranges;
        assert_eq!(ranges.len(), RANGES_MAX);
        assert_eq!(ranges[0], 19_998..19_999);
    }
}
