//! What producers hand in: messages, laid one behind the other into the streams of their lanes.
//!
//! An [`Outbox`] is what the threads that send share (behind a lock of the driver's); the session
//! empties it in batches. A small message is copied next to its predecessor, so that a burst of
//! them is one piece of memory, one frame and one acknowledgement; a large one stays where it lies.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::config::Config;
use crate::error::SendError;
use crate::lane::{BEST_EFFORT_LEN_MAX, Delivery, LaneId, cost};
use crate::varint;

/// Payloads up to this many bytes are copied into a chunk; longer ones are kept as they came.
/// Copying 4 KiB costs 40 ns (perf.md T7), about what keeping a reference of its own does.
const COPY_LEN_MAX: usize = 4096;

/// Chunks grow from the first to the second size while bursts fill them: an endpoint that sends
/// little holds little, one that sends much fills whole frames.
const CHUNK_LEN_MIN: usize = 1024;
const CHUNK_LEN_MAX: usize = 64 * 1024;

/// A piece of a lane's stream, retained until it is acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) bytes: Bytes,
    /// Whether this is the payload of one large message, whose length ends the segment before.
    pub(crate) is_body: bool,
}

/// What producers handed in and the session has not taken yet.
#[derive(Debug)]
pub struct Outbox {
    lanes: Vec<LaneOutbox>,
    /// Bytes accepted and not yet acknowledged, of all reliable lanes, taken or not.
    used: u64,
    send_buffer: u64,
    best_effort_buffer: usize,
    message_max: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct LaneOutbox {
    delivery: Delivery,
    open: BytesMut,
    chunk_len: usize,
    segments: Vec<Segment>,
    best_effort: VecDeque<Bytes>,
    best_effort_bytes: usize,
    best_effort_dropped: u64,
}

impl Outbox {
    /// An empty outbox with the lanes and limits of `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let lane = |lane: &crate::lane::LaneConfig| LaneOutbox {
            delivery: lane.delivery,
            chunk_len: CHUNK_LEN_MIN,
            ..LaneOutbox::default()
        };
        Self {
            lanes: config.lanes.iter().map(lane).collect(),
            used: 0,
            send_buffer: config.send_buffer,
            best_effort_buffer: config.best_effort_buffer,
            message_max: config.message_max,
            closed: false,
        }
    }

    /// Accepts a message, or hands it back.
    ///
    /// A best-effort message is always accepted; when the lane's buffer is full its oldest message
    /// makes room, and is counted.
    ///
    /// # Errors
    /// [`SendError`]; each variant holds the payload.
    pub fn push(&mut self, lane: LaneId, payload: Bytes) -> Result<(), SendError> {
        if self.closed {
            return Err(SendError::Closed(payload));
        }
        let Some(outbox) = self.lanes.get_mut(lane.index()) else {
            return Err(SendError::UnknownLane(payload));
        };
        match outbox.delivery {
            Delivery::Reliable if payload.len() > self.message_max => Err(SendError::TooLarge {
                payload,
                message_max: self.message_max,
            }),
            Delivery::Reliable => {
                let cost = cost(payload.len());
                // One message may be larger than the whole buffer: alone it is let in.
                if self.used > 0 && self.used + cost > self.send_buffer {
                    return Err(SendError::Full(payload));
                }
                self.used += cost;
                outbox.push(payload);
                Ok(())
            }
            Delivery::BestEffort if payload.len() > BEST_EFFORT_LEN_MAX => {
                Err(SendError::TooLarge {
                    payload,
                    message_max: BEST_EFFORT_LEN_MAX,
                })
            }
            Delivery::BestEffort => {
                outbox.push_best_effort(payload, self.best_effort_buffer);
                Ok(())
            }
        }
    }

    /// Whether a reliable message of `len` bytes would be accepted now, as far as room goes.
    #[must_use]
    pub const fn has_room_for(&self, len: usize) -> bool {
        self.closed || self.used == 0 || self.used + cost(len) <= self.send_buffer
    }

    /// Bytes accepted and not yet acknowledged.
    #[must_use]
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// Refuses every message from now on.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether messages are refused for good.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn release(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.used, "released {bytes} of {}", self.used);
        self.used = self.used.saturating_sub(bytes);
    }

    /// Calls `take` with what was handed in on each reliable lane, in order.
    pub(crate) fn drain(&mut self, mut take: impl FnMut(LaneId, Segment)) {
        for (number, lane) in (0..).zip(&mut self.lanes) {
            let Some(id) = LaneId::new(number) else { break };
            lane.seal();
            for segment in lane.segments.drain(..) {
                take(id, segment);
            }
        }
    }

    /// Takes the best-effort messages of a lane and how many were dropped to make room.
    pub(crate) fn drain_best_effort(&mut self, lane: LaneId) -> (VecDeque<Bytes>, u64) {
        let Some(lane) = self.lanes.get_mut(lane.index()) else {
            return Default::default();
        };
        lane.best_effort_bytes = 0;
        (
            std::mem::take(&mut lane.best_effort),
            std::mem::take(&mut lane.best_effort_dropped),
        )
    }
}

impl LaneOutbox {
    fn push(&mut self, payload: Bytes) {
        let copied = payload.len() <= COPY_LEN_MAX;
        let needed = varint::len(payload.len() as u64) + if copied { payload.len() } else { 0 };
        if self.open.capacity() - self.open.len() < needed {
            self.grow(needed);
        }
        varint::put(payload.len() as u64, &mut self.open);
        if copied {
            self.open.put_slice(&payload);
        } else {
            self.cut();
            self.segments.push(Segment {
                bytes: payload,
                is_body: true,
            });
        }
    }

    /// Begins a new chunk, twice as large as the last one if that was filled by one burst.
    fn grow(&mut self, needed: usize) {
        if !self.open.is_empty() {
            self.chunk_len = (self.chunk_len * 2).min(CHUNK_LEN_MAX);
        }
        self.cut();
        self.open = BytesMut::with_capacity(self.chunk_len.max(needed));
    }

    fn cut(&mut self) {
        if !self.open.is_empty() {
            let bytes = self.open.split().freeze();
            self.segments.push(Segment {
                bytes,
                is_body: false,
            });
        }
    }

    /// Ends the burst: what is open becomes a segment, and the next chunk is smaller if this one
    /// was hardly used.
    fn seal(&mut self) {
        if self.segments.is_empty() && self.open.len() < self.chunk_len / 8 {
            self.chunk_len = (self.chunk_len / 2).max(CHUNK_LEN_MIN);
        }
        self.cut();
    }

    fn push_best_effort(&mut self, payload: Bytes, limit: usize) {
        self.best_effort_bytes += payload.len();
        self.best_effort.push_back(payload);
        while self.best_effort_bytes > limit && self.best_effort.len() > 1 {
            let Some(oldest) = self.best_effort.pop_front() else {
                break;
            };
            self.best_effort_bytes -= oldest.len();
            self.best_effort_dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::LaneConfig;

    fn stream_of(outbox: &mut Outbox, lane: LaneId) -> Vec<u8> {
        let mut stream = Vec::new();
        outbox.drain(|from, segment| {
            if from == lane {
                stream.extend_from_slice(&segment.bytes);
            }
        });
        stream
    }

    #[test]
    fn messages_lie_in_the_stream_as_length_and_bytes() {
        let mut outbox = Outbox::new(&Config::default());
        let large = vec![7; COPY_LEN_MAX + 1];
        for payload in [&b"ab"[..], b"", &large, b"c"] {
            outbox
                .push(LaneId::FIRST, Bytes::copy_from_slice(payload))
                .unwrap();
        }
        let mut expected = b"\x02ab\x00".to_vec();
        varint::put(large.len() as u64, &mut expected);
        expected.extend_from_slice(&large);
        expected.extend_from_slice(b"\x01c");
        assert_eq!(outbox.used(), expected.len() as u64);
        assert_eq!(stream_of(&mut outbox, LaneId::FIRST), expected);
    }

    #[test]
    fn a_full_outbox_hands_the_message_back() {
        let config = Config {
            send_buffer: 100,
            ..Config::default()
        };
        let mut outbox = Outbox::new(&config);
        outbox
            .push(LaneId::FIRST, Bytes::from(vec![1; 500]))
            .unwrap();
        let refused = outbox
            .push(LaneId::FIRST, Bytes::from_static(b"x"))
            .unwrap_err();
        assert!(
            matches!(&refused, SendError::Full(payload) if payload == "x"),
            "{refused:?}"
        );
        outbox.release(502);
        outbox
            .push(LaneId::FIRST, Bytes::from_static(b"x"))
            .unwrap();
        outbox.close();
        assert!(matches!(
            outbox.push(LaneId::FIRST, Bytes::new()),
            Err(SendError::Closed(_))
        ));
    }

    #[test]
    fn a_best_effort_lane_drops_its_oldest_and_counts() {
        let lane = LaneConfig {
            delivery: Delivery::BestEffort,
            ..LaneConfig::default()
        };
        let config = Config {
            lanes: vec![lane],
            best_effort_buffer: 10,
            ..Config::default()
        };
        let mut outbox = Outbox::new(&config);
        for byte in 0..5 {
            outbox
                .push(LaneId::FIRST, Bytes::from(vec![byte; 4]))
                .unwrap();
        }
        let (kept, dropped) = outbox.drain_best_effort(LaneId::FIRST);
        assert_eq!(kept, [vec![3; 4], vec![4; 4]]);
        assert_eq!(dropped, 3);
        let long = Bytes::from(vec![0; BEST_EFFORT_LEN_MAX + 1]);
        assert!(matches!(
            outbox.push(LaneId::FIRST, long),
            Err(SendError::TooLarge {
                message_max: BEST_EFFORT_LEN_MAX,
                ..
            })
        ));
    }
}
