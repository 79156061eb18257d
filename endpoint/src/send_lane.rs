//! The sending half of a reliable lane: what is retained, what was sent, what may be sent.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::lane::{LaneId, Message};
use crate::outbox::Segment;
use crate::session::Misbehaved;
use crate::varint;

/// Retains the stream of one lane from the first unacknowledged byte on.
///
/// ```text
///     acked        sent       limit          end
///  ─────┼────────────┼───────────┼─────────────┼───▶ offset
///  freed│ in flight  │ may be    │ waits for   │
///       │            │ sent      │ credit      │
/// ```
/// Invariant: `acked <= sent <= sent_max <= end`, and the segments hold `start..end`, where
/// `start <= acked` is where the first segment begins.
#[derive(Debug, Default)]
pub(crate) struct SendLane {
    segments: VecDeque<Segment>,
    start: u64,
    acked: u64,
    sent: u64,
    /// The furthest that was ever sent: what a peer may acknowledge.
    sent_max: u64,
    end: u64,
    limit: u64,
    /// The segment that holds `sent`, and where it begins.
    cursor: usize,
    cursor_start: u64,
}

impl SendLane {
    pub(crate) fn push(&mut self, segment: Segment) {
        self.end += segment.bytes.len() as u64;
        self.segments.push_back(segment);
    }

    /// Whether there is something that may be sent now.
    pub(crate) fn is_sendable(&self) -> bool {
        self.sent < self.end.min(self.limit)
    }

    /// Whether everything handed in has been acknowledged.
    pub(crate) const fn is_drained(&self) -> bool {
        self.acked == self.end
    }

    pub(crate) const fn unacknowledged(&self) -> u64 {
        self.end - self.acked
    }

    /// Whether anything was ever sent or acknowledged.
    pub(crate) const fn has_moved(&self) -> bool {
        self.sent_max > 0
    }

    /// The next piece to send, at most `len_max` bytes, and its offset.
    pub(crate) fn next_piece(&mut self, len_max: usize) -> Option<(u64, Bytes)> {
        let allowed = self.end.min(self.limit).saturating_sub(self.sent);
        let segment = self.segments.get(self.cursor)?;
        let within = (self.sent - self.cursor_start) as usize;
        let rest = segment.bytes.len() - within;
        let len = rest
            .min(len_max)
            .min(usize::try_from(allowed).unwrap_or(usize::MAX));
        if len == 0 {
            return None;
        }
        let piece = segment.bytes.slice(within..within + len);
        if len == rest {
            self.cursor += 1;
            self.cursor_start += segment.bytes.len() as u64;
        }
        let offset = self.sent;
        self.sent += len as u64;
        self.sent_max = self.sent_max.max(self.sent);
        Some((offset, piece))
    }

    /// The peer has everything before `expected` and takes bytes up to `limit`. Returns how many
    /// bytes were freed. Positions behind what is known already are old news and change nothing.
    pub(crate) fn acknowledge(&mut self, expected: u64, limit: u64) -> Result<u64, Misbehaved> {
        if expected > self.sent_max {
            return Err(Misbehaved("acknowledged what was never sent"));
        }
        self.limit = self.limit.max(limit);
        let freed = expected.saturating_sub(self.acked);
        self.acked += freed;
        while let Some(first) = self.segments.front()
            && self.start + first.bytes.len() as u64 <= self.acked
        {
            self.start += first.bytes.len() as u64;
            self.cursor = self.cursor.saturating_sub(1);
            self.segments.pop_front();
        }
        if self.sent <= self.acked {
            self.rewind();
        }
        Ok(freed)
    }

    /// Sends again from the first unacknowledged byte on. Returns how many bytes that repeats.
    pub(crate) fn rewind(&mut self) -> u64 {
        let repeated = self.sent.saturating_sub(self.acked);
        self.sent = self.acked;
        self.cursor = 0;
        self.cursor_start = self.start;
        repeated
    }

    /// Begins a new stream to a peer that has forgotten the old one: hands back the messages that
    /// may have reached it, at least in part, and keeps those of which no byte was ever sent.
    /// Returns with them how many bytes they had in the stream.
    pub(crate) fn restart(&mut self, lane: LaneId) -> (Vec<Message>, u64) {
        let old = std::mem::take(self);
        let (mut undelivered, mut released) = (Vec::new(), 0);
        let mut walk = Walk {
            offset: old.start,
            segments: old.segments,
        };
        while walk.offset < old.sent_max {
            let Some((payload, end)) = walk.next_message() else {
                break;
            };
            if end > old.acked {
                undelivered.push(Message { lane, payload });
            }
        }
        released += walk.offset.max(old.acked) - old.acked;
        for segment in walk.segments {
            self.push(segment);
        }
        (undelivered, released)
    }

    /// The messages that are not acknowledged, for a session that ends.
    pub(crate) fn into_undelivered(self, lane: LaneId) -> Vec<Message> {
        let mut walk = Walk {
            offset: self.start,
            segments: self.segments,
        };
        let mut undelivered = Vec::new();
        while let Some((payload, end)) = walk.next_message() {
            if end > self.acked {
                undelivered.push(Message { lane, payload });
            }
        }
        undelivered
    }
}

/// Walks over retained segments message by message.
struct Walk {
    segments: VecDeque<Segment>,
    offset: u64,
}

impl Walk {
    /// The next message and the offset behind it. A segment begins with a message's length, except
    /// that a body is one payload whose length ended the segment before it.
    fn next_message(&mut self) -> Option<(Bytes, u64)> {
        let mut segment = self.segments.pop_front()?;
        let before = segment.bytes.len();
        if !segment.is_body {
            let len = varint::get(&mut segment.bytes)?;
            if segment.bytes.is_empty() && len > 0 {
                self.offset += before as u64;
                return self.next_message();
            }
            let payload = segment.bytes.split_to(usize::try_from(len).ok()?);
            self.offset += (before - segment.bytes.len()) as u64;
            if !segment.bytes.is_empty() {
                self.segments.push_front(segment);
            }
            return Some((payload, self.offset));
        }
        self.offset += before as u64;
        Some((segment.bytes, self.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::outbox::Outbox;

    fn lane_with(payloads: &[&[u8]]) -> SendLane {
        let mut outbox = Outbox::new(&Config::default());
        let mut lane = SendLane {
            limit: u64::MAX,
            ..SendLane::default()
        };
        for payload in payloads {
            outbox
                .push(LaneId::FIRST, Bytes::copy_from_slice(payload))
                .unwrap();
        }
        outbox.drain(|_, segment| lane.push(segment));
        lane
    }

    fn sent_all(lane: &mut SendLane, len_max: usize) -> Vec<u8> {
        let mut stream = Vec::new();
        while let Some((_, piece)) = lane.next_piece(len_max) {
            stream.extend_from_slice(&piece);
        }
        stream
    }

    #[test]
    fn a_rewound_lane_repeats_from_the_first_unacknowledged_byte() {
        let large = vec![9; 10_000];
        let mut lane = lane_with(&[b"one", &large, b"three"]);
        let stream = sent_all(&mut lane, 64);
        for acked in 0..=stream.len() {
            lane.acknowledge(acked as u64, 0).unwrap();
            let repeated = lane.rewind();
            assert_eq!(repeated as usize, stream.len() - acked);
            assert_eq!(
                sent_all(&mut lane, 999),
                stream[acked..],
                "acknowledged {acked}"
            );
        }
        assert!(lane.is_drained() && lane.segments.is_empty());
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_refused() {
        let mut lane = lane_with(&[b"hello"]);
        assert!(lane.next_piece(3).is_some());
        assert!(lane.acknowledge(4, 0).is_err());
        assert_eq!(lane.acknowledge(3, 0).unwrap(), 3);
    }

    #[test]
    fn nothing_is_sent_beyond_the_limit() {
        let mut lane = lane_with(&[b"hello"]);
        lane.limit = 4;
        assert_eq!(sent_all(&mut lane, 64), b"\x05hel");
        lane.acknowledge(0, 6).unwrap();
        assert_eq!(sent_all(&mut lane, 64), b"lo");
    }

    #[test]
    fn a_restart_hands_back_what_left_and_keeps_what_did_not() {
        let large = vec![9; 10_000];
        let payloads: [&[u8]; 4] = [b"acked", b"sent", &large, b"kept"];
        let mut lane = lane_with(&payloads);
        lane.next_piece(11 + 2).unwrap();
        lane.next_piece(1).unwrap();
        lane.acknowledge(6, 0).unwrap();
        let (undelivered, released) = lane.restart(LaneId::FIRST);
        let texts: Vec<&[u8]> = undelivered
            .iter()
            .map(|message| &message.payload[..])
            .collect();
        assert_eq!(texts, [&b"sent"[..], &large]);
        assert_eq!(released as usize, 5 + 2 + large.len());
        lane.limit = u64::MAX;
        assert_eq!(sent_all(&mut lane, 64), b"\x04kept");
        assert_eq!(lane.into_undelivered(LaneId::FIRST).len(), 1);
    }
}
