//! Consecutive messages of a lane in the memory into which they were received.

use bytes::{Buf, Bytes};

use crate::lane::{LaneId, Message};
use crate::varint;

/// Consecutive messages of one lane in the memory into which they were received. All of them share
/// one reference to it: a reference per message, counted up and down by two cores, costs a message
/// of 64 B more than reading it.
#[derive(Debug)]
pub struct MessageBatch {
    /// Messages, each preceded by its length; or one message without a length.
    bytes: Bytes,
    /// Where the next message begins.
    at: usize,
    /// How many messages are unread.
    unread: usize,
    has_lengths: bool,
}

impl MessageBatch {
    /// A batch of `count` messages, each preceded by its length.
    pub(crate) const fn new(bytes: Bytes, count: usize) -> Self {
        Self {
            bytes,
            at: 0,
            unread: count,
            has_lengths: true,
        }
    }

    /// A batch of one message.
    #[must_use]
    pub const fn of_one(payload: Bytes) -> Self {
        Self {
            bytes: payload,
            at: 0,
            unread: 1,
            has_lengths: false,
        }
    }

    /// A batch with copies of these messages, for tests of its consumers.
    #[must_use]
    pub fn copied(payloads: &[&[u8]]) -> Self {
        let mut stream = Vec::new();
        for payload in payloads {
            varint::put(payload.len() as u64, &mut stream);
            stream.extend_from_slice(payload);
        }
        Self::new(stream.into(), payloads.len())
    }

    /// How many messages are unread.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.unread
    }

    /// Whether all messages have been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.unread == 0
    }

    /// Takes the next message without a copy.
    #[inline]
    pub fn take_bytes(&mut self) -> Option<&[u8]> {
        let (from, to) = self.step()?;
        Some(&self.bytes[from..to])
    }

    /// Passes the messages to `takes` in order, without a copy, and takes each for which it returns
    /// `true`. The first one for which it does not remains, with all that follow. Returns the cost
    /// of the taken messages against the window: see [`Message::cost`].
    #[inline]
    pub fn take_while(&mut self, mut takes: impl FnMut(&[u8]) -> bool) -> u64 {
        let mut cost = 0;
        loop {
            let before = (self.at, self.unread);
            let Some(bytes) = self.take_bytes() else {
                return cost;
            };
            let len = bytes.len();
            if !takes(bytes) {
                (self.at, self.unread) = before;
                return cost;
            }
            cost += Message::cost_of(len);
        }
    }

    /// Takes the next message, with its own reference to the memory.
    #[inline]
    pub fn take(&mut self) -> Option<Bytes> {
        let (from, to) = self.step()?;
        if self.unread > 0 {
            return Some(self.bytes.slice(from..to));
        }
        // The last message takes over the reference of the batch.
        let mut last = std::mem::take(&mut self.bytes);
        last.truncate(to);
        last.advance(from);
        Some(last)
    }

    /// The unread messages, with the lane on which they arrived; each has its own reference to the
    /// memory.
    pub fn messages(&self, lane: LaneId) -> impl Iterator<Item = Message> {
        Self {
            bytes: self.bytes.clone(),
            ..*self
        }
        .into_messages(lane)
    }

    /// Like [`messages`](Self::messages); the last message takes over the reference of the batch.
    pub fn into_messages(mut self, lane: LaneId) -> impl Iterator<Item = Message> {
        std::iter::from_fn(move || self.take().map(|payload| Message { lane, payload }))
    }

    /// The range of the next message. Its length was checked when it arrived.
    #[inline]
    fn step(&mut self) -> Option<(usize, usize)> {
        let unread = self.unread.checked_sub(1)?;
        let (from, len) = if self.has_lengths {
            let (len, digits) = varint::read(&self.bytes[self.at..])?;
            (self.at + digits, usize::try_from(len).ok()?)
        } else {
            (0, self.bytes.len())
        };
        (self.unread, self.at) = (unread, from + len);
        Some((from, self.at))
    }
}

/// The whole messages at the front of a piece of a lane's stream.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WholeMessages {
    /// The number of messages.
    pub(crate) count: usize,
    /// Their length in the stream, in bytes.
    pub(crate) len: usize,
    /// Their cost against the window: see [`Message::cost`].
    pub(crate) cost: u64,
}

impl WholeMessages {
    /// The messages before the first one that is incomplete or longer than `max`.
    pub(crate) fn of(stream: &[u8], max: usize) -> Self {
        let mut whole = Self::default();
        while let Some((len, digits)) = varint::read(&stream[whole.len..]) {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            if len > max || len > stream.len() - whole.len - digits {
                break;
            }
            whole.count += 1;
            whole.len += digits + len;
            whole.cost += crate::lane::cost(len);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_message_is_read_once_with_every_method(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20),
            ways in prop::collection::vec(0..3, 20),
            cut in any::<prop::sample::Index>(),
        ) {
            let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
            let stream = MessageBatch::copied(&slices).bytes.slice(..stream_cut(&cut, &payloads));
            let whole = WholeMessages::of(&stream, 300);
            let mut batch = MessageBatch::new(stream.slice(..whole.len), whole.count);
            let mut taken = Vec::new();
            for way in ways {
                let all: Vec<_> = batch.messages(LaneId::FIRST).map(|it| it.payload).collect();
                prop_assert_eq!(&all[..], &payloads[taken.len()..whole.count]);
                match way {
                    0 => taken.extend(batch.take_bytes().map(<[u8]>::to_vec)),
                    1 => taken.extend(batch.take().map(|it| it.to_vec())),
                    // Up to two messages; the next one is inspected, too.
                    _ => {
                        let (mut offered, before) = (0, taken.len());
                        let cost = batch.take_while(|bytes| {
                            offered += 1;
                            if offered <= 2 {
                                taken.push(bytes.to_vec());
                            }
                            offered <= 2
                        });
                        let costs = taken[before..].iter().map(|it| crate::lane::cost(it.len()));
                        prop_assert_eq!(cost, costs.sum::<u64>());
                    }
                }
            }
            prop_assert!(batch.is_empty());
            prop_assert_eq!(&taken[..], &payloads[..whole.count]);
            let cost: u64 = payloads[..whole.count].iter().map(|it| crate::lane::cost(it.len())).sum();
            prop_assert_eq!(whole.cost, cost);
        }
    }

    /// An offset within the last message, or at its end.
    fn stream_cut(cut: &prop::sample::Index, payloads: &[Vec<u8>]) -> usize {
        let cost = |it: &Vec<u8>| crate::lane::cost(it.len()) as usize;
        let all: usize = payloads.iter().map(cost).sum();
        let last = payloads.last().map_or(0, cost);
        all - cut.index(last + 1)
    }

    #[test]
    fn a_message_longer_than_the_limit_is_not_counted_as_whole() {
        let whole = WholeMessages::of(b"\x01a\x02bc\x03def", 2);
        let expected = WholeMessages {
            count: 2,
            len: 5,
            cost: 5,
        };
        assert_eq!(whole, expected);
        assert_eq!(WholeMessages::of(b"", 2), WholeMessages::default());
        assert_eq!(
            WholeMessages::of(&[0xff; 8], usize::MAX),
            WholeMessages::default()
        );
    }
}
