//! Messages for many peers, encoded once for all of them.

use bytes::Bytes;

use crate::lane::cost;
use crate::varint;

/// Consecutive messages, encoded as they appear in the stream of a lane, to be pushed into any
/// number of send buffers: [`SendBuffer::push_batch`](crate::SendBuffer::push_batch). All of them
/// share the memory, each until its peer has acknowledged the last message.
#[derive(Debug, Clone)]
pub struct EncodedBatch {
    bytes: Bytes,
    longest: usize,
}

impl EncodedBatch {
    /// The length up to which a batch fits into one frame, in bytes: the sum of
    /// [`cost_of`](Self::cost_of) of each message. A longer batch works, too, but retains memory for
    /// longer.
    pub const LEN_GOOD: usize = 64 * 1024 - 64;

    /// The bytes that a message of `len` bytes occupies in a batch.
    #[must_use]
    pub const fn cost_of(len: usize) -> usize {
        cost(len) as usize
    }

    /// Copies messages, each given in two parts, into memory of exactly their length.
    #[must_use]
    pub fn new<'a>(messages: impl Iterator<Item = [&'a [u8]; 2]> + Clone) -> Self {
        let lens = messages.clone().map(|[head, rest]| head.len() + rest.len());
        let (mut longest, mut whole) = (0, 0);
        for len in lens {
            longest = longest.max(len);
            whole += Self::cost_of(len);
        }
        let mut bytes = Vec::with_capacity(whole);
        for message in messages {
            Self::append(message, &mut bytes);
        }
        debug_assert_eq!(bytes.len(), whole, "the iterator repeats itself");
        Self {
            bytes: bytes.into(),
            longest,
        }
    }

    /// Appends a message in two parts to others, for [`from_encoded`](Self::from_encoded). Returns where its second
    /// part begins.
    #[inline]
    pub fn append([head, rest]: [&[u8]; 2], encoded: &mut Vec<u8>) -> usize {
        let (digits, digits_len) = varint::encoded((head.len() + rest.len()) as u64);
        encoded.extend_from_slice(&digits[..digits_len]);
        encoded.extend_from_slice(head);
        encoded.extend_from_slice(rest);
        encoded.len() - rest.len()
    }

    /// The messages that were [appended](Self::append), without a copy; `None` if this is something else.
    #[must_use]
    pub fn from_encoded(encoded: Vec<u8>) -> Option<Self> {
        let (mut longest, mut rest) = (0, &encoded[..]);
        while !rest.is_empty() {
            let (len, digits) = varint::read(rest)?;
            let len = usize::try_from(len).ok()?;
            rest = rest.get(digits..)?.get(len..)?;
            longest = longest.max(len);
        }
        Some(Self {
            bytes: encoded.into(),
            longest,
        })
    }

    /// The memory of the messages, without them, if no send buffer shares it.
    #[must_use]
    pub fn into_memory(self) -> Option<Vec<u8>> {
        let mut memory = self.bytes.try_into_mut().ok()?;
        // Otherwise it would be moved to the front.
        memory.clear();
        Some(memory.into())
    }

    /// The bytes that the batch occupies in a lane and in a send buffer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the batch contains no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The messages as they appear in the stream of a lane, each behind its length.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The length of the longest message.
    pub(crate) const fn longest(&self) -> usize {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SessionConfig;
    use crate::lane::{Delivery, LaneConfig, LaneId};
    use crate::send_buffer::SendBuffer;

    fn segments(buffer: &mut SendBuffer) -> Vec<Bytes> {
        let mut segments = Vec::new();
        buffer.drain(|_, segment| {
            assert!(
                !segment.is_message(),
                "a segment of a batch begins with a length"
            );
            segments.push(segment.bytes);
        });
        segments
    }

    fn batch(payloads: &[&[u8]]) -> EncodedBatch {
        EncodedBatch::new(payloads.iter().map(|payload| payload.split_at(1).into()))
    }

    #[test]
    fn a_batch_is_encoded_like_single_messages_between_its_neighbours() {
        let payloads: [&[u8]; 3] = [b"ab", b"c", &[7; 5000]];
        let [mut one_by_one, mut at_once, mut copied] =
            [(); 3].map(|()| SendBuffer::new(&SessionConfig::default()));
        for buffer in [&mut one_by_one, &mut at_once, &mut copied] {
            buffer.push(LaneId::FIRST, "before".into()).unwrap();
        }
        for payload in payloads {
            let payload = Bytes::copy_from_slice(payload);
            one_by_one.push(LaneId::FIRST, payload).unwrap();
        }
        assert!(at_once.push_batch(LaneId::FIRST, &batch(&payloads)));
        assert!(copied.copy_batch(LaneId::FIRST, &batch(&payloads)));
        for buffer in [&mut one_by_one, &mut at_once, &mut copied] {
            buffer.push(LaneId::FIRST, "after".into()).unwrap();
        }
        assert_eq!(at_once.used(), one_by_one.used());
        assert_eq!(copied.used(), one_by_one.used());
        let mut stream = Vec::new();
        one_by_one.drain(|_, segment| stream.extend(segment.stream()));
        assert_eq!(segments(&mut at_once).concat(), stream);
        assert_eq!(segments(&mut copied).concat(), stream);
    }

    #[test]
    fn a_short_batch_that_is_copied_shares_a_segment_with_its_neighbours_and_a_long_one_is_not_copied()
     {
        let short = batch(&[b"ab", b"cde"]);
        let mut buffer = SendBuffer::new(&SessionConfig::default());
        for _ in 0..2 {
            buffer.push(LaneId::FIRST, "x".into()).unwrap();
            assert!(buffer.copy_batch(LaneId::FIRST, &short));
        }
        assert_eq!(
            segments(&mut buffer),
            ["\x01x\x02ab\x03cde\x01x\x02ab\x03cde"]
        );
        let long = batch(&[&[1; 10_000], &[2; 10_000]]);
        assert!(buffer.copy_batch(LaneId::FIRST, &long));
        assert_eq!(segments(&mut buffer)[0].as_ptr(), long.bytes.as_ptr());
    }

    #[test]
    fn all_recipients_of_a_batch_share_its_memory_and_account_for_it() {
        let batch = batch(&[b"ab", b"cde"]);
        let kept = [(); 2].map(|()| {
            let mut buffer = SendBuffer::new(&SessionConfig::default());
            assert!(buffer.push_batch(LaneId::FIRST, &batch));
            assert_eq!(buffer.used(), batch.len() as u64);
            segments(&mut buffer)[0].clone()
        });
        assert_eq!(kept[0], "\x02ab\x03cde");
        assert!(kept.iter().all(|it| it.as_ptr() == batch.bytes.as_ptr()));
    }

    #[test]
    fn appended_messages_are_a_batch_whose_memory_can_be_used_again_once_nothing_shares_it() {
        let mut encoded = Vec::with_capacity(1000);
        let memory = encoded.as_ptr();
        assert_eq!(EncodedBatch::append([b"a", b"bc"], &mut encoded), 2);
        assert_eq!(EncodedBatch::append([b"", b"d"], &mut encoded), 5);
        let batch = EncodedBatch::from_encoded(encoded).unwrap();
        assert_eq!(
            (&batch.bytes()[..], batch.longest()),
            (&b"\x03abc\x01d"[..], 3)
        );
        let shared = batch.clone();
        assert_eq!(batch.into_memory(), None);
        let again = shared.into_memory().unwrap();
        assert_eq!(
            (again.as_ptr(), again.len(), again.capacity()),
            (memory, 0, 1000)
        );
    }

    #[test]
    fn what_is_not_a_sequence_of_whole_messages_is_no_batch() {
        for encoded in [
            &b"\x03ab"[..],
            b"\x01a\x40",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(EncodedBatch::from_encoded(encoded.to_vec()).is_none());
        }
        let empty = EncodedBatch::from_encoded(Vec::new());
        assert!(empty.is_some_and(|it| it.is_empty()));
    }

    #[test]
    fn a_batch_is_accepted_as_a_whole_or_not_at_all() {
        let config = |send_buffer, message_max, delivery| SessionConfig {
            lanes: vec![LaneConfig {
                delivery,
                ..LaneConfig::default()
            }],
            send_buffer,
            message_max,
            ..SessionConfig::default()
        };
        let batch = batch(&[b"ab", b"cde"]);
        for (send_buffer, message_max, delivery, is_accepted) in [
            (7, 3, Delivery::Reliable, true),
            (6, 3, Delivery::Reliable, false),
            (7, 2, Delivery::Reliable, false),
            (7, 3, Delivery::BestEffort, false),
        ] {
            let mut buffer = SendBuffer::new(&config(send_buffer, message_max, delivery));
            assert_eq!(buffer.push_batch(LaneId::FIRST, &batch), is_accepted);
            assert_eq!(buffer.used(), if is_accepted { 7 } else { 0 });
            for push in [SendBuffer::push_batch, SendBuffer::copy_batch] {
                let is_pushed = push(&mut buffer, LaneId::FIRST, &batch);
                assert!(!is_pushed, "no room, or not accepted on this lane");
            }
            buffer.release(0, buffer.used());
            buffer.close();
            assert!(!buffer.push_batch(LaneId::FIRST, &batch), "closed");
            assert!(!buffer.copy_batch(LaneId::FIRST, &batch), "closed");
            assert_eq!(segments(&mut buffer).len(), usize::from(is_accepted));
        }
    }
}
