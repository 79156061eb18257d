//! Delivers messages and events to the user, and publishes the counters. No other file does either.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use selvedge_endpoint::{AttachmentId, Event, LaneId, MessageBatch, Session, SessionOutput};
use selvedge_transport::Info;

use crate::endpoint::{
    Consumed, EndpointShared, EventWatch, FilterAction, Inbox, Incoming, LaneFilter, ReceivedData,
    Reception, Unread,
};
use crate::guard::guarded;
use crate::sync::lock;

/// The receiving side of one endpoint on its worker.
pub(super) struct EndpointDelivery {
    inbox: Option<Box<dyn Inbox>>,
    /// Without an inbox: sees the messages of its lane before they are queued.
    filter: Option<LaneFilter>,
    /// What the filter has passed, until it is queued.
    passed: VecDeque<(LaneId, MessageBatch)>,
    watch: Option<EventWatch>,
    unread: Unread,
    /// Whether the inbox is to be called even if nothing has arrived.
    is_resumed: bool,
    /// Consumed by the inbox or the filter, and not turned into credit yet.
    consumed: Consumed,
    infos: Vec<(AttachmentId, Arc<Info>)>,
    /// The number of bytes sent, as published last.
    published_sent: u64,
}

impl EndpointDelivery {
    pub(super) fn new(reception: Reception) -> Self {
        Self {
            inbox: reception.inbox,
            filter: reception.filter,
            passed: VecDeque::new(),
            watch: reception.watch,
            unread: Unread::default(),
            is_resumed: false,
            consumed: Consumed::default(),
            infos: Vec::new(),
            published_sent: 0,
        }
    }

    pub(super) const fn has_inbox(&self) -> bool {
        self.inbox.is_some()
    }

    /// Whether messages may be consumed while they are delivered.
    pub(super) const fn consumes(&self) -> bool {
        self.inbox.is_some() || self.filter.is_some()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.unread.is_empty()
    }

    /// Drops the unread messages.
    pub(super) fn clear(&mut self) {
        self.unread.clear();
    }

    /// Frees memory that past traffic has left in empty queues.
    pub(super) fn shrink(&mut self) {
        self.unread.shrink();
        self.passed.shrink_to_fit();
    }

    /// The inbox is to be called at the next delivery, even if nothing has arrived.
    pub(super) const fn resume(&mut self) {
        self.is_resumed = true;
    }

    pub(super) fn attached(&mut self, attachment: AttachmentId, info: Arc<Info>) {
        self.infos.push((attachment, info));
    }

    pub(super) fn detached(&mut self, attachment: AttachmentId) {
        self.infos.retain(|(known, _)| *known != attachment);
    }

    /// Delivers all messages and events. Returns the attachments that the session has released.
    pub(super) fn deliver(
        &mut self,
        session: &mut Session,
        shared: &Arc<EndpointShared>,
    ) -> Vec<AttachmentId> {
        let (mut released, mut events) = (Vec::new(), Vec::new());
        while let Some(output) = session.poll_output() {
            match output {
                SessionOutput::Release { attachment, reason } => {
                    tracing::debug!(peer = %shared.peer, %reason, "a transport is released");
                    released.push(attachment);
                }
                SessionOutput::Event(event) => {
                    self.observe(&event, shared);
                    events.push(event);
                }
            }
        }
        if self.inbox.is_some() {
            self.call_inbox(events, session, shared);
        } else if session.has_messages() || !events.is_empty() {
            self.enqueue(events, session, shared);
        }
        released
    }

    /// Delivers the messages that have arrived so far to the inbox, if there is one, before the turn ends.
    pub(super) fn deliver_early(&mut self, session: &mut Session, shared: &Arc<EndpointShared>) {
        self.call_inbox(Vec::new(), session, shared);
    }

    /// Publishes which transport carries the messages, and passes the event to the watch.
    fn observe(&self, event: &Event, shared: &EndpointShared) {
        match event {
            Event::Attached { attachment } | Event::Moved { attachment } => {
                let mut infos = self.infos.iter().rev();
                let current = infos.find(|(known, _)| known == attachment);
                lock(&shared.received).transport = current.map(|(_, info)| Arc::clone(info));
            }
            Event::Detached { .. } | Event::Closed { .. } => {
                lock(&shared.received).transport = None;
            }
            _ => {}
        }
        if let Some(watch) = &self.watch {
            guarded("the watch of an endpoint", || watch(event));
        }
    }

    /// Enqueues messages and events for the threads of the user.
    fn enqueue(&mut self, events: Vec<Event>, session: &mut Session, shared: &Arc<EndpointShared>) {
        let is_filtered = self.filter.is_some();
        if is_filtered {
            self.call_filter(session, shared);
        }
        // What the filter has consumed wakes no reader.
        let is_readable = !is_filtered || !self.passed.is_empty() || !events.is_empty();
        let mut received = lock(&shared.received);
        if is_filtered {
            received.messages.extend(self.passed.drain(..));
        } else {
            received.messages.extend(session.take_batches());
        }
        for event in events {
            if let Event::Closed { reason, .. } = &event {
                received.closed = Some(*reason);
            }
            received.push_event(event);
        }
        self.publish(session, &mut received);
        drop(received);
        if is_readable {
            shared.readable.signal();
            shared.receive_waiters.notify();
        }
    }

    /// Passes the messages that have arrived through the filter, and grants credit for what it consumes.
    fn call_filter(&mut self, session: &mut Session, shared: &Arc<EndpointShared>) {
        let Some(LaneFilter { lane, filter }) = &mut self.filter else {
            return;
        };
        let (lane, passed, consumed) = (*lane, &mut self.passed, &mut self.consumed);
        let mut batches = session.take_batches();
        let called = catch_unwind(AssertUnwindSafe(|| {
            for (arrived_on, batch) in batches.by_ref() {
                if arrived_on != lane {
                    passed.push_back((arrived_on, batch));
                    continue;
                }
                for message in batch.into_messages(lane) {
                    match filter(&message.payload) {
                        FilterAction::Consume => consumed.add(lane, message.cost()),
                        FilterAction::Queue => {
                            passed.push_back((lane, MessageBatch::of_one(message.payload)));
                        }
                    }
                }
            }
        }));
        if called.is_err() {
            tracing::error!(peer = %shared.peer, "a lane filter panicked; its endpoint is closed");
            self.filter = None;
            passed.extend(batches.filter(|(arrived_on, _)| *arrived_on != lane));
            session.abort();
            // There may be no other cause for the turn that reports the end.
            shared.wake_worker();
        } else {
            drop(batches);
        }
        self.consumed
            .drain(|lane, bytes| session.consumed(lane, bytes));
    }

    fn call_inbox(
        &mut self,
        events: Vec<Event>,
        session: &mut Session,
        shared: &Arc<EndpointShared>,
    ) {
        let Some(inbox) = &mut self.inbox else { return };
        self.unread.take_from(session);
        for event in &events {
            if let Event::Closed { reason, .. } = event {
                lock(&shared.received).closed = Some(*reason);
                shared.receive_waiters.notify();
            }
        }
        let (unread, consumed) = (&mut self.unread, &mut self.consumed);
        let (is_resumed, mut events) = (std::mem::take(&mut self.is_resumed), events.into_iter());
        let called = catch_unwind(AssertUnwindSafe(|| {
            if is_resumed || !unread.is_empty() {
                inbox.on_messages(&mut Incoming::new(unread, consumed));
            }
            events.by_ref().for_each(|event| inbox.on_event(event));
        }));
        if called.is_err() {
            tracing::error!(peer = %shared.peer, "an inbox panicked; its endpoint is closed");
            self.inbox = None;
            self.unread.clear();
            session.abort();
            // The remaining events may report undelivered messages. The wake-up ensures a turn that
            // reports the end; there may be no other cause for one.
            self.enqueue(events.collect(), session, shared);
            shared.wake_worker();
        }
        self.unread.release();
        self.consumed
            .drain(|lane, bytes| session.consumed(lane, bytes));
    }

    /// Grants the peer credit for everything that the user has consumed.
    pub(super) fn grant_credit(&mut self, session: &mut Session, shared: &EndpointShared) {
        let mut received = lock(&shared.received);
        received
            .consumed
            .drain(|lane, bytes| session.consumed(lane, bytes));
        if self.inbox.is_none() && self.published_sent != session.stats().bytes_sent {
            // An endpoint that receives nothing publishes here. Not at the end of the turn: another lock,
            // on which a thread that begins to receive would block, takes 2 us of 57 a round trip.
            self.publish(session, &mut received);
        }
        drop(received);
        self.consumed
            .drain(|lane, bytes| session.consumed(lane, bytes));
    }

    /// Ends a turn: publishes the counters of an endpoint with an inbox, which no queue publishes. Once a
    /// turn, since the counters fill four cache lines.
    pub(super) fn end_turn(&mut self, session: &Session, shared: &EndpointShared) {
        if self.inbox.is_some() {
            self.publish(session, &mut lock(&shared.received));
        }
    }

    fn publish(&mut self, session: &Session, received: &mut ReceivedData) {
        let stats = session.stats();
        self.published_sent = stats.bytes_sent;
        received.stats = *stats;
        received.stats.bytes_in_flight = session.bytes_in_flight();
    }
}
