//! What an endpoint has received and its user has not taken yet.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};
use selvedge_endpoint::{CloseReason, EndpointStats, Event};
use selvedge_transport::Info;

use super::consumed::Consumed;
use super::queue::MessageQueue;

/// How many events are kept for a user that does not take them. Beyond that, older events that only
/// describe transports are dropped.
const EVENTS_MAX: usize = 256;

/// The receive queues of an endpoint, and its state as the user may query it.
#[derive(Debug, Default)]
pub(crate) struct ReceivedData {
    pub(crate) messages: MessageQueue,
    pub(crate) events: VecDeque<Event>,
    pub(crate) consumed: Consumed,
    pub(crate) closed: Option<CloseReason>,
    pub(crate) stats: EndpointStats,
    pub(crate) transport: Option<Arc<Info>>,
}

impl ReceivedData {
    /// Frees memory that past traffic has left in empty queues.
    pub(crate) fn shrink(&mut self) {
        self.messages.shrink();
        if self.events.is_empty() {
            self.events.shrink_to_fit();
        }
    }

    /// Enqueues an event. Events that carry messages are never dropped.
    pub(crate) fn push_event(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            let carries_messages = |event: &Event| {
                use Event::{Closed, Dropped, PeerRestarted};
                matches!(event, PeerRestarted { .. } | Closed { .. } | Dropped { .. })
            };
            let mut events = self.events.iter();
            if let Some(at) = events.position(|event| !carries_messages(event)) {
                self.events.remove(at);
            }
        }
        self.events.push_back(event);
    }
}

/// The channel for `select!` over several endpoints. It is created on first use, since it takes
/// 640 bytes, a tenth of the memory allowed for an idle endpoint.
#[derive(Debug, Default)]
pub(crate) struct ReadableSignal(OnceLock<(Sender<()>, Receiver<()>)>);

impl ReadableSignal {
    pub(crate) fn receiver(&self) -> &Receiver<()> {
        let (_, receiver) = self.0.get_or_init(|| {
            let (sender, receiver) = bounded(1);
            // Data that arrived before the channel existed was not signalled.
            let _has_room = sender.try_send(());
            (sender, receiver)
        });
        receiver
    }

    /// Call after the lock was held under which messages or events were enqueued: a thread that created
    /// the channel and found the queues empty before is signalled here, and a thread that creates it
    /// later finds a signal in it.
    pub(crate) fn signal(&self) {
        if let Some((sender, _)) = self.0.get() {
            // A full channel holds a signal already.
            let _already_signalled = sender.try_send(());
        }
    }
}
