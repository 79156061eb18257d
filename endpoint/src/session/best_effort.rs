//! Best-effort lanes: numbered when they leave, gaps counted when they arrive.

use std::collections::VecDeque;

use bytes::Bytes;

/// Messages that wait for a frame, the oldest first out when there are too many.
#[derive(Debug, Default)]
pub(super) struct BestEffortOut {
    queue: VecDeque<Bytes>,
    bytes: usize,
    sequence: u64,
}

impl BestEffortOut {
    /// Appends messages and returns how many had to make room. A dropped message uses up its
    /// number all the same: the peer counts it as lost.
    pub(super) fn extend(&mut self, messages: VecDeque<Bytes>, limit: usize) -> u64 {
        let mut dropped = 0;
        for message in messages {
            self.bytes += message.len();
            self.queue.push_back(message);
            while self.bytes > limit && self.queue.len() > 1 {
                self.pop();
                dropped += 1;
            }
        }
        dropped
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn front_len(&self) -> usize {
        self.queue.front().map_or(0, Bytes::len)
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Bytes)> {
        let message = self.queue.pop_front()?;
        self.bytes -= message.len();
        self.sequence += 1;
        Some((self.sequence - 1, message))
    }

    pub(super) const fn restart(&mut self) {
        self.sequence = 0;
    }
}

/// What is expected next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BestEffortIn {
    expected: u64,
    /// Bytes that the user has not taken.
    waiting: u64,
}

impl BestEffortIn {
    /// Whether a message of that cost may wait for the user. Best-effort messages need no credit,
    /// so only this bound limits a flood that the user does not read.
    pub(super) const fn has_room(&mut self, cost: u64, limit: usize) -> bool {
        let has_room = self.waiting + cost <= limit as u64;
        if has_room {
            self.waiting += cost;
        }
        has_room
    }

    /// Records that the user has consumed `bytes` of the lane. Returns how many of them arrived by
    /// other means than best effort.
    pub(super) const fn consumed(&mut self, bytes: u64) -> u64 {
        let rest = bytes.saturating_sub(self.waiting);
        self.waiting = self.waiting.saturating_sub(bytes);
        rest
    }

    /// A new process sends: what waits still counts.
    pub(super) const fn restart(&mut self) {
        self.expected = 0;
    }

    /// Whether the message with that number is new, and how many before it did not arrive. One
    /// that comes late was counted as lost already, and stays lost: the order is kept.
    pub(super) const fn accept(&mut self, sequence: u64) -> Option<u64> {
        if sequence < self.expected {
            return None;
        }
        let lost = sequence - self.expected;
        self.expected = sequence + 1;
        Some(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_and_late_ones_stay_lost() {
        let mut lane = BestEffortIn::default();
        let seen: Vec<_> = [0, 1, 4, 2, 4, 5]
            .map(|sequence| lane.accept(sequence))
            .into();
        assert_eq!(seen, [Some(0), Some(0), Some(2), None, None, Some(0)]);
    }

    #[test]
    fn a_message_dropped_to_make_room_leaves_a_gap() {
        let mut lane = BestEffortOut::default();
        let messages = (0..4).map(|byte| Bytes::from(vec![byte; 4])).collect();
        assert_eq!(lane.extend(messages, 8), 2);
        assert_eq!(lane.pop().map(|(sequence, _)| sequence), Some(2));
    }
}
