//! A receiver that is called on the worker which has read the bytes.

use selvedge_endpoint::{Event, LaneId, Message};

use super::consumed::Consumed;
use super::lane_filter::LaneFilter;
use super::unread::Unread;

/// Receives the messages of an endpoint on its worker: no queue, no wake-up, no other thread.
///
/// The methods must return soon and must not block: everything else on the worker waits meanwhile. A panic
/// closes the endpoint and does not affect the worker.
pub trait Inbox: Send {
    /// Messages have arrived, or [`Endpoint::resume`](crate::Endpoint::resume) was called. Take as many as
    /// can be handled. Unread messages stay, and block the peer once they fill the window.
    fn on_messages(&mut self, incoming: &mut Incoming<'_>);

    /// An event has occurred on the endpoint.
    fn on_event(&mut self, event: Event);
}

/// The unread messages of an endpoint, in order on each lane.
#[derive(Debug)]
pub struct Incoming<'a> {
    unread: &'a mut Unread,
    consumed: &'a mut Consumed,
}

impl<'a> Incoming<'a> {
    pub(crate) const fn new(unread: &'a mut Unread, consumed: &'a mut Consumed) -> Self {
        Self { unread, consumed }
    }

    /// The first message of `lane`, which stays unread.
    #[must_use]
    pub fn peek(&self, lane: LaneId) -> Option<&Message> {
        self.get(lane, 0)
    }

    /// The message of `lane` with so many before it, which stays unread.
    #[must_use]
    pub fn get(&self, lane: LaneId, skip: usize) -> Option<&Message> {
        self.unread.lane(lane)?.get(lane, skip)
    }

    /// How many messages of `lane` are unread.
    #[must_use]
    pub fn len(&self, lane: LaneId) -> usize {
        self.unread.lane(lane).map_or(0, |it| it.len())
    }

    /// Takes the first message of `lane`.
    pub fn take(&mut self, lane: LaneId) -> Option<Message> {
        let message = self.unread.lane_mut(lane)?.take(lane)?;
        self.consumed.add(lane, message.cost());
        Some(message)
    }

    /// Takes the first message of `lane` by reference, if only its bytes are read. That spares a small
    /// message a reference count of its own on the memory it was received into.
    pub fn take_bytes(&mut self, lane: LaneId) -> Option<&[u8]> {
        let bytes = self.unread.lane_mut(lane)?.take_bytes()?;
        self.consumed.add(lane, Message::cost_of(bytes.len()));
        Some(bytes)
    }

    /// Passes the messages of `lane` to `takes` by reference, in order, and takes each for which it returns
    /// true, up to the first for which it does not. For a receiver that may leave messages unread: it
    /// spares a peek before each message.
    pub fn take_bytes_while(&mut self, lane: LaneId, takes: impl FnMut(&[u8]) -> bool) {
        if let Some(unread) = self.unread.lane_mut(lane) {
            self.consumed.add(lane, unread.take_bytes_while(takes));
        }
    }

    /// Takes and drops the first so many messages of `lane`, or all if there are fewer.
    pub fn drop_first(&mut self, lane: LaneId, count: usize) {
        if let Some(unread) = self.unread.lane_mut(lane) {
            self.consumed.add(lane, unread.drop_first(count));
        }
    }
}

/// Observes the events of an endpoint on its worker.
pub type EventWatch = Box<dyn Fn(&Event) + Send>;

/// The receivers of an endpoint.
#[derive(Default)]
pub struct Reception {
    /// Receives the messages; without it they are queued for [`Endpoint::recv`](crate::Endpoint::recv).
    pub inbox: Option<Box<dyn Inbox>>,
    /// Handles messages of one lane on the worker. An inbox receives every lane: beside one, the filter has
    /// no effect.
    pub filter: Option<LaneFilter>,
    /// Observes each event in addition, on the worker. It must return soon and must not block.
    pub watch: Option<EventWatch>,
}

impl std::fmt::Debug for Reception {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reception")
            .field("inbox", &self.inbox.is_some())
            .field("filter", &self.filter)
            .field("watch", &self.watch.is_some())
            .finish()
    }
}
