//! A receiver that is called on the worker which read the bytes.

use std::cell::OnceCell;
use std::collections::VecDeque;

use bytes::Bytes;
use selvedge_endpoint::{Event, LaneId, Message, MessageBatch, Session};

use crate::shared::Taken;

/// Receives the messages of an endpoint on its worker: no queue, no wake-up, no other thread.
///
/// Be short: everything else on the worker waits meanwhile. A panic closes the endpoint and leaves
/// the worker alone.
pub trait Inbox: Send {
    /// Messages have arrived, or [`Endpoint::resume`](crate::Endpoint::resume) was called. Take as
    /// many as can be handled; the rest stays, and holds the peer back when the window is full.
    fn on_messages(&mut self, incoming: &mut Incoming<'_>);

    /// Something happened to the endpoint.
    fn on_event(&mut self, event: Event);
}

/// Messages that wait on an endpoint, in order on each lane.
#[derive(Debug)]
pub struct Incoming<'a> {
    pub(crate) left: &'a mut Left,
    pub(crate) taken: &'a mut Taken,
}

impl Incoming<'_> {
    /// The first message of `lane`, left where it is.
    #[must_use]
    pub fn peek(&self, lane: LaneId) -> Option<&Message> {
        self.get(lane, 0)
    }

    /// The message of `lane` behind so many others, left where it is.
    #[must_use]
    pub fn get(&self, lane: LaneId, behind: usize) -> Option<&Message> {
        self.left.lane(lane)?.get(lane, behind)
    }

    /// How many messages of `lane` wait.
    #[must_use]
    pub fn len(&self, lane: LaneId) -> usize {
        self.left.lane(lane).map_or(0, LeftLane::len)
    }

    /// Takes the first message of `lane`.
    pub fn take(&mut self, lane: LaneId) -> Option<Message> {
        let message = self.left.lane_mut(lane)?.take(lane)?;
        self.taken.add(lane, message.cost());
        Some(message)
    }

    /// Takes the first message of `lane` where it lies: for who only reads it. That spares each small
    /// message a reference of its own to the memory it was received into.
    pub fn take_bytes(&mut self, lane: LaneId) -> Option<&[u8]> {
        let bytes = self.left.lane_mut(lane)?.take_bytes()?;
        self.taken.add(lane, Message::cost_of(bytes.len()));
        Some(bytes)
    }

    /// Shows the messages of `lane` in turn, where they lie, and takes each for which `takes` says so, up
    /// to the first for which it does not. For who may have to leave a message: it spares a look before
    /// each is taken.
    pub fn take_bytes_while(&mut self, lane: LaneId, takes: impl FnMut(&[u8]) -> bool) {
        if let Some(left) = self.left.lane_mut(lane) {
            self.taken.add(lane, left.take_bytes_while(takes));
        }
    }

    /// Takes the first so many messages of `lane`, or all if there are fewer, and drops them.
    pub fn drop_first(&mut self, lane: LaneId, count: usize) {
        if let Some(left) = self.left.lane_mut(lane) {
            self.taken.add(lane, left.drop_first(count));
        }
    }
}

/// Messages that an inbox has left, by lane.
#[derive(Debug, Default)]
pub(crate) struct Left(Vec<LeftLane>);

/// Messages become such when somebody asks for one; till then they lie in runs.
#[derive(Debug, Default)]
struct LeftLane {
    messages: VecDeque<Message>,
    /// What follows them.
    runs: VecDeque<MessageBatch>,
    /// The messages of the runs, if somebody has looked at one of them.
    looked_at: OnceCell<VecDeque<Message>>,
    /// What was lent last, if it was one of the messages.
    lent: Bytes,
}

impl LeftLane {
    fn get(&self, lane: LaneId, behind: usize) -> Option<&Message> {
        let Some(behind) = behind.checked_sub(self.messages.len()) else {
            return self.messages.get(behind);
        };
        if self.runs.is_empty() {
            return None;
        }
        let looked_at = self.looked_at.get_or_init(|| {
            let count = self.runs.iter().map(MessageBatch::len).sum();
            let mut messages = VecDeque::with_capacity(count);
            messages.extend(self.runs.iter().flat_map(|run| run.messages(lane)));
            messages
        });
        looked_at.get(behind)
    }

    /// What was looked at stays messages.
    fn keep_looked_at(&mut self) {
        if let Some(mut looked_at) = self.looked_at.take() {
            self.runs.clear();
            if self.messages.is_empty() {
                self.messages = looked_at;
            } else {
                self.messages.append(&mut looked_at);
            }
        }
    }

    /// Lets go of memory of which all messages were taken.
    fn release(&mut self) {
        self.lent = Bytes::new();
        while self.runs.pop_front_if(|run| run.is_empty()).is_some() {}
    }

    fn push(&mut self, run: MessageBatch) {
        self.keep_looked_at();
        self.runs.push_back(run);
    }

    fn take(&mut self, lane: LaneId) -> Option<Message> {
        self.keep_looked_at();
        if let Some(message) = self.messages.pop_front() {
            return Some(message);
        }
        self.release();
        let payload = self.runs.front_mut()?.take()?;
        Some(Message { lane, payload })
    }

    fn take_bytes(&mut self) -> Option<&[u8]> {
        self.keep_looked_at();
        if let Some(message) = self.messages.pop_front() {
            self.lent = message.payload;
            return Some(&self.lent);
        }
        if self.runs.front()?.is_empty() {
            self.release();
        }
        self.runs.front_mut()?.take_bytes()
    }

    /// What was taken counts so many bytes.
    fn take_bytes_while(&mut self, mut takes: impl FnMut(&[u8]) -> bool) -> u64 {
        self.keep_looked_at();
        let mut cost = 0;
        while let Some(first) = self.messages.front() {
            if !takes(&first.payload) {
                return cost;
            }
            cost += first.cost();
            self.messages.pop_front();
        }
        while let Some(run) = self.runs.front_mut() {
            cost += run.take_while(&mut takes);
            if !run.is_empty() {
                break;
            }
            self.runs.pop_front();
        }
        cost
    }

    /// What was dropped counts so many bytes.
    fn drop_first(&mut self, count: usize) -> u64 {
        self.keep_looked_at();
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

    /// What was looked at is in the runs too.
    fn len(&self) -> usize {
        self.messages.len() + self.runs.iter().map(MessageBatch::len).sum::<usize>()
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.runs.iter().all(MessageBatch::is_empty)
    }
}

impl Left {
    fn lane(&self, lane: LaneId) -> Option<&LeftLane> {
        self.0.get(usize::from(lane.number()))
    }

    fn lane_mut(&mut self, lane: LaneId) -> Option<&mut LeftLane> {
        self.0.get_mut(usize::from(lane.number()))
    }

    /// Takes what has arrived.
    pub(crate) fn take_from(&mut self, session: &mut Session) {
        for (lane, run) in session.take_runs() {
            let index = usize::from(lane.number());
            if self.0.len() <= index {
                self.0.resize_with(index + 1, LeftLane::default);
            }
            self.0[index].push(run);
        }
    }

    /// Lets go of memory of which all messages were taken.
    pub(crate) fn release(&mut self) {
        self.0.iter_mut().for_each(LeftLane::release);
    }

    /// Gives back memory that past traffic has left in empty queues.
    pub(crate) fn shrink(&mut self) {
        for lane in self.0.iter_mut().filter(|lane| lane.is_empty()) {
            *lane = LeftLane::default();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(LeftLane::is_empty)
    }
}

/// Sees the events of an endpoint.
pub type Watch = Box<dyn Fn(&Event) + Send>;

/// Who hears of what an endpoint receives.
#[derive(Default)]
pub struct Reception {
    /// Gets the messages; without one they wait for [`Endpoint::recv`](crate::Endpoint::recv).
    pub inbox: Option<Box<dyn Inbox>>,
    /// Sees each event too, on the worker. Be short there.
    pub watch: Option<Watch>,
}

impl std::fmt::Debug for Reception {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reception")
            .field("inbox", &self.inbox.is_some())
            .field("watch", &self.watch.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at one message behind it too, and leaves that.
    fn take_while_one(incoming: &mut Incoming<'_>, lane: LaneId) -> Option<Vec<u8>> {
        let mut first = None;
        incoming.take_bytes_while(lane, |bytes| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| bytes.to_vec());
            is_first
        });
        first
    }

    /// What was taken, in all ways by turns, of messages that come and are left.
    #[test]
    fn messages_are_taken_in_order_however_they_are_looked_at_and_taken() {
        let (lane, mut taken) = (LaneId::FIRST, Taken::default());
        let (mut left, mut came, mut went) = (Left(vec![LeftLane::default()]), 0_u32, 0_u32);
        for round in 0..50_u32 {
            let fresh: Vec<_> = (came..came + round % 4).map(u32::to_be_bytes).collect();
            let fresh: Vec<_> = fresh.iter().map(|it| &it[..]).collect();
            left.0[0].push(MessageBatch::copied(&fresh));
            came += round % 4;
            let mut incoming = Incoming {
                left: &mut left,
                taken: &mut taken,
            };
            for behind in (0..came - went).filter(|_| round % 3 == 0) {
                let looked_at = incoming.get(lane, behind as usize).unwrap();
                assert_eq!(looked_at.payload, (went + behind).to_be_bytes()[..]);
            }
            for way in 0..round % 3 {
                let bytes = match (round + way) % 4 {
                    0 => incoming.take(lane).map(|it| it.payload.to_vec()),
                    1 => incoming.take_bytes(lane).map(<[u8]>::to_vec),
                    _ => take_while_one(&mut incoming, lane),
                };
                let expected = (went < came).then(|| went.to_be_bytes().to_vec());
                assert_eq!(bytes, expected);
                went += u32::from(went < came);
            }
            assert!(incoming.get(lane, (came - went) as usize).is_none());
            left.release();
            assert_eq!(left.is_empty(), came == went);
        }
        assert_eq!(taken.total(), u64::from(went) * 5);
    }

    #[test]
    fn what_is_dropped_counts_as_taken_and_the_rest_stays() {
        let (lane, mut taken) = (LaneId::FIRST, Taken::default());
        let mut left = Left(vec![LeftLane::default()]);
        for run in [&[&b"a"[..], b"bc"][..], &[b"def", b"g"]] {
            left.0[0].push(MessageBatch::copied(run));
        }
        let mut incoming = Incoming {
            left: &mut left,
            taken: &mut taken,
        };
        incoming.drop_first(LaneId::new(1).unwrap(), 1);
        // Over the end of a run; then of messages that were looked at.
        incoming.drop_first(lane, 2);
        assert_eq!(incoming.taken.total(), 2 + 3);
        assert_eq!(incoming.get(lane, 0).unwrap().payload, "def");
        incoming.drop_first(lane, 3);
        assert_eq!(incoming.taken.total(), 2 + 3 + 4 + 2);
        assert!(left.is_empty());
    }
}
