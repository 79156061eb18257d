//! The receiving half of a reliable lane: drops duplicates, buffers out-of-order pieces, and
//! reassembles messages.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};

use crate::error::Misbehaved;
use crate::lane::cost;
use crate::message_batch::{MessageBatch, WholeMessages};
use crate::varint;

/// Memory for a longer message is allocated as soon as its length is known, for a shorter one only if
/// it does arrive in pieces. With the allocation deferred to the arrival of the body, the memory of the
/// previous message was freed first, and the profile of 64 KiB over `tcp+plain` showed page faults in
/// the copy: 110 thousand messages a second became 28.
pub(crate) const DEFERRED_ALLOC_LEN_MAX: usize = 16 * 1024;

/// The initial allocation for a message that arrives in pieces, in bytes. It grows with the arriving
/// data: a declared length alone never costs more than this.
const RESERVE_MAX: usize = 1 << 20;

/// One out-of-order piece is buffered per this many bytes of the window: each costs some 100 bytes of
/// bookkeeping, and a piece of a full datagram has 1,100.
const WINDOW_PER_PIECE: u64 = 512;

/// In which order the pieces of a lane may arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceOrder {
    /// The transport is reliable: a gap is a protocol violation of the peer.
    InOrder,
    /// The transport loses and reorders frames: out-of-order pieces are buffered.
    Any,
}

/// The result of the receipt of a piece of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReceivedRange {
    /// How many of its bytes are duplicates.
    pub(crate) repeated: u64,
    /// Whether the piece was delivered or buffered. Otherwise it counts as lost.
    pub(crate) kept: bool,
}

/// The stream of one lane in the direction of receipt.
///
/// Flow control: the peer may send up to `limit`, which is `window` bytes beyond what the user has
/// consumed. The bytes of an incomplete message count as consumed, so that a message may be longer
/// than the window; a lane therefore buffers at most `window + message_max` bytes, out-of-order pieces
/// included.
#[derive(Debug)]
pub(crate) struct RecvLane {
    expected: u64,
    /// Bytes of whole messages that the user has not consumed.
    backlog: u64,
    limit: u64,
    window: u64,
    /// Whether the window has grown since a `Hello` may have stated it.
    is_widened: bool,
    /// The position that was last reported to the peer.
    reported: (u64, u64),
    /// The offset up to which the peer has requested an acknowledgement.
    ack_requested: u64,
    partial: Partial,
    /// Out-of-order pieces beyond `expected`, by offset; none overlap.
    out_of_order: BTreeMap<u64, Bytes>,
}

/// The state of a message of which a part has arrived.
#[derive(Debug)]
enum Partial {
    None,
    Length { digits: [u8; 8], have: usize },
    Body { missing: usize, buffer: BytesMut },
}

impl RecvLane {
    pub(crate) const fn new(window: u64) -> Self {
        let limit = window;
        Self {
            expected: 0,
            backlog: 0,
            limit,
            window,
            is_widened: false,
            reported: (0, limit),
            ack_requested: 0,
            partial: Partial::None,
            out_of_order: BTreeMap::new(),
        }
    }

    /// Begins a new stream from a peer that lost its state. Messages that the user has not consumed still
    /// count against the window.
    pub(crate) fn restart(&mut self) {
        let limit = self.window.saturating_sub(self.backlog);
        *self = Self {
            backlog: self.backlog,
            limit,
            reported: (0, limit),
            is_widened: self.is_widened,
            ..Self::new(self.window)
        };
    }

    /// Enlarges the window.
    pub(crate) fn widen(&mut self, window: u64) {
        if window > self.window {
            self.window = window;
            self.is_widened = true;
            self.raise_limit();
        }
    }

    pub(crate) const fn is_widened(&self) -> bool {
        self.is_widened
    }

    pub(crate) const fn has_moved(&self) -> bool {
        self.expected > 0
    }

    /// Receives a piece of the stream.
    pub(crate) fn receive(
        &mut self,
        offset: u64,
        mut bytes: Bytes,
        order: PieceOrder,
        message_max: usize,
        deliver: &mut dyn FnMut(MessageBatch),
    ) -> Result<ReceivedRange, Misbehaved> {
        let len = bytes.len() as u64;
        if offset.saturating_add(len) > self.limit {
            return Err(Misbehaved("exceeded its flow control credit"));
        }
        if offset > self.expected {
            if order == PieceOrder::InOrder {
                return Err(Misbehaved("left a gap in a lane"));
            }
            return Ok(self.buffer_out_of_order(offset, bytes));
        }
        let mut repeated = (self.expected - offset).min(len);
        bytes.advance(repeated as usize);
        self.append(bytes, message_max, deliver)?;
        while let Some(first) = self.out_of_order.first_entry()
            && *first.key() <= self.expected
        {
            let (offset, mut bytes) = first.remove_entry();
            let known = (self.expected - offset).min(bytes.len() as u64);
            bytes.advance(known as usize);
            repeated += known;
            self.append(bytes, message_max, deliver)?;
        }
        self.raise_limit();
        Ok(ReceivedRange {
            repeated,
            kept: true,
        })
    }

    fn append(
        &mut self,
        mut bytes: Bytes,
        message_max: usize,
        deliver: &mut dyn FnMut(MessageBatch),
    ) -> Result<(), Misbehaved> {
        self.expected += bytes.len() as u64;
        while !bytes.is_empty() {
            if matches!(self.partial, Partial::None) {
                let whole = WholeMessages::of(&bytes, message_max);
                if whole.count > 0 {
                    self.backlog += whole.cost;
                    deliver(MessageBatch::new(bytes.split_to(whole.len), whole.count));
                    continue;
                }
            }
            let unread = bytes.len() as u64;
            match self.partial.absorb(&mut bytes, message_max) {
                Ok(None) => {}
                Ok(Some(payload)) => {
                    self.backlog += cost(payload.len());
                    deliver(MessageBatch::of_one(payload));
                }
                Err(refused) => {
                    // They count as not received: if they are sent again, they are refused again.
                    self.expected -= unread;
                    return Err(refused);
                }
            }
        }
        Ok(())
    }

    /// Buffers a copy of the new bytes: a slice would retain a whole read buffer for long.
    fn buffer_out_of_order(&mut self, offset: u64, bytes: Bytes) -> ReceivedRange {
        let (end, mut at, mut fresh) = (offset + bytes.len() as u64, offset, Vec::new());
        let before = self.out_of_order.range(..offset).next_back();
        if let Some((start, known)) = before {
            at = at.max(start + known.len() as u64);
        }
        for (&start, known) in self.out_of_order.range(offset..end) {
            if at < start {
                fresh.push(at..start);
            }
            at = at.max(start + known.len() as u64);
        }
        if at < end {
            fresh.push(at..end);
        }
        let pieces_max = (self.window / WINDOW_PER_PIECE) as usize + 8;
        let kept = self.out_of_order.len() + fresh.len() <= pieces_max;
        let mut new = 0;
        for piece in fresh.into_iter().filter(|_| kept) {
            new += piece.end - piece.start;
            let within = (piece.start - offset) as usize..(piece.end - offset) as usize;
            let copy = Bytes::copy_from_slice(&bytes[within]);
            self.out_of_order.insert(piece.start, copy);
        }
        ReceivedRange {
            repeated: if kept { bytes.len() as u64 - new } else { 0 },
            kept,
        }
    }

    pub(crate) const fn backlog(&self) -> u64 {
        self.backlog
    }

    /// The user has consumed messages with this total cost, in bytes.
    pub(crate) fn consumed(&mut self, bytes: u64) {
        self.backlog = self.backlog.saturating_sub(bytes);
        self.raise_limit();
    }

    fn raise_limit(&mut self) {
        self.limit = self
            .limit
            .max(self.expected + self.window.saturating_sub(self.backlog));
    }

    /// Whether the position should be reported at once: the peer may be waiting for credit, or has
    /// requested an acknowledgement of data that has arrived.
    pub(crate) const fn ack_is_urgent(&self) -> bool {
        let has_arrived = self.is_ack_requested() && self.expected >= self.ack_requested;
        let granted = self.limit - self.reported.1;
        // A lane without a window grants nothing, and never urgently.
        has_arrived || (granted > 0 && granted >= self.window / 4)
    }

    /// How many bytes have arrived and were not acknowledged.
    pub(crate) const fn unreported(&self) -> u64 {
        self.expected - self.reported.0
    }

    /// The peer requests an acknowledgement of everything before `offset`.
    pub(crate) fn request_ack(&mut self, offset: u64) {
        self.ack_requested = self.ack_requested.max(offset);
    }

    /// Whether an acknowledgement that the peer requested has not been sent.
    pub(crate) const fn is_ack_requested(&self) -> bool {
        self.reported.0 < self.ack_requested
    }

    /// The position of this lane: the next expected offset, and the offset up to which the peer may send.
    pub(crate) const fn position(&self) -> (u64, u64) {
        (self.expected, self.limit)
    }

    /// The position to report to the peer; it counts as reported from now on.
    pub(crate) const fn report(&mut self) -> (u64, u64) {
        self.reported = (self.expected, self.limit);
        self.reported
    }
}

impl Partial {
    /// Consumes bytes up to the end of one message, which is returned if it is complete.
    fn absorb(&mut self, bytes: &mut Bytes, max: usize) -> Result<Option<Bytes>, Misbehaved> {
        match self {
            Self::None => {
                let Some(len) = varint::get(bytes) else {
                    *self = Self::Length {
                        digits: [0; 8],
                        have: 0,
                    };
                    return Ok(None);
                };
                self.begin(len, bytes, max)
            }
            Self::Length { digits, have } => {
                digits[*have] = bytes.get_u8();
                if *have + 1 < varint::len_from_first(digits[0]) {
                    *have += 1;
                    return Ok(None);
                }
                let len = varint::get(&mut &digits[..]).unwrap_or(u64::MAX);
                self.begin(len, bytes, max)
            }
            // The length of a large message precedes it in a frame of its own. The message then
            // often arrives in one piece, which is not copied.
            Self::Body { missing, buffer } if buffer.capacity() == 0 && *missing <= bytes.len() => {
                let payload = bytes.split_to(*missing);
                *self = Self::None;
                Ok(Some(payload))
            }
            Self::Body { missing, buffer } => {
                if buffer.capacity() == 0 {
                    buffer.reserve(*missing);
                }
                let len = bytes.len().min(*missing);
                buffer.extend_from_slice(&bytes.split_to(len));
                *missing -= len;
                if *missing > 0 {
                    return Ok(None);
                }
                let payload = std::mem::take(buffer).freeze();
                *self = Self::None;
                Ok(Some(payload))
            }
        }
    }

    fn begin(
        &mut self,
        len: u64,
        bytes: &mut Bytes,
        max: usize,
    ) -> Result<Option<Bytes>, Misbehaved> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > max {
            return Err(Misbehaved("sent a message longer than the limit"));
        }
        if len <= bytes.len() {
            *self = Self::None;
            return Ok(Some(bytes.split_to(len)));
        }
        *self = Self::Body {
            missing: len,
            buffer: match len {
                0..=DEFERRED_ALLOC_LEN_MAX => BytesMut::new(),
                _ => BytesMut::with_capacity(len.min(RESERVE_MAX)),
            },
        };
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream_of(payloads: &[Vec<u8>]) -> Bytes {
        let mut stream = Vec::new();
        for payload in payloads {
            varint::put(payload.len() as u64, &mut stream);
            stream.extend_from_slice(payload);
        }
        stream.into()
    }

    fn payloads_of(batch: MessageBatch) -> impl Iterator<Item = Vec<u8>> {
        let messages = batch.into_messages(crate::lane::LaneId::FIRST);
        messages.map(|it| it.payload.to_vec())
    }

    proptest! {
        #[test]
        fn f7_messages_arrive_whole_however_their_stream_is_cut_and_repeated(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            cuts in prop::collection::vec((0..200_usize, 0..50_usize), 1..60),
        ) {
            let stream = stream_of(&payloads);
            let mut lane = RecvLane::new(1 << 20);
            let mut delivered = Vec::new();
            let mut deliver = |batch: MessageBatch| delivered.extend(payloads_of(batch));
            let mut cuts = cuts.iter().cycle();
            let mut at = 0;
            while at < stream.len() {
                let &(len, back) = cuts.next().unwrap();
                let (from, to) = (at.saturating_sub(back), (at + len + 1).min(stream.len()));
                let piece = stream.slice(from..to);
                let received = lane
                    .receive(from as u64, piece, PieceOrder::InOrder, 1000, &mut deliver)
                    .unwrap();
                prop_assert_eq!(received.repeated as usize, at - from);
                at = to;
            }
            prop_assert_eq!(delivered, payloads);
            prop_assert_eq!(lane.report().0, stream.len() as u64);
        }

        #[test]
        fn messages_arrive_whole_in_any_order_of_pieces(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            pieces in prop::collection::vec((any::<prop::sample::Index>(), 1..400_usize), 0..200),
        ) {
            let stream = stream_of(&payloads);
            let mut lane = RecvLane::new(1 << 20);
            let mut delivered = Vec::new();
            let (mut sent, mut repeated) = (0, 0);
            let mut receive = |from: usize, to: usize| {
                let piece = stream.slice(from..to);
                let deliver = &mut |batch: MessageBatch| delivered.extend(payloads_of(batch));
                let received = lane.receive(from as u64, piece, PieceOrder::Any, 1000, deliver).unwrap();
                assert!(received.kept);
                sent += to - from;
                repeated += received.repeated as usize;
            };
            for (at, len) in pieces {
                let from = at.index(stream.len() + 1);
                receive(from, (from + len).min(stream.len()));
            }
            receive(0, stream.len());
            prop_assert_eq!(sent - repeated, stream.len());
            prop_assert_eq!(delivered, payloads);
            prop_assert!(lane.out_of_order.is_empty());
        }
    }

    #[test]
    fn out_of_order_pieces_are_bounded() {
        let mut lane = RecvLane::new(4096);
        let kept = (0..200).filter(|n| {
            let byte = Bytes::from_static(b"x");
            let received = lane.receive(1 + n * 2, byte, PieceOrder::Any, 10, &mut |_| ());
            received.unwrap().kept
        });
        assert_eq!(kept.count(), 4096 / 512 + 8);
        let beyond = lane.receive(
            4090,
            Bytes::from_static(&[0; 7]),
            PieceOrder::Any,
            10,
            &mut |_| (),
        );
        assert!(
            beyond.is_err(),
            "the window limits out-of-order pieces, too"
        );
    }

    #[test]
    fn credit_grows_when_the_user_consumes() {
        let mut lane = RecvLane::new(100);
        let message = stream_of(&[vec![0; 79]]);
        lane.receive(0, message.clone(), PieceOrder::InOrder, 1000, &mut |_| ())
            .unwrap();
        assert_eq!(lane.report(), (81, 100), "19 bytes of the window remain");
        let refused = lane
            .receive(81, message.clone(), PieceOrder::InOrder, 1000, &mut |_| ())
            .unwrap_err();
        assert_eq!(refused.0, "exceeded its flow control credit");
        assert!(!lane.ack_is_urgent());
        lane.consumed(81);
        assert!(lane.ack_is_urgent());
        assert_eq!(lane.report(), (81, 181));
        lane.receive(81, message, PieceOrder::InOrder, 1000, &mut |_| ())
            .unwrap();
    }

    #[test]
    fn a_message_longer_than_the_window_arrives() {
        let mut lane = RecvLane::new(100);
        let stream = stream_of(&[vec![5; 1000]]);
        let mut delivered = 0;
        let mut at = 0_u64;
        while (at as usize) < stream.len() {
            let to = lane.report().1.min(stream.len() as u64);
            assert!(to > at, "stuck at {at}");
            let piece = stream.slice(at as usize..to as usize);
            lane.receive(at, piece, PieceOrder::InOrder, 1000, &mut |_| {
                delivered += 1
            })
            .unwrap();
            at = to;
        }
        assert_eq!(delivered, 1);
    }

    #[test]
    fn a_message_that_arrives_in_one_piece_after_its_length_is_not_copied() {
        let mut lane = RecvLane::new(1 << 20);
        let (length, body) = (Bytes::from_static(&[0x60, 0]), Bytes::from(vec![7; 0x2000]));
        let mut payloads = Vec::new();
        let mut deliver = |batch: MessageBatch| {
            payloads.extend(
                batch
                    .into_messages(crate::lane::LaneId::FIRST)
                    .map(|it| it.payload),
            );
        };
        for (offset, piece) in [(0, length), (2, body.clone())] {
            lane.receive(offset, piece, PieceOrder::InOrder, 0x2000, &mut deliver)
                .unwrap();
        }
        assert_eq!(payloads, [&body]);
        assert_eq!(payloads[0].as_ptr(), body.as_ptr());
    }

    #[test]
    fn a_refused_length_counts_as_not_received_however_it_is_cut() {
        let mut long = Vec::new();
        varint::put(varint::VARINT_MAX, &mut long);
        for cut in 0..long.len() {
            let mut lane = RecvLane::new(1 << 20);
            let mut receive = |from: usize, to: usize| {
                let piece = Bytes::copy_from_slice(&long[from..to]);
                lane.receive(from as u64, piece, PieceOrder::InOrder, 10, &mut |_| ())
            };
            // Byte by byte, so that the digits of the length are collected.
            assert!((0..cut).all(|at| receive(at, at + 1).is_ok()));
            for _ in 0..3 {
                let refused = receive(cut, long.len()).unwrap_err();
                assert_eq!(refused.0, "sent a message longer than the limit");
            }
            let byte = Bytes::from_static(b"x");
            let after = lane.receive(8, byte, PieceOrder::InOrder, 10, &mut |_| ());
            assert_eq!(after.unwrap_err().0, "left a gap in a lane");
            assert!(lane.position().0 < long.len() as u64);
        }
    }

    #[test]
    fn f2_a_declared_length_is_within_the_limit_and_alone_costs_little() {
        let max = 100;
        for (len, is_allowed) in [
            (0, true),
            (1, true),
            (max, true),
            (max + 1, false),
            (u64::from(u32::MAX), false),
            (varint::VARINT_MAX, false),
        ] {
            let mut lane = RecvLane::new(1 << 20);
            let mut prefix = Vec::new();
            varint::put(len, &mut prefix);
            let mut delivered = 0;
            let mut deliver = |_| delivered += 1;
            let received = lane.receive(
                0,
                prefix.into(),
                PieceOrder::InOrder,
                max as usize,
                &mut deliver,
            );
            assert_eq!(received.is_ok(), is_allowed, "{len}");
            assert_eq!(delivered, usize::from(len == 0));
        }
        // A declared length of 64 MiB allocates 1 MiB until more data arrives.
        let mut lane = RecvLane::new(1 << 20);
        let mut prefix = Vec::new();
        varint::put(64 << 20, &mut prefix);
        lane.receive(0, prefix.into(), PieceOrder::InOrder, 64 << 20, &mut |_| ())
            .unwrap();
        let Partial::Body { buffer, .. } = &lane.partial else {
            panic!("the body is awaited");
        };
        assert!(buffer.capacity() <= RESERVE_MAX);
    }

    #[test]
    fn a_gap_or_a_length_beyond_the_limit_is_refused() {
        let mut lane = RecvLane::new(1 << 20);
        let gap = lane
            .receive(
                1,
                Bytes::from_static(b"\0"),
                PieceOrder::InOrder,
                10,
                &mut |_| (),
            )
            .unwrap_err();
        assert_eq!(gap.0, "left a gap in a lane");
        let long = Bytes::from_static(&[0xff; 8]);
        let long = lane
            .receive(0, long, PieceOrder::InOrder, 10, &mut |_| ())
            .unwrap_err();
        assert_eq!(long.0, "sent a message longer than the limit");
    }
}
