//! Messages that go to many peers, laid out once for all of them.

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
    /// The longest that fits into one frame, in bytes: [`cost_of`](Self::cost_of) for each message.
    /// A longer one works too, but keeps memory for longer.
    pub const LEN_GOOD: usize = 64 * 1024 - 64;

    /// What a message of so many bytes takes in a run.
    #[must_use]
    pub const fn cost_of(len: usize) -> usize {
        cost(len) as usize
    }

    /// Copies messages, each in two parts, in memory of exactly their length.
    #[must_use]
    pub fn new<'a>(messages: impl Iterator<Item = [&'a [u8]; 2]> + Clone) -> Self {
        let lens = messages.clone().map(|[head, rest]| head.len() + rest.len());
        let (mut longest, mut whole) = (0, 0);
        for len in lens {
            longest = longest.max(len);
            whole += Self::cost_of(len);
        }
        let mut bytes = Vec::with_capacity(whole);
        for [head, rest] in messages {
            varint::put((head.len() + rest.len()) as u64, &mut bytes);
            bytes.extend_from_slice(head);
            bytes.extend_from_slice(rest);
        }
        debug_assert_eq!(bytes.len(), whole, "the iterator repeats itself");
        Self {
            bytes: bytes.into(),
            longest,
        }
    }

    /// How many bytes it takes in a lane, and in a send buffer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no message in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The length of its longest message.
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
            assert!(!segment.is_body, "it begins with a length");
            segments.push(segment.bytes);
        });
        segments
    }

    fn run(payloads: &[&[u8]]) -> EncodedBatch {
        EncodedBatch::new(payloads.iter().map(|payload| payload.split_at(1).into()))
    }

    #[test]
    fn a_run_lies_in_the_stream_as_its_messages_do_between_those_around_it() {
        let payloads: [&[u8]; 3] = [b"ab", b"c", &[7; 5000]];
        let [mut one_by_one, mut at_once] =
            [(); 2].map(|()| SendBuffer::new(&SessionConfig::default()));
        for buffer in [&mut one_by_one, &mut at_once] {
            buffer.push(LaneId::FIRST, "before".into()).unwrap();
        }
        for payload in payloads {
            let payload = Bytes::copy_from_slice(payload);
            one_by_one.push(LaneId::FIRST, payload).unwrap();
        }
        assert!(at_once.push_batch(LaneId::FIRST, &run(&payloads)));
        for buffer in [&mut one_by_one, &mut at_once] {
            buffer.push(LaneId::FIRST, "behind".into()).unwrap();
        }
        assert_eq!(at_once.used(), one_by_one.used());
        let mut stream = Vec::new();
        one_by_one.drain(|_, segment| stream.extend(segment.stream()));
        assert_eq!(segments(&mut at_once).concat(), stream);
    }

    #[test]
    fn all_who_get_a_run_keep_the_same_memory_and_no_more_than_is_accounted() {
        let run = run(&[b"ab", b"cde"]);
        let kept = [(); 2].map(|()| {
            let mut buffer = SendBuffer::new(&SessionConfig::default());
            assert!(buffer.push_batch(LaneId::FIRST, &run));
            assert_eq!(buffer.used(), run.len() as u64);
            segments(&mut buffer)[0].clone()
        });
        assert_eq!(kept[0], "\x02ab\x03cde");
        assert!(kept.iter().all(|it| it.as_ptr() == run.bytes.as_ptr()));
    }

    #[test]
    fn a_run_is_taken_whole_or_not_at_all() {
        let config = |send_buffer, message_max, delivery| SessionConfig {
            lanes: vec![LaneConfig {
                delivery,
                ..LaneConfig::default()
            }],
            send_buffer,
            message_max,
            ..SessionConfig::default()
        };
        let run = run(&[b"ab", b"cde"]);
        for (send_buffer, message_max, delivery, is_taken) in [
            (7, 3, Delivery::Reliable, true),
            (6, 3, Delivery::Reliable, false),
            (7, 2, Delivery::Reliable, false),
            (7, 3, Delivery::BestEffort, false),
        ] {
            let mut buffer = SendBuffer::new(&config(send_buffer, message_max, delivery));
            assert_eq!(buffer.push_batch(LaneId::FIRST, &run), is_taken);
            assert_eq!(buffer.used(), if is_taken { 7 } else { 0 });
            assert!(!buffer.push_batch(LaneId::FIRST, &run), "no room, or never");
            buffer.release(0, buffer.used());
            buffer.close();
            assert!(!buffer.push_batch(LaneId::FIRST, &run), "closed");
            assert_eq!(segments(&mut buffer).len(), usize::from(is_taken));
        }
    }
}
