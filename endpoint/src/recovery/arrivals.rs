//! Records received packet numbers and decides when to acknowledge them: RFC 9000, section 13.2.

use std::time::Duration;

use rangemap::RangeSet;
use selvedge_transport::Instant;

use super::rtt::PACKET_ACK_DELAY_MAX;
use crate::wire::{PacketAck, RANGES_MAX};

/// This many packets are acknowledged at once (RFC 9000, section 13.2.2).
const UNACKED_MAX: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct Arrivals {
    received: RangeSet<u64>,
    /// When the highest number arrived.
    latest: Option<Instant>,
    unacked: u32,
    /// When the acknowledgement is due.
    due: Option<Instant>,
}

impl Arrivals {
    /// Records a packet that arrived and was accepted.
    pub(super) fn record(&mut self, now: Instant, number: u64) {
        let next = self.received.last().map_or(0, |range| range.end);
        if number >= next {
            self.latest = Some(now);
        }
        let is_in_order = number == next;
        self.received.insert(number..number + 1);
        while self.received.len() > RANGES_MAX
            && let Some(oldest) = self.received.first().cloned()
        {
            self.received.remove(oldest);
        }
        self.unacked += 1;
        let at = if self.unacked >= UNACKED_MAX || !is_in_order {
            now
        } else {
            now + PACKET_ACK_DELAY_MAX
        };
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When an acknowledgement must be sent at the latest.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The acknowledgement to send, if one is due.
    pub(super) fn take_due_ack(&mut self, now: Instant) -> Option<PacketAck> {
        if self.due? > now {
            return None;
        }
        self.due = None;
        self.unacked = 0;
        let delay = self
            .latest
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        Some(PacketAck {
            delay,
            ranges: self.received.iter().rev().cloned().collect(),
        })
    }

    /// Makes an acknowledgement due at once, even if nothing new has arrived.
    pub(super) const fn ack_now(&mut self, now: Instant) {
        self.due = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_packet_is_acknowledged_at_once_and_a_single_one_after_a_delay() {
        let (mut arrivals, now) = (
            Arrivals::default(),
            Instant::from_origin(Duration::from_secs(1)),
        );
        arrivals.record(now, 0);
        assert!(arrivals.take_due_ack(now).is_none());
        assert_eq!(arrivals.due(), Some(now + PACKET_ACK_DELAY_MAX));
        arrivals.record(now, 1);
        let ack = arrivals.take_due_ack(now).unwrap();
        assert_eq!(ack.ranges.first(), Some(&(0..2)));
        arrivals.record(now, 2);
        let later = now + PACKET_ACK_DELAY_MAX;
        assert_eq!(
            arrivals.take_due_ack(later).unwrap().delay,
            PACKET_ACK_DELAY_MAX
        );
        assert!(arrivals.take_due_ack(later).is_none());
    }

    #[test]
    fn a_gap_is_acknowledged_at_once_and_the_highest_range_is_first() {
        let (mut arrivals, now) = (
            Arrivals::default(),
            Instant::from_origin(Duration::from_secs(1)),
        );
        for number in [0, 1, 5, 3] {
            arrivals.record(now, number);
        }
        assert_eq!(
            arrivals.take_due_ack(now).unwrap().ranges,
            vec![5..6, 3..4, 0..2]
        );
    }

    #[test]
    fn the_recorded_ranges_are_bounded() {
        let (mut arrivals, now) = (
            Arrivals::default(),
            Instant::from_origin(Duration::from_secs(1)),
        );
        for number in 0..10_000 {
            arrivals.record(now, number * 2);
        }
        let ranges = arrivals.take_due_ack(now).unwrap().ranges;
        assert_eq!(ranges.len(), RANGES_MAX);
        assert_eq!(ranges[0], 19_998..19_999);
    }
}
