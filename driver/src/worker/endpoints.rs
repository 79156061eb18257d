//! Endpoints on a worker: their sessions between queues and transports.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use selvedge_endpoint::{AttachmentId, Event, Session, SessionOutput};
use selvedge_transport::{
    End, Frame, FrameSink, FrameSource, Info, Instant, NodeId, Progress, SendCapacity, Transport,
    Turn,
};

use super::{Owner, TimerKey, Worker};
use crate::bells::Found;
use crate::driver::Connected;
use crate::inbox::{Inbox, Incoming, Left, Reception, Watch};
use crate::placement::Rest;
use crate::shared::{Control, Shared, Taken, lock};
use crate::timers::Armed;

/// An endpoint where it lives. It moves between workers whole.
pub(crate) struct Entry {
    shared: Arc<Shared>,
    pub(super) session: Session,
    inbox: Option<Box<dyn Inbox>>,
    watch: Option<Watch>,
    left: Left,
    /// Whether the inbox is to be called even if nothing came.
    resumed: bool,
    taken: Taken,
    attachments: Vec<(AttachmentId, usize)>,
    infos: Vec<(AttachmentId, Arc<Info>)>,
    next_attachment: u64,
    armed: Armed,
    /// Transports on their way with the endpoint to another worker.
    travelling: Vec<(AttachmentId, Box<dyn Transport>)>,
    /// Whether its user has said where it lives.
    pub(super) is_pinned: bool,
    pub(super) rest: Rest,
    rested: Rested,
    /// How many bytes its user was told were sent.
    told_sent: u64,
    /// How often it was looked after.
    turns: u64,
    /// How much work it had done when it was last weighed.
    pub(super) weighed: u64,
}

/// What an endpoint had moved when it was last looked at for that, in bytes, and whether it was shrunk
/// since.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Rested {
    moved: u64,
    shrunk: bool,
}

/// What a turn costs before it moves a byte, in bytes moved for the same time: system calls, locks
/// and wake-ups, a few microseconds.
const TURN_WEIGHT: u64 = 4096;

/// How many messages gather before an inbox is called within a turn. A turn may bring 16,000 of 64 B:
/// kept until its end they and their table would have left the caches before the inbox sees them.
const MESSAGES_AT_ONCE: usize = 512;

struct Pulling<'a>(&'a mut Session, AttachmentId, Instant);

impl FrameSource for Pulling<'_> {
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame> {
        self.0.poll_frame(self.2, self.1, capacity)
    }
}

struct Pushing<'a>(&'a mut Entry, AttachmentId, Instant);

impl FrameSink for Pushing<'_> {
    fn frame(&mut self, frame: Bytes) {
        self.0.session.handle_frame(self.2, self.1, frame);
        if self.0.session.messages_len() >= MESSAGES_AT_ONCE && self.0.inbox.is_some() {
            self.0.call_inbox(Vec::new());
        }
    }
}

impl Entry {
    pub(crate) fn new(shared: Arc<Shared>, session: Session, reception: Reception) -> Self {
        Self {
            shared,
            session,
            inbox: reception.inbox,
            watch: reception.watch,
            left: Left::default(),
            resumed: false,
            taken: Taken::default(),
            attachments: Vec::new(),
            infos: Vec::new(),
            next_attachment: 0,
            armed: Armed::default(),
            travelling: Vec::new(),
            is_pinned: false,
            rest: Rest::default(),
            rested: Rested::default(),
            told_sent: 0,
            turns: 0,
            weighed: 0,
        }
    }

    pub(super) fn forget(&mut self, attachment: AttachmentId) {
        self.attachments.retain(|(known, _)| *known != attachment);
        self.infos.retain(|(known, _)| *known != attachment);
    }

    /// The worker has stopped: the endpoint is over for everyone who waits on it.
    pub(crate) fn abandon(&mut self) {
        self.session.exchange(&mut lock(&self.shared.outbox));
        self.session.abort();
        self.exchange();
        self.hand_over();
        self.tell_stats();
    }

    pub(super) fn peer(&self) -> NodeId {
        self.shared.peer
    }

    /// How much it has worked so far, about in bytes moved.
    pub(super) const fn work_done(&self) -> u64 {
        let stats = self.session.stats();
        stats.bytes_sent + stats.bytes_received + self.turns * TURN_WEIGHT
    }

    /// Gives back what traffic has left behind, once nothing has moved between two of its timers: that
    /// is up to 64 KiB for a sender and 40 bytes for each message that came at once.
    fn shrink_at_rest(&mut self) {
        let stats = self.session.stats();
        let moved = stats.bytes_sent + stats.bytes_received;
        let at_rest = Rested {
            moved,
            shrunk: true,
        };
        if self.rested.moved != moved {
            self.rested = Rested {
                moved,
                shrunk: false,
            };
        } else if self.rested != at_rest {
            self.rested = at_rest;
            self.session.shrink();
            self.left.shrink();
            lock(&self.shared.outbox).shrink();
            lock(&self.shared.received).shrink();
        }
    }

    fn wants_to_send(&self) -> bool {
        self.attachments
            .iter()
            .any(|(attachment, _)| self.session.wants_to_send(*attachment))
    }

    /// Takes what producers handed in, returns what was acknowledged.
    fn exchange(&mut self) {
        let mut outbox = lock(&self.shared.outbox);
        let before = outbox.used();
        self.session.exchange(&mut outbox);
        let freed = outbox.used() < before || outbox.is_closed();
        drop(outbox);
        let session = &mut self.session;
        let mut received = lock(&self.shared.received);
        received
            .taken
            .drain(|lane, bytes| session.taken(lane, bytes));
        let stats = session.stats();
        if self.inbox.is_none() && self.told_sent != stats.bytes_sent {
            // Where no message is queued nothing else tells it. Not at the end of the turn: a lock of
            // its own, for which a thread that begins to receive would wait, is 2 us of 57 a round trip.
            self.told_sent = stats.bytes_sent;
            received.stats = *stats;
        }
        drop(received);
        self.taken.drain(|lane, bytes| session.taken(lane, bytes));
        if freed {
            self.shared.sending.notify();
        }
    }

    /// Ends it in order.
    fn close(&mut self, now: Instant) {
        self.session.close(now, &mut lock(&self.shared.outbox));
        // Whoever waits for room is refused.
        self.shared.sending.notify();
    }

    /// Hands messages and events to the user. Returns the transports to close.
    fn hand_over(&mut self) -> Vec<AttachmentId> {
        let (mut released, mut events) = (Vec::new(), Vec::new());
        if self.session.is_closed() {
            // What was handed in while it ended is told with its end, and not some time later as another
            // one: who sees it asks once what was not delivered, and a hub makes one new endpoint.
            self.exchange();
        }
        while let Some(output) = self.session.poll_output() {
            match output {
                SessionOutput::Release { attachment, reason } => {
                    tracing::debug!(peer = ?self.shared.peer, %reason, "a transport is released");
                    released.push(attachment);
                }
                SessionOutput::Event(event) => {
                    self.note(&event);
                    events.push(event);
                }
            }
        }
        if self.inbox.is_some() {
            self.call_inbox(events);
        } else if self.session.has_messages() || !events.is_empty() {
            self.queue(events);
        }
        released
    }

    /// Says which transport carries the messages, and lets the watcher see.
    fn note(&self, event: &Event) {
        match event {
            Event::Attached { attachment } | Event::Moved { attachment } => {
                let infos = self.infos.iter();
                let current = infos.rev().find(|(known, _)| known == attachment);
                lock(&self.shared.received).transport = current.map(|(_, info)| Arc::clone(info));
            }
            Event::Detached { .. } | Event::Closed { .. } => {
                lock(&self.shared.received).transport = None;
            }
            _ => {}
        }
        if let Some(watch) = &self.watch {
            watch(event);
        }
    }

    fn queue(&mut self, events: Vec<Event>) {
        let mut received = lock(&self.shared.received);
        received.messages.extend(self.session.take_runs());
        for event in events {
            if let Event::Closed { reason, .. } = &event {
                received.closed = Some(*reason);
            }
            received.push_event(event);
        }
        received.stats = *self.session.stats();
        drop(received);
        self.shared.readable.signal();
        self.shared.receiving.notify();
    }

    fn call_inbox(&mut self, events: Vec<Event>) {
        let Some(inbox) = &mut self.inbox else { return };
        self.left.take_from(&mut self.session);
        for event in &events {
            if let Event::Closed { reason, .. } = event {
                lock(&self.shared.received).closed = Some(*reason);
                self.shared.receiving.notify();
            }
        }
        let (left, taken) = (&mut self.left, &mut self.taken);
        let (resumed, mut events) = (std::mem::take(&mut self.resumed), events.into_iter());
        let called = catch_unwind(AssertUnwindSafe(|| {
            if resumed || !left.is_empty() {
                inbox.on_messages(&mut Incoming { left, taken });
            }
            events.by_ref().for_each(|event| inbox.on_event(event));
        }));
        if called.is_err() {
            tracing::error!(peer = ?self.shared.peer, "an inbox panicked; its endpoint is closed");
            self.inbox = None;
            self.left.clear();
            self.session.abort();
            // What it has not seen may say what was not delivered; and nothing else may bring a turn in
            // which the end is told.
            self.queue(events.collect());
            self.shared.ring();
        }
        self.left.release();
        let session = &mut self.session;
        self.taken.drain(|lane, bytes| session.taken(lane, bytes));
    }

    /// Says what was counted, where nobody else does: once a turn, since that is four cache lines.
    fn tell_stats(&self) {
        if self.inbox.is_some() {
            lock(&self.shared.received).stats = *self.session.stats();
        }
    }
}

impl Worker {
    /// Takes in an endpoint, new or from another worker.
    pub(super) fn adopt(&mut self, mut entry: Entry) {
        let travelling = std::mem::take(&mut entry.travelling);
        entry.armed = Armed::default();
        entry.weighed = entry.work_done();
        let place = self.endpoints.vacant_entry();
        let index = place.key();
        entry.shared.bell.settle(index);
        place.insert(Box::new(entry));
        for (attachment, transport) in travelling {
            self.add_attached(index, attachment, transport);
        }
        self.serve(index);
    }

    fn add_attached(
        &mut self,
        index: usize,
        attachment: AttachmentId,
        transport: Box<dyn Transport>,
    ) {
        let slot = self.add_slot(transport, Owner::Endpoint { index, attachment });
        let Some(entry) = self.endpoints.get_mut(index) else {
            return;
        };
        match slot {
            Ok(slot) => {
                entry.attachments.push((attachment, slot));
                self.busy.push(slot);
                self.slots[slot].is_busy = true;
            }
            Err((_, error)) => {
                let ended = selvedge_endpoint::DetachReason::Ended(End::broken(error));
                entry.session.detach(attachment, ended);
            }
        }
    }

    /// Somebody rang for an endpoint: here, or where it has moved meanwhile.
    pub(super) fn answer_bell(&mut self, shared: &Arc<Shared>) {
        let place = match shared.bell.find(self.number) {
            Found::Here { place } => place,
            Found::Moved { home } => return self.mailboxes[home].ring(Arc::clone(shared)),
        };
        let entry = self.endpoints.get(place);
        if entry.is_some_and(|entry| Arc::ptr_eq(&entry.shared, shared)) {
            self.serve(place);
        }
    }

    /// The worker stops: ends an endpoint in order if its peer is there, else at once.
    pub(super) fn wind_up(&mut self, index: usize) {
        match self.endpoints.get_mut(index) {
            Some(entry) if entry.session.current().is_some() => {
                entry.close(self.now);
                self.send_all(index);
                self.settle(index);
            }
            Some(_) => self.abandon(index),
            None => {}
        }
    }

    /// Ends an endpoint at once, and tells its peer.
    pub(super) fn abandon(&mut self, index: usize) {
        if let Some(entry) = self.endpoints.get_mut(index) {
            entry.left.clear();
            entry.abandon();
            self.send_all(index);
            self.settle(index);
        }
    }

    pub(super) fn endpoint_due(&mut self, index: usize) {
        let began = *self.began.get_or_insert(self.now);
        let Some(entry) = self.endpoints.get_mut(index) else {
            return;
        };
        entry.armed.fired(self.now);
        let next = entry.session.poll_timeout_by_ticks(began);
        if next.is_some_and(|at| at > self.now) {
            // Deadlines mostly move on before they come: something was heard, or was said.
            self.arm_endpoint(index, next);
        } else {
            entry.session.handle_timeout(self.now);
            self.serve(index);
        }
        if let Some(entry) = self.endpoints.get_mut(index) {
            entry.shrink_at_rest();
        }
    }

    fn arm_endpoint(&mut self, index: usize, at: Option<Instant>) {
        if let Some(at) = self.endpoints[index].armed.arm(at) {
            self.timers.push(at, TimerKey::Endpoint(index));
        }
    }

    /// Everything an endpoint needs: its user's wishes, its queues, its transports.
    fn serve(&mut self, index: usize) {
        let Some(entry) = self.endpoints.get_mut(index) else {
            return;
        };
        entry.shared.bell.answer();
        entry.turns += 1;
        let control = std::mem::take(&mut *lock(&entry.shared.control));
        entry.exchange();
        let mut destination = None;
        for control in control {
            match control {
                Control::Attach(connected) => self.attach(index, connected),
                Control::Close => self.endpoints[index].close(self.now),
                Control::Abort => self.endpoints[index].session.abort(),
                Control::Migrate(worker) => {
                    self.endpoints[index].is_pinned = true;
                    destination = Some(worker);
                }
                Control::Resume => self.endpoints[index].resumed = true,
            }
        }
        self.send_all(index);
        self.settle(index);
        if let Some(worker) = destination.filter(|&worker| worker != self.number) {
            self.emigrate(index, worker);
        }
    }

    fn attach(&mut self, index: usize, connected: Connected) {
        let entry = &mut self.endpoints[index];
        let (info, id) = (
            connected.transport.info(),
            AttachmentId(entry.next_attachment),
        );
        entry.next_attachment += 1;
        if let Err(error) = entry.session.attach(self.now, id, info.role, info.reliable) {
            tracing::warn!(peer = ?entry.shared.peer, %error, "a connection was not attached");
            return;
        }
        entry.infos.push((id, Arc::new(info.clone())));
        for frame in connected.early {
            entry.session.handle_frame(self.now, id, frame);
        }
        self.add_attached(index, id, connected.transport);
    }

    /// Bytes have come or room has, on one transport of an endpoint.
    pub(super) fn drive_attached(&mut self, slot: usize, index: usize) {
        let (Some(place), Some(entry)) = (self.slots.get_mut(slot), self.endpoints.get_mut(index))
        else {
            return;
        };
        let Owner::Endpoint { attachment, .. } = place.owner else {
            return;
        };
        let mut turn = Turn {
            now: self.now,
            buffer: &mut self.buffer,
            budget: self.config.budget,
            registry: self.poll.registry(),
        };
        let mut sink = Pushing(entry, attachment, self.now);
        match place.transport.recv(&mut turn, &mut sink) {
            Ok(progress) => self.mark_busy(slot, progress),
            Err(end) => self.slot_ended(slot, end),
        }
        let entry = &mut self.endpoints[index];
        entry.turns += 1;
        // The user first: what an inbox has not seen is not acknowledged, and if this process dies
        // then, the peer reports it.
        //
        // What it sends is taken right after: ringing for it would cost another turn.
        entry.shared.bell.hold();
        let released = entry.hand_over();
        entry.shared.bell.answer();
        entry.exchange();
        if !lock(&entry.shared.control).is_empty() {
            entry.shared.ring();
        }
        self.send_all(index);
        self.settle_with(index, released);
    }

    fn send_all(&mut self, index: usize) {
        let Some(entry) = self.endpoints.get(index) else {
            return;
        };
        for at in 0..entry.attachments.len() {
            let Some(&(attachment, slot)) = self.endpoints[index].attachments.get(at) else {
                break;
            };
            self.send_on(index, attachment, slot);
        }
    }

    fn send_on(&mut self, index: usize, attachment: AttachmentId, slot: usize) {
        let entry = &mut self.endpoints[index];
        let mut turn = Turn {
            now: self.now,
            buffer: &mut self.buffer,
            budget: self.config.budget,
            registry: self.poll.registry(),
        };
        let mut source = Pulling(&mut entry.session, attachment, self.now);
        match self.slots[slot].transport.send(&mut turn, &mut source) {
            Ok(Progress::Idle) => self.arm_slot(slot),
            Ok(Progress::More) => self.mark_busy(slot, Progress::More),
            Err(end) => self.slot_ended(slot, end),
        }
    }

    /// Hands over what came out, closes what was released, and asks when to come back.
    fn settle(&mut self, index: usize) {
        self.settle_with(index, Vec::new());
    }

    fn settle_with(&mut self, index: usize, mut released: Vec<AttachmentId>) {
        let began = *self.began.get_or_insert(self.now);
        let Some(entry) = self.endpoints.get_mut(index) else {
            return;
        };
        released.extend(entry.hand_over());
        if entry.inbox.is_some() && entry.wants_to_send() {
            // The inbox has taken messages: the peer may be waiting for the credit.
            self.send_all(index);
            released.extend(self.endpoints[index].hand_over());
        }
        self.endpoints[index].tell_stats();
        for attachment in released {
            let entry = &mut self.endpoints[index];
            let slot = entry
                .attachments
                .iter()
                .find(|(known, _)| *known == attachment);
            if let Some(&(_, slot)) = slot {
                entry.forget(attachment);
                self.close_slot(slot);
            }
        }
        let entry = &mut self.endpoints[index];
        let next = entry.session.poll_timeout_by_ticks(began);
        self.arm_endpoint(index, next);
        let entry = &mut self.endpoints[index];
        if entry.session.is_done() && entry.left.is_empty() {
            // Producers that still wait learn that it is over.
            entry.exchange();
            entry.hand_over();
            entry.tell_stats();
            self.endpoints.remove(index);
        }
    }

    /// Moves an endpoint and its transports to another worker.
    pub(super) fn emigrate(&mut self, index: usize, worker: usize) {
        let Some(mut entry) = self.endpoints.try_remove(index) else {
            return;
        };
        for (attachment, slot) in std::mem::take(&mut entry.attachments) {
            let transport = self.take_transport(slot);
            entry.travelling.push((attachment, transport));
        }
        entry.shared.bell.leave_for(worker);
        if let Err(entry) = self.mailboxes[worker].adopt(*entry) {
            // That worker has stopped, and soon this one will: here it still ends in order.
            entry.shared.bell.leave_for(self.number);
            self.adopt(*entry);
        }
    }
}
