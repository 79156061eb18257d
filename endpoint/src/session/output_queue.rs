//! What a session has for its user and its driver: events, and transports to release.

use std::collections::VecDeque;

use crate::event::{AttachmentId, CloseReason, DetachReason, Event, SessionOutput};
use crate::lane::{LaneId, Message};

/// The outputs that were not polled yet, in their order.
#[derive(Debug, Default)]
pub(super) struct OutputQueue(VecDeque<SessionOutput>);

impl OutputQueue {
    pub(super) fn event(&mut self, event: Event) {
        self.0.push_back(SessionOutput::Event(event));
    }

    /// Requests the driver to close a transport.
    pub(super) fn release(&mut self, attachment: AttachmentId, reason: DetachReason) {
        self.0
            .push_back(SessionOutput::Release { attachment, reason });
    }

    /// Messages were dropped while the peer could not be reached.
    pub(super) fn dropped(&mut self, lanes: impl Iterator<Item = (LaneId, u64)>) {
        for (lane, messages) in lanes {
            self.event(Event::Dropped { lane, messages });
        }
    }

    /// Messages were accepted while the session ended: they belong to its end, if that was not
    /// polled yet.
    pub(super) fn undelivered(&mut self, more: Vec<Message>) {
        let unreported = self.0.iter_mut().find_map(|output| match output {
            SessionOutput::Event(Event::Closed { undelivered, .. }) => Some(undelivered),
            _ => None,
        });
        match unreported {
            Some(undelivered) => undelivered.extend(more),
            None => self.event(Event::Closed {
                reason: CloseReason::Aborted,
                undelivered: more,
            }),
        }
    }

    pub(super) fn poll(&mut self) -> Option<SessionOutput> {
        self.0.pop_front()
    }

    /// Frees the memory of an empty queue.
    pub(super) fn shrink(&mut self) {
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
    }
}
