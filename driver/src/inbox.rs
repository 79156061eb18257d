//! A receiver that is called on the worker which read the bytes.

use std::collections::VecDeque;

use selvedge_endpoint::{Event, LaneId, Message, Session};

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
        self.left.lane(lane)?.get(behind)
    }

    /// Takes the first message of `lane`.
    pub fn take(&mut self, lane: LaneId) -> Option<Message> {
        let message = self.left.lane_mut(lane).pop_front()?;
        self.taken.add(&message);
        Some(message)
    }
}

/// Messages that an inbox has left, by lane.
#[derive(Debug, Default)]
pub(crate) struct Left(Vec<VecDeque<Message>>);

impl Left {
    fn lane(&self, lane: LaneId) -> Option<&VecDeque<Message>> {
        self.0.get(usize::from(lane.number()))
    }

    fn lane_mut(&mut self, lane: LaneId) -> &mut VecDeque<Message> {
        let index = usize::from(lane.number());
        if self.0.len() <= index {
            self.0.resize_with(index + 1, VecDeque::new);
        }
        &mut self.0[index]
    }

    /// Takes what has arrived: in a swap if it is all for a lane of which nothing is left.
    pub(crate) fn take_from(&mut self, session: &mut Session) {
        if let Some(lane) = session.messages_lane() {
            let left = self.lane_mut(lane);
            if left.is_empty() {
                return session.swap_messages(left);
            }
        }
        for message in session.take_messages() {
            self.lane_mut(message.lane).push_back(message);
        }
    }

    /// Gives back memory that past traffic has left in empty queues.
    pub(crate) fn shrink(&mut self) {
        for lane in self.0.iter_mut().filter(|lane| lane.is_empty()) {
            lane.shrink_to_fit();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(VecDeque::is_empty)
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
