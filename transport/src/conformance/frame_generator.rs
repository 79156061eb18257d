//! Generates labelled frames and verifies received ones.

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    FRAME_LEN_MAX, Frame, FrameHeader, FrameOrder, FrameSink, FrameSource, LANES_MAX, SendCapacity,
};

/// The length of a label: order, number and frame length, in the header of a frame.
pub(super) const LABEL_LEN: usize = 1 + 4 + 4;

/// Bodies are slices of one pattern, at offsets below this prime, so that consecutive bodies
/// differ.
const OFFSETS: u32 = 251;

/// The number of frame orders: the lanes, control, datagrams.
const ORDERS: usize = LANES_MAX + 2;

const fn index(order: FrameOrder) -> usize {
    match order {
        FrameOrder::Lane(lane) => lane as usize,
        FrameOrder::Control => LANES_MAX,
        FrameOrder::Datagram => LANES_MAX + 1,
    }
}

/// The pattern, computed once per process: a check with many transports must not spend the time of
/// their handshakes on it.
fn pattern() -> Bytes {
    static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
        let len = FRAME_LEN_MAX + OFFSETS as usize;
        // Multiplication by a prime, combined with the higher byte, avoids a short period.
        (0..len)
            .map(|i| (i.wrapping_mul(31) ^ (i >> 8)).to_le_bytes()[0])
            .collect::<Vec<u8>>()
            .into()
    });
    PATTERN.clone()
}

/// A frame source with a queue for each order, served round robin.
#[derive(Debug)]
pub(super) struct FrameGenerator {
    pattern: Bytes,
    queues: [VecDeque<Frame>; ORDERS],
    numbers: [u32; ORDERS],
    turn: usize,
    waiting: usize,
    /// The number of calls of `next_frame`.
    pub(super) calls: u64,
    /// The number of frames pulled, by order.
    pulled: [u32; ORDERS],
    pub(super) pulled_len: usize,
    /// The first invalid capacity that the transport passed.
    pub(super) fault: Option<String>,
}

impl Default for FrameGenerator {
    fn default() -> Self {
        Self {
            pattern: pattern(),
            queues: std::array::from_fn(|_| VecDeque::new()),
            numbers: [0; ORDERS],
            turn: 0,
            waiting: 0,
            calls: 0,
            pulled: [0; ORDERS],
            pulled_len: 0,
            fault: None,
        }
    }
}

impl FrameGenerator {
    /// Generates `count` frames of `len` bytes, at least of the length of the label.
    pub(super) fn generate(&mut self, order: FrameOrder, count: usize, len: usize) {
        let len = len.max(LABEL_LEN);
        let at = index(order);
        for _ in 0..count {
            let number = self.numbers[at];
            self.numbers[at] += 1;
            let mut label = BytesMut::with_capacity(LABEL_LEN);
            label.put_u8(u8::try_from(at).unwrap_or(u8::MAX));
            label.put_u32_le(number);
            label.put_u32_le(u32::try_from(len).unwrap_or(u32::MAX));
            let mut header = FrameHeader::EMPTY;
            header.extend(&label);
            let offset = (number % OFFSETS) as usize;
            let body = self.pattern.slice(offset..offset + len - LABEL_LEN);
            self.push(Frame {
                order,
                header,
                body,
            });
        }
    }

    /// Queues a frame without a label.
    pub(super) fn push(&mut self, frame: Frame) {
        self.waiting += 1;
        self.queues[index(frame.order)].push_back(frame);
    }

    /// The number of queued frames.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// The number of pulled frames, by order.
    pub(super) fn pulled(&self) -> &[u32] {
        &self.pulled
    }
}

impl FrameSource for FrameGenerator {
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame> {
        self.calls += 1;
        if capacity.frame_max == 0 || capacity.frame_max > FRAME_LEN_MAX {
            self.fault = Some(format!(
                "a capacity of {} bytes was passed",
                capacity.frame_max
            ));
        }
        for step in 0..ORDERS {
            let at = (self.turn + step) % ORDERS;
            let Some(first) = self.queues[at].front() else {
                continue;
            };
            let fits = match first.order {
                FrameOrder::Control => {
                    !capacity.control_blocked && first.len() <= capacity.frame_max
                }
                FrameOrder::Lane(lane) => {
                    !capacity.blocked.contains(lane) && first.len() <= capacity.frame_max
                }
                FrameOrder::Datagram => first.len() <= capacity.datagram_max,
            };
            if fits {
                self.turn = at + 1;
                self.waiting -= 1;
                self.pulled[at] += 1;
                let frame = self.queues[at].pop_front()?;
                self.pulled_len += frame.len();
                return Some(frame);
            }
        }
        None
    }
}

/// A frame sink that verifies each frame.
#[derive(Debug)]
pub(super) struct FrameVerifier {
    pattern: Bytes,
    is_reliable: bool,
    next: [u32; ORDERS],
    pub(super) count: usize,
    pub(super) len: usize,
    /// The first defect that was found.
    pub(super) fault: Option<String>,
    /// If set, frames are collected instead of verified.
    pub(super) kept: Option<Vec<Bytes>>,
}

impl FrameVerifier {
    pub(super) fn new(is_reliable: bool) -> Self {
        Self {
            pattern: pattern(),
            is_reliable,
            next: [0; ORDERS],
            count: 0,
            len: 0,
            fault: None,
            kept: None,
        }
    }

    /// The number of frames that arrived, by order, for orders that are reliable.
    pub(super) fn arrived(&self) -> &[u32] {
        &self.next
    }

    fn verify(&mut self, frame: &[u8]) -> Result<(), String> {
        let cut = || format!("a frame of {} bytes has no label", frame.len());
        let (label, body) = frame.split_first_chunk::<LABEL_LEN>().ok_or_else(cut)?;
        let [at, label @ ..] = *label;
        let [n0, n1, n2, n3, l0, l1, l2, l3] = label;
        let (at, number) = (usize::from(at), u32::from_le_bytes([n0, n1, n2, n3]));
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if at >= ORDERS {
            return Err(format!("a frame has the order {at}: it is damaged"));
        }
        let offset = (number % OFFSETS) as usize;
        let is_whole =
            frame.len() == len && self.pattern.get(offset..offset + body.len()) == Some(body);
        if !is_whole {
            return Err(format!("frame {number} of order {at} is damaged"));
        }
        let next = &mut self.next[at];
        if self.is_reliable && at != index(FrameOrder::Datagram) && number != *next {
            return Err(format!(
                "frame {number} of order {at} arrived instead of {next}: lost, repeated or reordered"
            ));
        }
        *next = number + 1;
        Ok(())
    }
}

impl FrameSink for FrameVerifier {
    fn frame(&mut self, frame: Bytes) {
        self.count += 1;
        self.len += frame.len();
        if let Some(kept) = &mut self.kept {
            kept.push(frame);
        } else if let Err(fault) = self.verify(&frame) {
            self.fault.get_or_insert(fault);
        }
    }
}
