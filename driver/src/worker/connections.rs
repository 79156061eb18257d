//! Transports on a worker: dialed or accepted, driven, attached, closed.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use selvedge_endpoint::{AttachmentId, DetachReason};
use selvedge_transport::{
    DialError, DialTarget, Dialer, End, Frame, FrameSource, Instant, Listener, Phase, Progress,
    SendCapacity, Transport, Turn,
};

use super::{Accepted, Done, ListenerSlot, Slot, TimerKey, Worker, transport_token};
use crate::accept_rate::AcceptRate;
use crate::driver::Connected;
use crate::timers::Armed;

/// What a transport on a worker is there for.
pub(crate) enum Owner {
    /// It proves who is at the other end.
    Handshake { deadline: Instant, arrival: Arrival },
    /// It serves an endpoint.
    Endpoint {
        index: usize,
        attachment: AttachmentId,
    },
    /// It sends what it has taken and ends.
    Closing { deadline: Instant },
}

/// Who wants it when its handshake is done.
pub(crate) enum Arrival {
    Dialed(Done),
    Accepted(Accepted),
}

/// How long a transport may take to close in order.
const CLOSING_MAX: std::time::Duration = std::time::Duration::from_secs(10);

struct Nothing;

impl FrameSource for Nothing {
    fn next_frame(&mut self, _room: &SendCapacity) -> Option<Frame> {
        None
    }
}

impl Worker {
    pub(super) fn dial(&mut self, dialer: &dyn Dialer, target: &DialTarget, done: Done) {
        match dialer.dial(self.now, target) {
            Ok(transport) => self.begin_handshake(transport, Arrival::Dialed(done)),
            Err(error) => done(Err(error)),
        }
    }

    pub(super) fn listen(
        &mut self,
        mut listener: Box<dyn Listener>,
        accepted: Accepted,
        wanted: Weak<()>,
    ) {
        let entry = self.listeners.vacant_entry();
        let index = entry.key();
        let token = mio::Token(index << 1 | 1);
        if let Err(error) = listener.register(self.poll.registry(), token) {
            tracing::error!(%error, address = %listener.local_address(), "cannot listen");
            return;
        }
        entry.insert(ListenerSlot {
            listener,
            accepted,
            wanted,
            armed: Armed::default(),
            rate: AcceptRate::new(self.config.accepts_per_second),
        });
        self.accept(index);
    }

    /// Drops the listeners that nobody holds.
    pub(super) fn unlisten(&mut self) {
        let registry = self.poll.registry();
        self.listeners.retain(|_, slot| {
            let wanted = slot.wanted.strong_count() > 0;
            if !wanted && let Err(error) = slot.listener.deregister(registry) {
                tracing::debug!(%error, "a listener was not registered");
            }
            wanted
        });
    }

    pub(super) fn accept(&mut self, index: usize) {
        let mut transports = Vec::new();
        let Some(slot) = self.listeners.get_mut(index) else {
            return;
        };
        if let Some(until) = slot.rate.pause(self.now) {
            // No event comes for those who wait already.
            if let Some(at) = slot.armed.arm(Some(until)) {
                self.timers.push(at, TimerKey::Listener(index));
            }
            return;
        }
        let mut turn = Turn {
            now: self.now,
            buffer: &mut self.buffer,
            budget: self.config.budget,
            registry: self.poll.registry(),
        };
        let result = slot.listener.accept(&mut turn, &mut transports);
        slot.rate.accepted(self.now, transports.len());
        let next = match result {
            Ok(Progress::More) => Some(self.now),
            Ok(Progress::Idle) => slot.listener.timeout(),
            Err(error) => {
                tracing::error!(%error, address = %slot.listener.local_address(), "listening ended");
                self.listeners.remove(index);
                None
            }
        };
        if let Some(slot) = self.listeners.get_mut(index) {
            let accepted = Arc::clone(&slot.accepted);
            if let Some(at) = slot.armed.arm(next) {
                self.timers.push(at, TimerKey::Listener(index));
            }
            for transport in transports {
                self.begin_handshake(transport, Arrival::Accepted(Arc::clone(&accepted)));
            }
        }
    }

    fn begin_handshake(&mut self, transport: Box<dyn Transport>, arrival: Arrival) {
        if self.handshakes >= self.config.handshakes_max && matches!(arrival, Arrival::Accepted(_))
        {
            if let Some(refused) = self.refused.note(self.now) {
                let max = self.config.handshakes_max;
                tracing::warn!(
                    max,
                    refused,
                    "too many handshakes at once: connections are refused"
                );
            }
            return;
        }
        self.handshakes += 1;
        let deadline = self.now + self.config.handshake_max;
        match self.add_slot(transport, Owner::Handshake { deadline, arrival }) {
            Ok(index) => {
                self.timers
                    .push(deadline, TimerKey::Transport(index, self.generation));
                self.drive(index);
            }
            Err((owner, error)) => {
                self.handshakes -= 1;
                if let Owner::Handshake {
                    arrival: Arrival::Dialed(done),
                    ..
                } = owner
                {
                    done(Err(End::unreachable(error).into()));
                }
            }
        }
    }

    /// Registers a transport. It must be driven once: what came before has made its event.
    pub(super) fn add_slot(
        &mut self,
        mut transport: Box<dyn Transport>,
        owner: Owner,
    ) -> Result<usize, (Owner, std::io::Error)> {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let entry = self.slots.vacant_entry();
        let index = entry.key();
        let token = transport_token(index, generation);
        if let Err(error) = transport.register(self.poll.registry(), token) {
            return Err((owner, error));
        }
        let armed = Armed::default();
        entry.insert(Slot {
            transport,
            owner,
            generation,
            armed,
            is_busy: false,
        });
        Ok(index)
    }

    fn take_slot(&mut self, index: usize) -> Slot {
        let mut slot = self.slots.remove(index);
        // A socket that has failed may be gone from the poll already.
        if let Err(error) = slot.transport.deregister(self.poll.registry()) {
            tracing::debug!(%error, "deregistering");
        }
        slot
    }

    /// Takes a transport off this worker, to go to another.
    pub(super) fn take_transport(&mut self, index: usize) -> Box<dyn Transport> {
        self.take_slot(index).transport
    }

    /// Receives and sends what can be, then asks when to come back.
    pub(super) fn drive(&mut self, index: usize) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        match slot.owner {
            Owner::Handshake { .. } => self.drive_handshake(index),
            Owner::Endpoint {
                index: endpoint, ..
            } => self.drive_attached(index, endpoint),
            Owner::Closing { deadline } => self.drive_closing(index, deadline),
        }
        self.arm_slot(index);
    }

    pub(super) fn arm_slot(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index)
            && let Some(at) = slot.armed.arm(slot.transport.timeout())
        {
            self.timers
                .push(at, TimerKey::Transport(index, slot.generation));
        }
    }

    fn drive_handshake(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let Owner::Handshake { deadline, .. } = &slot.owner else {
            return;
        };
        let late = self.now >= *deadline;
        let mut turn = Turn {
            now: self.now,
            buffer: &mut self.buffer,
            budget: self.config.budget,
            registry: self.poll.registry(),
        };
        let mut early: Vec<Bytes> = Vec::new();
        let moved = slot
            .transport
            .recv(&mut turn, &mut early)
            .and_then(|_| slot.transport.send(&mut turn, &mut Nothing));
        let is_open = slot.transport.phase() == Phase::Open;
        let ended = match moved {
            Err(end) => Some(end),
            Ok(_) if is_open => None,
            Ok(_) if late => Some(End::TimedOut),
            Ok(progress) => return self.mark_busy(index, progress),
        };
        self.handshakes -= 1;
        let slot = self.take_slot(index);
        let Owner::Handshake { arrival, .. } = slot.owner else {
            return;
        };
        let connected = match (ended, slot.transport.info().peer) {
            (Some(end), _) => Err(DialError::from(end)),
            (None, Some(peer)) => Ok(Connected {
                transport: slot.transport,
                early,
                peer,
            }),
            (None, None) => Err(End::Misbehaved {
                what: "its transport opened without a peer",
            }
            .into()),
        };
        match (arrival, connected) {
            (Arrival::Dialed(done), connected) => done(connected),
            (Arrival::Accepted(accepted), Ok(connected)) => accepted(connected),
            (Arrival::Accepted(_), Err(error)) => tracing::debug!(%error, "a handshake failed"),
        }
    }

    fn drive_closing(&mut self, index: usize, deadline: Instant) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let mut turn = Turn {
            now: self.now,
            buffer: &mut self.buffer,
            budget: self.config.budget,
            registry: self.poll.registry(),
        };
        let mut late: Vec<Bytes> = Vec::new();
        let sent = slot
            .transport
            .send(&mut turn, &mut Nothing)
            .and_then(|_| slot.transport.recv(&mut turn, &mut late));
        match sent {
            Ok(progress) if self.now < deadline => self.mark_busy(index, progress),
            Ok(_) | Err(_) => drop(self.take_slot(index)),
        }
    }

    /// Closes a transport in order, on its own time.
    pub(super) fn close_slot(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let deadline = self.now + CLOSING_MAX;
        slot.owner = Owner::Closing { deadline };
        slot.transport.close(self.now);
        self.timers
            .push(deadline, TimerKey::Transport(index, slot.generation));
        self.drive_closing(index, deadline);
        self.arm_slot(index);
    }

    /// A transport of an endpoint has ended.
    pub(super) fn slot_ended(&mut self, index: usize, end: End) {
        let slot = self.take_slot(index);
        if let Owner::Endpoint {
            index: endpoint,
            attachment,
        } = slot.owner
            && let Some(entry) = self.endpoints.get_mut(endpoint)
        {
            entry.forget(attachment);
            entry.session.detach(attachment, DetachReason::Ended(end));
        }
    }
}
