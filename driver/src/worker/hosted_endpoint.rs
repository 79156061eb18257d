//! An endpoint on its worker: the session between its queues and its transports.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use selvedge_endpoint::{AttachmentId, DetachReason, Session};
use selvedge_transport::{
    End, Frame, FrameSink, FrameSource, Instant, NodeId, SendCapacity, Transport,
};

use super::connections::{ConnectionPurpose, Connections};
use super::delivery::EndpointDelivery;
use super::placement::{Candidate, Cooldown};
use super::schedule::{Armed, Schedule, TimerKey};
use crate::connected::Connected;
use crate::endpoint::{EndpointCommand, EndpointShared, Reception};
use crate::sync::lock;

/// What a turn costs before a byte is moved, in bytes that take the same time: system calls, locks and
/// wake-ups, a few microseconds.
const TURN_WEIGHT: u64 = 4096;

/// How many messages gather before an inbox is called within a turn. A turn may receive 16,000 of 64 B: until
/// its end, they and their table would have left the caches.
const MESSAGES_AT_ONCE: usize = 512;

/// An endpoint on the worker where it lives. It moves between workers as a whole.
pub(crate) struct HostedEndpoint {
    shared: Arc<EndpointShared>,
    session: Session,
    delivery: EndpointDelivery,
    /// The attachments of the session, each with the index of its connection.
    attachments: Vec<(AttachmentId, usize)>,
    next_attachment: u64,
    armed: Armed,
    /// Transports that move to another worker with the endpoint.
    travelling: Vec<(AttachmentId, Box<dyn Transport>)>,
    /// Whether its user has placed it.
    is_pinned: bool,
    cooldown: Cooldown,
    shrink_state: ShrinkState,
    /// How many turns it had.
    turns: u64,
    /// The work that it had done when it was last weighed.
    weighed: u64,
}

/// How many bytes an endpoint had moved when its timer expired last, and whether it was shrunk since.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct ShrinkState {
    moved: u64,
    is_shrunk: bool,
}

/// Takes the frames that a session sends on one attachment.
struct SessionSource<'a> {
    session: &'a mut Session,
    attachment: AttachmentId,
    now: Instant,
}

impl FrameSource for SessionSource<'_> {
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame> {
        self.session.poll_frame(self.now, self.attachment, capacity)
    }
}

/// Passes the frames that arrive on one attachment to the session, and many messages to the inbox early.
struct SessionSink<'a> {
    endpoint: &'a mut HostedEndpoint,
    attachment: AttachmentId,
    now: Instant,
}

impl FrameSink for SessionSink<'_> {
    fn frame(&mut self, frame: Bytes) {
        let HostedEndpoint {
            shared,
            session,
            delivery,
            ..
        } = &mut *self.endpoint;
        session.handle_frame(self.now, self.attachment, frame);
        if session.messages_len() >= MESSAGES_AT_ONCE && delivery.has_inbox() {
            delivery.deliver_early(session, shared);
        }
    }
}

impl HostedEndpoint {
    pub(crate) fn new(shared: Arc<EndpointShared>, session: Session, reception: Reception) -> Self {
        Self {
            shared,
            session,
            delivery: EndpointDelivery::new(reception),
            attachments: Vec::new(),
            next_attachment: 0,
            armed: Armed::default(),
            travelling: Vec::new(),
            is_pinned: false,
            cooldown: Cooldown::default(),
            shrink_state: ShrinkState::default(),
            turns: 0,
            weighed: 0,
        }
    }

    pub(super) fn peer(&self) -> NodeId {
        self.shared.peer
    }

    pub(super) fn belongs_to(&self, shared: &Arc<EndpointShared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    pub(super) const fn is_attached(&self) -> bool {
        self.session.current().is_some()
    }

    /// One turn: receive, deliver, collect, transmit, arm. `readable` is the connection that may have
    /// received something, if that caused the turn. Returns what becomes of the endpoint.
    pub(super) fn turn(
        &mut self,
        index: usize,
        readable: Option<(usize, AttachmentId)>,
        connections: &mut Connections,
        schedule: &mut Schedule,
    ) -> TurnEnd {
        self.turns += 1;
        let mut released = Vec::new();
        if let Some((connection, attachment)) = readable {
            self.receive(connection, attachment, connections, schedule.now);
            // Delivered before it is acknowledged: if this process dies in between, the peer reports the
            // messages. What an inbox sends is collected below, so wake-ups are suppressed until then.
            self.shared.wake_flag.suppress();
            released = self.deliver();
        }
        let destination = self.collect(index, connections, schedule.now);
        self.transmit(connections, schedule);
        match self.end_turn(index, released, connections, schedule) {
            TurnEnd::Stay => destination.map_or(TurnEnd::Stay, TurnEnd::Migrate),
            ended => ended,
        }
    }

    /// Receives frames on one connection.
    fn receive(
        &mut self,
        connection: usize,
        attachment: AttachmentId,
        connections: &mut Connections,
        now: Instant,
    ) {
        let mut sink = SessionSink {
            endpoint: self,
            attachment,
            now,
        };
        if let Err(end) = connections.receive(connection, &mut sink, now) {
            self.connection_ended(connection, attachment, end, connections);
        }
    }

    /// Delivers messages and events to the user. Returns the attachments to close.
    fn deliver(&mut self) -> Vec<AttachmentId> {
        if self.session.is_closed() {
            // Collects late sends, so that one `Closed` event reports everything undelivered: a hub reacts
            // to it with one new endpoint.
            self.sync_send_buffer();
        }
        self.delivery.deliver(&mut self.session, &self.shared)
    }

    /// Collects what the user has enqueued: messages, consumed bytes and commands. Returns the worker to
    /// which the endpoint is to move.
    fn collect(
        &mut self,
        index: usize,
        connections: &mut Connections,
        now: Instant,
    ) -> Option<usize> {
        self.shared.wake_flag.clear();
        let commands = std::mem::take(&mut *lock(&self.shared.commands));
        self.sync_send_buffer();
        let mut destination = None;
        for command in commands {
            match command {
                EndpointCommand::Attach(connected) => {
                    self.attach(index, connected, connections, now);
                }
                EndpointCommand::Admit(lane) => {
                    self.session.admit(lane);
                    let attached = self.attachments.iter();
                    attached.for_each(|(_, connection)| connections.admit(*connection));
                }
                EndpointCommand::Close => self.close(now),
                EndpointCommand::CloseWithin(linger) => {
                    let buffer = &mut lock(&self.shared.send_buffer);
                    self.session.close_within(now, linger, buffer);
                    self.shared.send_waiters.notify();
                }
                EndpointCommand::Abort => self.session.abort(),
                EndpointCommand::Migrate(worker) => {
                    self.is_pinned = true;
                    destination = Some(worker);
                }
                EndpointCommand::Resume => self.delivery.resume(),
            }
        }
        destination
    }

    /// Moves accepted messages into the session, and frees what was acknowledged.
    fn sync_send_buffer(&mut self) {
        let mut send_buffer = lock(&self.shared.send_buffer);
        let before = send_buffer.used();
        self.session.sync_send_buffer(&mut send_buffer);
        let has_room = send_buffer.used() < before || send_buffer.is_closed();
        drop(send_buffer);
        self.delivery.grant_credit(&mut self.session, &self.shared);
        if has_room {
            self.shared.send_waiters.notify();
        }
    }

    fn attach(
        &mut self,
        index: usize,
        connected: Connected,
        connections: &mut Connections,
        now: Instant,
    ) {
        let (info, id) = (
            connected.transport.info(),
            AttachmentId(self.next_attachment),
        );
        self.next_attachment += 1;
        if let Err(error) = self.session.attach(now, id, info.role, info.reliable) {
            tracing::warn!(peer = %self.shared.peer, %error, "a connection was not attached");
            return;
        }
        self.delivery.attached(id, Arc::new(info.clone()));
        for frame in connected.early {
            self.session.handle_frame(now, id, frame);
        }
        let mut transport = connected.transport;
        if !self.session.is_admission_pending() {
            transport.admit();
        }
        self.add_connection(index, id, transport, connections);
    }

    fn add_connection(
        &mut self,
        index: usize,
        attachment: AttachmentId,
        transport: Box<dyn Transport>,
        connections: &mut Connections,
    ) {
        match connections.add(transport, ConnectionPurpose::Endpoint { index, attachment }) {
            Ok(connection) => {
                self.attachments.push((attachment, connection));
                connections.mark_busy(connection);
            }
            Err((_, error)) => {
                let ended = DetachReason::Ended(End::broken(error));
                self.session.detach(attachment, ended);
            }
        }
    }

    /// Sends on each connection what the session has for it.
    pub(super) fn transmit(&mut self, connections: &mut Connections, schedule: &mut Schedule) {
        let mut at = 0;
        while let Some(&(attachment, connection)) = self.attachments.get(at) {
            let mut source = SessionSource {
                session: &mut self.session,
                attachment,
                now: schedule.now,
            };
            match connections.transmit(connection, &mut source, schedule) {
                Ok(()) => at += 1,
                Err(end) => self.connection_ended(connection, attachment, end, connections),
            }
        }
    }

    fn connection_ended(
        &mut self,
        connection: usize,
        attachment: AttachmentId,
        end: End,
        connections: &mut Connections,
    ) {
        drop(connections.remove(connection));
        self.forget(attachment);
        self.session.detach(attachment, DetachReason::Ended(end));
    }

    /// Removes an attachment. Returns its connection.
    fn forget(&mut self, attachment: AttachmentId) -> Option<usize> {
        self.delivery.detached(attachment);
        let mut known = self.attachments.iter();
        let at = known.position(|(known, _)| *known == attachment)?;
        Some(self.attachments.remove(at).1)
    }

    /// Delivers what collecting and transmitting have produced, closes released connections, and pushes
    /// the next timer.
    pub(super) fn end_turn(
        &mut self,
        index: usize,
        mut released: Vec<AttachmentId>,
        connections: &mut Connections,
        schedule: &mut Schedule,
    ) -> TurnEnd {
        released.extend(self.deliver());
        if self.delivery.consumes() && self.wants_to_send() {
            // The inbox or the filter has consumed messages: the peer may be waiting for the credit.
            self.transmit(connections, schedule);
            released.extend(self.deliver());
        }
        self.delivery.end_turn(&self.session, &self.shared);
        for attachment in released {
            if let Some(connection) = self.forget(attachment) {
                connections.close(connection, schedule);
            }
        }
        self.arm(index, schedule);
        if self.session.is_done() && self.delivery.is_drained() {
            // Producers that still wait are refused.
            self.sync_send_buffer();
            self.deliver();
            self.delivery.end_turn(&self.session, &self.shared);
            return TurnEnd::Remove;
        }
        TurnEnd::Stay
    }

    /// Pushes a timer for the session's next deadline.
    fn arm(&mut self, index: usize, schedule: &mut Schedule) {
        let ticks_from = schedule.ticks_from();
        let deadline = self.session.poll_timeout_by_ticks(ticks_from);
        schedule.arm(&mut self.armed, deadline, TimerKey::Endpoint(index));
    }

    /// Handles an expired timer. Returns whether a deadline was due: mostly the deadline has moved since,
    /// because something was received or sent.
    pub(super) fn on_timer(&mut self, index: usize, schedule: &mut Schedule) -> bool {
        self.armed.fired(schedule.now);
        let ticks_from = schedule.ticks_from();
        let deadline = self.session.poll_timeout_by_ticks(ticks_from);
        if deadline.is_some_and(|at| at > schedule.now) {
            schedule.arm(&mut self.armed, deadline, TimerKey::Endpoint(index));
            return false;
        }
        self.session.handle_timeout(schedule.now);
        true
    }

    fn wants_to_send(&self) -> bool {
        self.attachments
            .iter()
            .any(|(attachment, _)| self.session.wants_to_send(*attachment))
    }

    /// Begins to close in order.
    pub(super) fn close(&mut self, now: Instant) {
        self.session.close(now, &mut lock(&self.shared.send_buffer));
        // Threads that wait for room are refused.
        self.shared.send_waiters.notify();
    }

    /// Ends the endpoint at once, for every thread that waits on it: the worker has stopped.
    pub(crate) fn abandon(&mut self) {
        self.delivery.clear();
        self.session
            .sync_send_buffer(&mut lock(&self.shared.send_buffer));
        self.session.abort();
        self.sync_send_buffer();
        self.deliver();
        self.delivery.end_turn(&self.session, &self.shared);
    }

    /// Frees memory that traffic has left, if nothing has moved between two expired timers: up to 4 MiB
    /// for each lane of a sender, and 40 bytes for each message received at once.
    pub(super) fn shrink_if_idle(&mut self) {
        let stats = self.session.stats();
        let moved = stats.bytes_sent + stats.bytes_received;
        let shrunk = ShrinkState {
            moved,
            is_shrunk: true,
        };
        if self.shrink_state.moved != moved {
            self.shrink_state = ShrinkState {
                moved,
                is_shrunk: false,
            };
        } else if self.shrink_state != shrunk {
            self.shrink_state = shrunk;
            self.session.shrink();
            self.delivery.shrink();
            lock(&self.shared.send_buffer).shrink();
            lock(&self.shared.received).shrink();
        }
    }

    /// Leaves this worker for another one, with its transports.
    pub(super) fn leave_for(&mut self, worker: usize, connections: &mut Connections) {
        for (attachment, connection) in std::mem::take(&mut self.attachments) {
            let transport = connections.remove(connection);
            self.travelling.push((attachment, transport));
        }
        self.shared.wake_flag.move_to(worker);
    }

    /// Arrives on this worker, at this index of its table.
    pub(super) fn arrive(&mut self, index: usize, connections: &mut Connections) {
        self.armed = Armed::default();
        self.weighed = self.work_done();
        self.shared.wake_flag.settle(index);
        for (attachment, transport) in std::mem::take(&mut self.travelling) {
            self.add_connection(index, attachment, transport, connections);
        }
    }

    /// Its work so far, in about the bytes moved.
    const fn work_done(&self) -> u64 {
        let stats = self.session.stats();
        stats.bytes_sent + stats.bytes_received + self.turns * TURN_WEIGHT
    }

    /// Its work since the last call, which was an interval ago.
    pub(super) fn candidate(&mut self, key: usize, now: Instant) -> Candidate {
        let done = self.work_done();
        let weight = done.saturating_sub(self.weighed) as f64;
        self.weighed = done;
        Candidate {
            key,
            weight,
            may_move: !self.is_pinned && self.cooldown.is_over(now),
        }
    }

    /// The balancer moves it, and lets it stay where it moves to for a while.
    pub(super) fn begin_cooldown(&mut self, now: Instant, interval: Duration) {
        self.cooldown.begin(now, interval);
    }
}

/// What becomes of an endpoint after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnEnd {
    Stay,
    /// It is to move to another worker.
    Migrate(usize),
    /// It has ended.
    Remove,
}
