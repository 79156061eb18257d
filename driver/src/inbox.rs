//! A receiver that is called on the worker which read the bytes.

use std::collections::VecDeque;

use selvedge_endpoint::{Event, Message};

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

/// Messages that wait on an endpoint, in order.
#[derive(Debug)]
pub struct Incoming<'a> {
    pub(crate) queue: &'a mut VecDeque<Message>,
    pub(crate) taken: &'a mut Taken,
}

impl Incoming<'_> {
    /// The first message, left where it is.
    #[must_use]
    pub fn peek(&self) -> Option<&Message> {
        self.queue.front()
    }

    /// Takes the first message.
    pub fn take(&mut self) -> Option<Message> {
        let message = self.queue.pop_front()?;
        self.taken.add(&message);
        Some(message)
    }
}

/// Who hears of what an endpoint receives.
#[derive(Default)]
pub(crate) struct Reception {
    pub(crate) inbox: Option<Box<dyn Inbox>>,
    pub(crate) watch: Option<Box<dyn Fn(&Event) + Send>>,
}
