//! One end of a session, from the point of view of its user and its driver.

use bytes::Bytes;
use selvedge_endpoint::{
    AttachmentId, Event, LaneId, Message, SendBuffer, SendError, Session, SessionConfig,
    SessionOutput,
};
use selvedge_transport::NodeId;

/// A session, its send buffer, and its outputs.
#[derive(Debug)]
pub struct Side {
    /// The session.
    pub session: Session,
    /// Enqueued messages that the session has not drained.
    pub outbox: SendBuffer,
    /// Received messages in order.
    pub received: Vec<Message>,
    /// Events in order.
    pub events: Vec<Event>,
    /// Lanes whose messages the user does not read.
    pub stalled: Vec<LaneId>,
    pub(crate) released: Vec<AttachmentId>,
    waiting: Vec<Message>,
}

impl Side {
    /// Side 0 or 1 as a process that has just started.
    #[must_use]
    pub fn new(number: u8, config: &SessionConfig, incarnation: u64) -> Self {
        let (own, other) = (NodeId::new([number; 32]), NodeId::new([1 - number; 32]));
        Self {
            session: Session::new(config.clone(), own, other, incarnation),
            outbox: SendBuffer::new(config),
            received: Vec::new(),
            events: Vec::new(),
            stalled: Vec::new(),
            released: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Enqueues a message.
    ///
    /// # Errors
    /// As [`SendBuffer::push`]; also [`SendError::UnknownLane`] for an impossible lane number.
    pub fn send(&mut self, lane: u8, payload: impl Into<Bytes>) -> Result<(), SendError> {
        let payload = payload.into();
        match LaneId::new(lane) {
            Some(lane) => {
                // Long messages come with heads of every length.
                let head_len = payload.len() % 31;
                let (head, body) = (&payload[..head_len], payload.slice(head_len..));
                let sent = self.outbox.push_message(lane, head, &body);
                // The refusal with the whole payload.
                sent.or_else(|_| self.outbox.push(lane, payload.clone()))
            }
            None => Err(SendError::UnknownLane(payload)),
        }
    }

    /// The payloads that arrived on a lane, in order.
    pub fn payloads(&self, lane: u8) -> impl Iterator<Item = &Bytes> {
        let on_lane = move |message: &&Message| message.lane.number() == lane;
        self.received.iter().filter(on_lane).map(|m| &m.payload)
    }

    pub(crate) fn take_waiting(&mut self) {
        self.waiting.extend(self.session.take_messages());
        self.received.append(&mut self.waiting);
    }

    /// Moves everything between session and user. Returns whether anything moved.
    pub(crate) fn turn(&mut self) -> bool {
        let mut moved = self.session.sync_send_buffer(&mut self.outbox);
        while let Some(output) = self.session.poll_output() {
            moved = true;
            match output {
                SessionOutput::Event(event) => self.events.push(event),
                SessionOutput::Release { attachment, .. } => self.released.push(attachment),
            }
        }
        self.waiting.extend(self.session.take_messages());
        for message in std::mem::take(&mut self.waiting) {
            if self.stalled.contains(&message.lane) {
                self.waiting.push(message);
            } else {
                moved = true;
                self.session.consumed(message.lane, message.cost());
                self.received.push(message);
            }
        }
        moved
    }
}
