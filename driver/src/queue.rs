//! Messages that wait for a thread of the user's.

use std::collections::VecDeque;

use selvedge_endpoint::{LaneId, Message, MessageBatch};

/// Messages in the order in which they came. They lie in runs until they are taken: a reference for each,
/// counted up by the worker and down by the reader, and a place in this queue would cost more than
/// reading 64 B does.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// None of them is empty.
    runs: VecDeque<(LaneId, MessageBatch)>,
}

impl Queue {
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Message> {
        let (lane, run) = self.runs.front_mut()?;
        let (lane, payload) = (*lane, run.take()?);
        if run.is_empty() {
            self.runs.pop_front();
        }
        Some(Message { lane, payload })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn extend(&mut self, runs: impl Iterator<Item = (LaneId, MessageBatch)>) {
        self.runs.extend(runs.filter(|(_, run)| !run.is_empty()));
    }

    /// Puts back, before all others, what was taken out of it as a whole.
    pub(crate) fn put_back(&mut self, mut first: Self) {
        first.runs.append(&mut self.runs);
        *self = first;
    }

    /// Gives back memory that past traffic has left in it, if it is empty.
    pub(crate) fn shrink(&mut self) {
        if self.runs.is_empty() {
            self.runs.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(runs: &[&[&[u8]]]) -> Queue {
        let mut queue = Queue::default();
        queue.extend(
            runs.iter()
                .map(|run| (LaneId::FIRST, MessageBatch::copied(run))),
        );
        queue
    }

    fn rest(mut queue: Queue) -> Vec<u8> {
        let payloads = std::iter::from_fn(|| queue.pop());
        payloads.flat_map(|it| it.payload).collect()
    }

    #[test]
    fn messages_come_out_in_order_and_empty_runs_do_not_count() {
        let mut queue = queue(&[&[], &[b"a", b"b"], &[], &[b"c"]]);
        for expected in [&b"a"[..], b"b", b"c"] {
            assert!(!queue.is_empty());
            assert_eq!(queue.pop().unwrap().payload, expected);
        }
        assert!(queue.is_empty() && queue.pop().is_none());
    }

    #[test]
    fn what_is_put_back_is_first_again() {
        let mut taken = queue(&[&[b"a", b"b", b"c"]]);
        assert_eq!(taken.pop().unwrap().payload, "a");
        let mut waiting = queue(&[&[b"d"]]);
        waiting.put_back(taken);
        assert_eq!(rest(waiting), b"bcd");
    }
}
