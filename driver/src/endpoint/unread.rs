//! The messages that an inbox has not taken yet.

use std::cell::OnceCell;
use std::collections::VecDeque;

use bytes::Bytes;
use selvedge_endpoint::{LaneId, Message, MessageBatch, Session};

/// The unread messages of an endpoint, by lane.
#[derive(Debug, Default)]
pub(crate) struct Unread(Vec<UnreadLane>);

/// The unread messages of one lane. They stay in batches until a [`Message`] is requested.
#[derive(Debug, Default)]
pub(crate) struct UnreadLane {
    messages: VecDeque<Message>,
    /// These follow `messages`.
    batches: VecDeque<MessageBatch>,
    /// The messages of the batches, if one of them was peeked at.
    peeked: OnceCell<VecDeque<Message>>,
    /// The message that was lent last, if it came from `messages`.
    lent: Bytes,
}

impl UnreadLane {
    pub(super) fn get(&self, lane: LaneId, skip: usize) -> Option<&Message> {
        let Some(skip) = skip.checked_sub(self.messages.len()) else {
            return self.messages.get(skip);
        };
        if self.batches.is_empty() {
            return None;
        }
        let peeked = self.peeked.get_or_init(|| {
            let count = self.batches.iter().map(MessageBatch::len).sum();
            let mut messages = VecDeque::with_capacity(count);
            messages.extend(self.batches.iter().flat_map(|batch| batch.messages(lane)));
            messages
        });
        peeked.get(skip)
    }

    /// Replaces the batches by their messages, if one was peeked at.
    fn keep_peeked(&mut self) {
        if let Some(mut peeked) = self.peeked.take() {
            self.batches.clear();
            if self.messages.is_empty() {
                self.messages = peeked;
            } else {
                self.messages.append(&mut peeked);
            }
        }
    }

    /// Releases memory of which all messages were taken.
    fn release(&mut self) {
        self.lent = Bytes::new();
        while self
            .batches
            .pop_front_if(|batch| batch.is_empty())
            .is_some()
        {}
    }

    fn push(&mut self, batch: MessageBatch) {
        self.keep_peeked();
        self.batches.push_back(batch);
    }

    pub(super) fn take(&mut self, lane: LaneId) -> Option<Message> {
        self.keep_peeked();
        if let Some(message) = self.messages.pop_front() {
            return Some(message);
        }
        self.release();
        let payload = self.batches.front_mut()?.take()?;
        Some(Message { lane, payload })
    }

    pub(super) fn take_bytes(&mut self) -> Option<&[u8]> {
        self.keep_peeked();
        if let Some(message) = self.messages.pop_front() {
            self.lent = message.payload;
            return Some(&self.lent);
        }
        if self.batches.front()?.is_empty() {
            self.release();
        }
        self.batches.front_mut()?.take_bytes()
    }

    /// Returns the cost of the messages taken.
    pub(super) fn take_bytes_while(&mut self, mut takes: impl FnMut(&[u8]) -> bool) -> u64 {
        self.keep_peeked();
        let mut cost = 0;
        while let Some(first) = self.messages.front() {
            if !takes(&first.payload) {
                return cost;
            }
            cost += first.cost();
            self.messages.pop_front();
        }
        while let Some(batch) = self.batches.front_mut() {
            cost += batch.take_while(&mut takes);
            if !batch.is_empty() {
                break;
            }
            self.batches.pop_front();
        }
        cost
    }

    /// Returns the cost of the messages dropped.
    pub(super) fn drop_first(&mut self, count: usize) -> u64 {
        self.keep_peeked();
        let messages = count.min(self.messages.len());
        let mut cost = self.messages.drain(..messages).map(|it| it.cost()).sum();
        for _ in messages..count {
            let Some(bytes) = self.take_bytes() else {
                break;
            };
            cost += Message::cost_of(bytes.len());
        }
        cost
    }

    /// Messages that were peeked at are still in the batches.
    pub(super) fn len(&self) -> usize {
        self.messages.len() + self.batches.iter().map(MessageBatch::len).sum::<usize>()
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.batches.iter().all(MessageBatch::is_empty)
    }
}

impl Unread {
    pub(super) fn lane(&self, lane: LaneId) -> Option<&UnreadLane> {
        self.0.get(usize::from(lane.number()))
    }

    pub(super) fn lane_mut(&mut self, lane: LaneId) -> Option<&mut UnreadLane> {
        self.0.get_mut(usize::from(lane.number()))
    }

    /// Takes the messages that the session has received.
    pub(crate) fn take_from(&mut self, session: &mut Session) {
        for (lane, batch) in session.take_batches() {
            let index = usize::from(lane.number());
            if self.0.len() <= index {
                self.0.resize_with(index + 1, UnreadLane::default);
            }
            self.0[index].push(batch);
        }
    }

    /// Releases memory of which all messages were taken.
    pub(crate) fn release(&mut self) {
        self.0.iter_mut().for_each(UnreadLane::release);
    }

    /// Frees memory that past traffic has left in empty queues.
    pub(crate) fn shrink(&mut self) {
        for lane in self.0.iter_mut().filter(|lane| lane.is_empty()) {
            *lane = UnreadLane::default();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(UnreadLane::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Consumed, Incoming};

    /// Takes one message after a look at the next, which stays unread.
    fn take_while_one(incoming: &mut Incoming<'_>, lane: LaneId) -> Option<Vec<u8>> {
        let mut first = None;
        incoming.take_bytes_while(lane, |bytes| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| bytes.to_vec());
            is_first
        });
        first
    }

    /// Alternates between all ways to peek and take, while messages arrive and stay unread.
    #[test]
    fn messages_are_taken_in_order_by_any_mix_of_methods() {
        let (lane, mut consumed) = (LaneId::FIRST, Consumed::default());
        let (mut unread, mut arrived, mut taken) =
            (Unread(vec![UnreadLane::default()]), 0_u32, 0_u32);
        for round in 0..50_u32 {
            let fresh: Vec<_> = (arrived..arrived + round % 4)
                .map(u32::to_be_bytes)
                .collect();
            let fresh: Vec<_> = fresh.iter().map(|it| &it[..]).collect();
            unread.0[0].push(MessageBatch::copied(&fresh));
            arrived += round % 4;
            let mut incoming = Incoming::new(&mut unread, &mut consumed);
            for skip in (0..arrived - taken).filter(|_| round % 3 == 0) {
                let peeked = incoming.get(lane, skip as usize).unwrap();
                assert_eq!(peeked.payload, (taken + skip).to_be_bytes()[..]);
            }
            for method in 0..round % 3 {
                let bytes = match (round + method) % 4 {
                    0 => incoming.take(lane).map(|it| it.payload.to_vec()),
                    1 => incoming.take_bytes(lane).map(<[u8]>::to_vec),
                    _ => take_while_one(&mut incoming, lane),
                };
                let expected = (taken < arrived).then(|| taken.to_be_bytes().to_vec());
                assert_eq!(bytes, expected);
                taken += u32::from(taken < arrived);
            }
            assert!(incoming.get(lane, (arrived - taken) as usize).is_none());
            unread.release();
            assert_eq!(unread.is_empty(), arrived == taken);
        }
        assert_eq!(consumed.total(), u64::from(taken) * 5);
    }

    #[test]
    fn dropped_messages_count_as_consumed_and_the_others_stay() {
        let (lane, mut consumed) = (LaneId::FIRST, Consumed::default());
        let mut unread = Unread(vec![UnreadLane::default()]);
        for batch in [&[&b"a"[..], b"bc"][..], &[b"def", b"g"]] {
            unread.0[0].push(MessageBatch::copied(batch));
        }
        let mut incoming = Incoming::new(&mut unread, &mut consumed);
        incoming.drop_first(LaneId::new(1).unwrap(), 1);
        // Across the end of a batch; then messages that were peeked at.
        incoming.drop_first(lane, 2);
        assert_eq!(consumed.total(), 2 + 3);
        let mut incoming = Incoming::new(&mut unread, &mut consumed);
        assert_eq!(incoming.get(lane, 0).unwrap().payload, "def");
        incoming.drop_first(lane, 3);
        assert_eq!(consumed.total(), 2 + 3 + 4 + 2);
        assert!(unread.is_empty());
    }
}
