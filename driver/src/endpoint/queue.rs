//! The queue of messages that the user has not received yet.

use std::collections::VecDeque;

use selvedge_endpoint::{LaneId, Message, MessageBatch};

/// Messages in order of arrival. They stay in batches until they are popped: an entry of this queue and a
/// reference count for each message, incremented by the worker and decremented by the reader, would cost
/// more than reading 64 B does.
#[derive(Debug, Default)]
pub(crate) struct MessageQueue {
    /// No batch is empty.
    batches: VecDeque<(LaneId, MessageBatch)>,
}

impl MessageQueue {
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Message> {
        let (lane, batch) = self.batches.front_mut()?;
        let (lane, payload) = (*lane, batch.take()?);
        if batch.is_empty() {
            self.batches.pop_front();
        }
        Some(Message { lane, payload })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(crate) fn extend(&mut self, batches: impl Iterator<Item = (LaneId, MessageBatch)>) {
        self.batches
            .extend(batches.filter(|(_, batch)| !batch.is_empty()));
    }

    /// Puts messages that were taken out back to the front.
    pub(crate) fn put_back(&mut self, mut first: Self) {
        first.batches.append(&mut self.batches);
        *self = first;
    }

    /// Frees memory that past traffic has left, if the queue is empty.
    pub(crate) fn shrink(&mut self) {
        if self.batches.is_empty() {
            self.batches.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(batches: &[&[&[u8]]]) -> MessageQueue {
        let mut queue = MessageQueue::default();
        queue.extend(
            batches
                .iter()
                .map(|batch| (LaneId::FIRST, MessageBatch::copied(batch))),
        );
        queue
    }

    fn drain(mut queue: MessageQueue) -> Vec<u8> {
        let payloads = std::iter::from_fn(|| queue.pop());
        payloads.flat_map(|it| it.payload).collect()
    }

    #[test]
    fn messages_are_popped_in_order_and_empty_batches_are_skipped() {
        let mut queue = queue(&[&[], &[b"a", b"b"], &[], &[b"c"]]);
        for expected in [&b"a"[..], b"b", b"c"] {
            assert!(!queue.is_empty());
            assert_eq!(queue.pop().unwrap().payload, expected);
        }
        assert!(queue.is_empty() && queue.pop().is_none());
    }

    #[test]
    fn messages_that_are_put_back_come_first_again() {
        let mut held = queue(&[&[b"a", b"b", b"c"]]);
        assert_eq!(held.pop().unwrap().payload, "a");
        let mut waiting = queue(&[&[b"d"]]);
        waiting.put_back(held);
        assert_eq!(drain(waiting), b"bcd");
    }
}
