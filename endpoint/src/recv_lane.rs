//! The receiving half of a reliable lane: drops what is repeated, keeps what came ahead, puts
//! messages together.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};

use crate::error::Misbehaved;
use crate::lane::cost;
use crate::message_batch::{MessageBatch, WholeMessages};
use crate::varint;

/// Longer messages get memory of their own as soon as their length is known, shorter ones only if they
/// do come in pieces. With memory taken when the body comes, that of the message before was given back
/// first, and the profile of 64 KiB over `tcp+plain` showed page faults in the copy: 110 thousand
/// messages a second became 28.
pub(crate) const LEFT_LEN_MAX: usize = 16 * 1024;

/// What is allocated at once for a message that arrives in pieces, in bytes. More follows as it
/// arrives: a declared length alone never costs more than this.
const RESERVE_MAX: usize = 1 << 20;

/// How many pieces are kept ahead of a gap, for each byte of the window: each costs some 100 bytes
/// of bookkeeping, and a piece of a full datagram has 1,100.
const AHEAD_PIECE_MIN: u64 = 512;

/// How a piece of a lane may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Its transport loses nothing: a gap is a fault of the peer.
    Kept,
    /// Its transport loses and reorders: what comes ahead waits.
    Lost,
}

/// What became of a piece of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReceivedRange {
    /// How many of its bytes had arrived before.
    pub(crate) repeated: u64,
    /// Whether all of it is here now. If not, it is as if it had been lost.
    pub(crate) kept: bool,
}

/// One lane's stream as it arrives.
///
/// Credit: the peer may send up to `limit`, which is `window` bytes beyond what the user has taken.
/// The bytes of an unfinished message count as taken, so that one may be longer than the window;
/// a lane therefore holds at most `window + message_max` bytes, what came ahead of a gap included.
#[derive(Debug)]
pub(crate) struct RecvLane {
    expected: u64,
    /// Bytes of whole messages that the user has not taken.
    backlog: u64,
    limit: u64,
    window: u64,
    /// The position that was last reported to the peer.
    reported: (u64, u64),
    /// The offset up to which the peer has requested an acknowledgement.
    ack_requested: u64,
    partial: Partial,
    /// Pieces beyond `expected`, by offset; none overlap.
    ahead: BTreeMap<u64, Bytes>,
}

/// A message of which a part has arrived.
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
            reported: (0, limit),
            ack_requested: 0,
            partial: Partial::None,
            ahead: BTreeMap::new(),
        }
    }

    /// A peer that forgot its stream begins a new one. What the user has not taken still counts.
    pub(crate) fn restart(&mut self) {
        let limit = self.window.saturating_sub(self.backlog);
        *self = Self {
            backlog: self.backlog,
            limit,
            reported: (0, limit),
            ..Self::new(self.window)
        };
    }

    pub(crate) const fn has_moved(&self) -> bool {
        self.expected > 0
    }

    /// Takes a piece of the stream.
    pub(crate) fn receive(
        &mut self,
        offset: u64,
        mut bytes: Bytes,
        order: Order,
        message_max: usize,
        deliver: &mut dyn FnMut(MessageBatch),
    ) -> Result<ReceivedRange, Misbehaved> {
        let len = bytes.len() as u64;
        if offset.saturating_add(len) > self.limit {
            return Err(Misbehaved("sent more than it was given credit for"));
        }
        if offset > self.expected {
            if order == Order::Kept {
                return Err(Misbehaved("left a gap in a lane"));
            }
            return Ok(self.keep_ahead(offset, bytes));
        }
        let mut repeated = (self.expected - offset).min(len);
        bytes.advance(repeated as usize);
        self.append(bytes, message_max, deliver)?;
        while let Some(first) = self.ahead.first_entry()
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
            if let Some(payload) = self.partial.absorb(&mut bytes, message_max)? {
                self.backlog += cost(payload.len());
                deliver(MessageBatch::of_one(payload));
            }
        }
        Ok(())
    }

    /// Keeps a copy of what is not there yet: a slice would hold a whole read buffer for long.
    fn keep_ahead(&mut self, offset: u64, bytes: Bytes) -> ReceivedRange {
        let (end, mut at, mut fresh) = (offset + bytes.len() as u64, offset, Vec::new());
        let before = self.ahead.range(..offset).next_back();
        if let Some((start, known)) = before {
            at = at.max(start + known.len() as u64);
        }
        for (&start, known) in self.ahead.range(offset..end) {
            if at < start {
                fresh.push(at..start);
            }
            at = at.max(start + known.len() as u64);
        }
        if at < end {
            fresh.push(at..end);
        }
        let pieces_max = (self.window / AHEAD_PIECE_MIN) as usize + 8;
        let kept = self.ahead.len() + fresh.len() <= pieces_max;
        let mut new = 0;
        for piece in fresh.into_iter().filter(|_| kept) {
            new += piece.end - piece.start;
            let within = (piece.start - offset) as usize..(piece.end - offset) as usize;
            let copy = Bytes::copy_from_slice(&bytes[within]);
            self.ahead.insert(piece.start, copy);
        }
        ReceivedRange {
            repeated: if kept { bytes.len() as u64 - new } else { 0 },
            kept,
        }
    }

    pub(crate) const fn backlog(&self) -> u64 {
        self.backlog
    }

    /// The user has taken messages that cost so many bytes.
    pub(crate) fn taken(&mut self, bytes: u64) {
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
        let is_there = self.is_asked() && self.expected >= self.ack_requested;
        is_there || self.limit - self.reported.1 >= self.window / 4
    }

    /// How many bytes have arrived and were not acknowledged.
    pub(crate) const fn unreported(&self) -> u64 {
        self.expected - self.reported.0
    }

    /// The peer requests an acknowledgement of everything before `offset`.
    pub(crate) fn ask(&mut self, offset: u64) {
        self.ack_requested = self.ack_requested.max(offset);
    }

    /// Whether an acknowledgement that the peer requested has not been sent.
    pub(crate) const fn is_asked(&self) -> bool {
        self.reported.0 < self.ack_requested
    }

    /// Where this lane stands: the offset wanted next, and that up to which may be sent.
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
    /// Takes bytes off the front, up to the end of one message, which it returns if it is whole.
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
                *have += 1;
                if *have < varint::len_from_first(digits[0]) {
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
                0..=LEFT_LEN_MAX => BytesMut::new(),
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

    fn payloads_of(run: MessageBatch) -> impl Iterator<Item = Vec<u8>> {
        let messages = run.into_messages(crate::lane::LaneId::FIRST);
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
            let mut deliver = |run: MessageBatch| delivered.extend(payloads_of(run));
            let mut cuts = cuts.iter().cycle();
            let mut at = 0;
            while at < stream.len() {
                let &(len, back) = cuts.next().unwrap();
                let (from, to) = (at.saturating_sub(back), (at + len + 1).min(stream.len()));
                let piece = stream.slice(from..to);
                let received = lane
                    .receive(from as u64, piece, Order::Kept, 1000, &mut deliver)
                    .unwrap();
                prop_assert_eq!(received.repeated as usize, at - from);
                at = to;
            }
            prop_assert_eq!(delivered, payloads);
            prop_assert_eq!(lane.report().0, stream.len() as u64);
        }

        #[test]
        fn messages_arrive_whole_in_whatever_order_pieces_come(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            pieces in prop::collection::vec((any::<prop::sample::Index>(), 1..400_usize), 0..200),
        ) {
            let stream = stream_of(&payloads);
            let mut lane = RecvLane::new(1 << 20);
            let mut delivered = Vec::new();
            let (mut sent, mut repeated) = (0, 0);
            let mut receive = |from: usize, to: usize| {
                let piece = stream.slice(from..to);
                let deliver = &mut |run: MessageBatch| delivered.extend(payloads_of(run));
                let received = lane.receive(from as u64, piece, Order::Lost, 1000, deliver).unwrap();
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
            prop_assert!(lane.ahead.is_empty());
        }
    }

    #[test]
    fn what_comes_ahead_is_bounded() {
        let mut lane = RecvLane::new(4096);
        let kept = (0..200).filter(|n| {
            let byte = Bytes::from_static(b"x");
            let received = lane.receive(1 + n * 2, byte, Order::Lost, 10, &mut |_| ());
            received.unwrap().kept
        });
        assert_eq!(kept.count(), 4096 / 512 + 8);
        let beyond = lane.receive(
            4090,
            Bytes::from_static(&[0; 7]),
            Order::Lost,
            10,
            &mut |_| (),
        );
        assert!(
            beyond.is_err(),
            "the window holds for what comes ahead, too"
        );
    }

    #[test]
    fn credit_follows_what_the_user_takes() {
        let mut lane = RecvLane::new(100);
        let message = stream_of(&[vec![0; 79]]);
        lane.receive(0, message.clone(), Order::Kept, 1000, &mut |_| ())
            .unwrap();
        assert_eq!(lane.report(), (81, 100), "19 bytes of the window are left");
        let refused = lane
            .receive(81, message.clone(), Order::Kept, 1000, &mut |_| ())
            .unwrap_err();
        assert_eq!(refused.0, "sent more than it was given credit for");
        assert!(!lane.ack_is_urgent());
        lane.taken(81);
        assert!(lane.ack_is_urgent());
        assert_eq!(lane.report(), (81, 181));
        lane.receive(81, message, Order::Kept, 1000, &mut |_| ())
            .unwrap();
    }

    #[test]
    fn a_message_longer_than_the_window_gets_through() {
        let mut lane = RecvLane::new(100);
        let stream = stream_of(&[vec![5; 1000]]);
        let mut delivered = 0;
        let mut at = 0_u64;
        while (at as usize) < stream.len() {
            let to = lane.report().1.min(stream.len() as u64);
            assert!(to > at, "stuck at {at}");
            let piece = stream.slice(at as usize..to as usize);
            lane.receive(at, piece, Order::Kept, 1000, &mut |_| delivered += 1)
                .unwrap();
            at = to;
        }
        assert_eq!(delivered, 1);
    }

    #[test]
    fn a_message_that_comes_in_one_piece_behind_its_length_is_not_copied() {
        let mut lane = RecvLane::new(1 << 20);
        let (length, body) = (Bytes::from_static(&[0x60, 0]), Bytes::from(vec![7; 0x2000]));
        let mut payloads = Vec::new();
        let mut deliver = |run: MessageBatch| {
            payloads.extend(
                run.into_messages(crate::lane::LaneId::FIRST)
                    .map(|it| it.payload),
            );
        };
        for (offset, piece) in [(0, length), (2, body.clone())] {
            lane.receive(offset, piece, Order::Kept, 0x2000, &mut deliver)
                .unwrap();
        }
        assert_eq!(payloads, [&body]);
        assert_eq!(payloads[0].as_ptr(), body.as_ptr());
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
            let received = lane.receive(0, prefix.into(), Order::Kept, max as usize, &mut deliver);
            assert_eq!(received.is_ok(), is_allowed, "{len}");
            assert_eq!(delivered, usize::from(len == 0));
        }
        // A length of 64 MiB reserves 1 MiB, before more has arrived.
        let mut lane = RecvLane::new(1 << 20);
        let mut prefix = Vec::new();
        varint::put(64 << 20, &mut prefix);
        lane.receive(0, prefix.into(), Order::Kept, 64 << 20, &mut |_| ())
            .unwrap();
        let Partial::Body { buffer, .. } = &lane.partial else {
            panic!("a body is awaited");
        };
        assert!(buffer.capacity() <= RESERVE_MAX);
    }

    #[test]
    fn a_gap_or_a_length_beyond_the_limit_is_refused() {
        let mut lane = RecvLane::new(1 << 20);
        let gap = lane
            .receive(1, Bytes::from_static(b"\0"), Order::Kept, 10, &mut |_| ())
            .unwrap_err();
        assert_eq!(gap.0, "left a gap in a lane");
        let long = Bytes::from_static(&[0xff; 8]);
        let long = lane
            .receive(0, long, Order::Kept, 10, &mut |_| ())
            .unwrap_err();
        assert_eq!(long.0, "sent a message longer than the limit");
    }
}
