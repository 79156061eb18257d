//! The transports of a worker: in their handshake, attached to an endpoint, or closing.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mio::{Events, Poll, Registry};
use selvedge_endpoint::AttachmentId;
use selvedge_transport::{
    DialError, End, Frame, FrameSink, FrameSource, Instant, PeerNetwork, Phase, Progress,
    ReadBuffer, SendCapacity, Transport, Turn,
};
use slab::Slab;

use super::schedule::{Armed, Schedule, TimerKey};
use super::token;
use crate::config::DriverConfig;
use crate::connected::Connected;
use crate::fair_slots::{FairSlots, SlotHolder};
use crate::log_throttle::LogThrottle;
use crate::recent_set::RecentSet;
use crate::sync::lock;
use crate::wake::{AcceptCallback, DialCallback};

/// How long a transport may take to close in order.
const CLOSING_MAX: Duration = Duration::from_secs(10);

/// How many networks of admitted peers a driver remembers: 100 KiB.
const KNOWN_NETWORKS_MAX: usize = 4096;

/// The networks of peers that were admitted, for all workers of a driver.
#[derive(Debug, Clone)]
pub(crate) struct KnownNetworks(Arc<Mutex<RecentSet<PeerNetwork>>>);

impl Default for KnownNetworks {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(RecentSet::new(KNOWN_NETWORKS_MAX))))
    }
}

impl KnownNetworks {
    pub(crate) fn insert(&self, network: PeerNetwork) {
        lock(&self.0).insert(network);
    }

    /// The claimant of a slot for a connection from that network.
    fn holder(&self, network: Option<PeerNetwork>) -> SlotHolder {
        match network {
            Some(network) if lock(&self.0).contains(&network) => SlotHolder::Known,
            network => SlotHolder::Stranger(network),
        }
    }
}

/// What a transport is on a worker for.
pub(super) enum ConnectionPurpose {
    /// It authenticates the peer.
    Handshake {
        deadline: Instant,
        origin: HandshakeOrigin,
    },
    /// It serves an endpoint.
    Endpoint {
        index: usize,
        attachment: AttachmentId,
    },
    /// It sends what it has buffered, and ends.
    Closing { deadline: Instant },
}

/// The origin of a handshake, which determines the callback for the connection.
pub(super) enum HandshakeOrigin {
    Dialed(DialCallback),
    Accepted(AcceptCallback, SlotHolder),
}

/// A transport on this worker.
struct ConnectionSlot {
    transport: Box<dyn Transport>,
    purpose: ConnectionPurpose,
    /// Distinguishes the events of this transport from those of an earlier one with the same index.
    generation: u32,
    armed: Armed,
    is_busy: bool,
}

/// A source without frames, for a transport that carries no session.
struct EmptySource;

impl FrameSource for EmptySource {
    fn next_frame(&mut self, _capacity: &SendCapacity) -> Option<Frame> {
        None
    }
}

/// The table of transports, and the poll in which they are registered.
pub(super) struct Connections {
    poll: Poll,
    slots: Slab<ConnectionSlot>,
    buffer: ReadBuffer,
    /// How many bytes a transport may move each way in one turn.
    budget: usize,
    handshake_max: Duration,
    /// The handshakes of accepted connections, by their index.
    handshakes: FairSlots<usize>,
    handshakes_max: usize,
    known: KnownNetworks,
    /// Handshakes given up because too many were in progress.
    evicted: LogThrottle,
    /// The generation of the slot that was filled last.
    generation: u32,
    /// Transports that had more to do than their budget allowed.
    busy: Vec<usize>,
}

impl Connections {
    pub(super) fn new(poll: Poll, config: &DriverConfig, known: KnownNetworks) -> Self {
        Self {
            poll,
            slots: Slab::new(),
            buffer: ReadBuffer::default(),
            budget: config.budget,
            handshake_max: config.handshake_max,
            handshakes: FairSlots::new(config.handshakes_max),
            handshakes_max: config.handshakes_max,
            known,
            evicted: LogThrottle::default(),
            generation: 0,
            busy: Vec::new(),
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    pub(super) fn poll(
        &mut self,
        events: &mut Events,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        self.poll.poll(events, timeout)
    }

    /// What a transport or listener needs for one turn.
    pub(super) fn turn(&mut self, now: Instant) -> Turn<'_> {
        Turn {
            now,
            buffer: &mut self.buffer,
            budget: self.budget,
            registry: self.poll.registry(),
        }
    }

    fn slot_and_turn(
        &mut self,
        index: usize,
        now: Instant,
    ) -> Option<(&mut ConnectionSlot, Turn<'_>)> {
        let turn = Turn {
            now,
            buffer: &mut self.buffer,
            budget: self.budget,
            registry: self.poll.registry(),
        };
        Some((self.slots.get_mut(index)?, turn))
    }

    /// Those with something to do at `now`, for a simulation.
    pub(super) fn due(&self, now: Instant) -> Vec<usize> {
        let slots = self.slots.iter();
        let due = slots.filter(|(_, it)| it.transport.timeout().is_some_and(|at| at <= now));
        due.map(|(index, _)| index).collect()
    }

    /// The earliest deadline that a transport has, for a simulation.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let slots = self.slots.iter();
        slots.filter_map(|(_, it)| it.transport.timeout()).min()
    }

    pub(super) fn has_closing(&self) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|(_, slot)| matches!(slot.purpose, ConnectionPurpose::Closing { .. }))
    }

    /// The endpoint that a transport serves, and as which attachment.
    pub(super) fn endpoint(&self, index: usize) -> Option<(usize, AttachmentId)> {
        match self.slots.get(index)?.purpose {
            ConnectionPurpose::Endpoint { index, attachment } => Some((index, attachment)),
            ConnectionPurpose::Handshake { .. } | ConnectionPurpose::Closing { .. } => None,
        }
    }

    /// Passes an event of the poll to its transport. Returns whether that still exists.
    pub(super) fn on_event(
        &mut self,
        index: usize,
        generation: u32,
        event: &mio::event::Event,
    ) -> bool {
        let slot = self.slots.get_mut(index);
        let Some(slot) = slot.filter(|slot| slot.generation == generation) else {
            return false;
        };
        slot.transport.on_event(event);
        true
    }

    /// Handles an expired timer of a transport. Returns whether that still exists.
    pub(super) fn on_timer(&mut self, index: usize, generation: u32, now: Instant) -> bool {
        let slot = self.slots.get_mut(index);
        let Some(slot) = slot.filter(|slot| slot.generation == generation) else {
            return false;
        };
        slot.armed.fired(now);
        if slot.transport.timeout().is_some_and(|at| at <= now) {
            slot.transport.on_timeout(now);
        }
        true
    }

    /// Begins the handshake of a connection that a listener has accepted.
    pub(super) fn begin_accepted(
        &mut self,
        transport: Box<dyn Transport>,
        accepted: AcceptCallback,
        schedule: &mut Schedule,
    ) {
        let network = transport.info().remote.as_ref().and_then(PeerNetwork::of);
        let holder = self.known.holder(network);
        let origin = HandshakeOrigin::Accepted(accepted, holder);
        self.begin_handshake(transport, origin, schedule);
    }

    pub(super) fn begin_handshake(
        &mut self,
        transport: Box<dyn Transport>,
        origin: HandshakeOrigin,
        schedule: &mut Schedule,
    ) {
        let deadline = schedule.now + self.handshake_max;
        let holder = match origin {
            HandshakeOrigin::Accepted(_, holder) => Some(holder),
            HandshakeOrigin::Dialed(_) => None,
        };
        match self.add(transport, ConnectionPurpose::Handshake { deadline, origin }) {
            Ok(index) => {
                if let Some(holder) = holder
                    && !self.claim_slot(index, holder, schedule.now)
                {
                    return;
                }
                let key = TimerKey::Connection(index, self.generation);
                schedule.timers.push(deadline, key);
                self.drive(index, schedule);
                self.arm(index, schedule);
            }
            Err((purpose, error)) => {
                if let ConnectionPurpose::Handshake {
                    origin: HandshakeOrigin::Dialed(done),
                    ..
                } = purpose
                {
                    done(Err(End::unreachable(error).into()));
                }
            }
        }
    }

    /// Claims a slot for a handshake, which may end another one. Returns whether there was one; otherwise the
    /// connection has been closed.
    fn claim_slot(&mut self, index: usize, holder: SlotHolder, now: Instant) -> bool {
        let Some(evicted) = self.handshakes.claim(holder, index) else {
            return true;
        };
        if let Some(count) = self.evicted.record(now) {
            let remote = self
                .slots
                .get(evicted)
                .and_then(|slot| slot.transport.info().remote.clone());
            let remote = remote.map_or_else(String::new, |it| it.to_string());
            let max = self.handshakes_max;
            tracing::warn!(
                max,
                count,
                remote,
                "too many handshakes: closed the oldest of the busiest network"
            );
        }
        drop(self.take(evicted));
        evicted != index
    }

    /// Registers a transport. It must be driven once: edge-triggered events may have been reported before.
    pub(super) fn add(
        &mut self,
        mut transport: Box<dyn Transport>,
        purpose: ConnectionPurpose,
    ) -> Result<usize, (ConnectionPurpose, io::Error)> {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let entry = self.slots.vacant_entry();
        let index = entry.key();
        let token = token::connection(index, generation);
        if let Err(error) = transport.register(self.poll.registry(), token) {
            return Err((purpose, error));
        }
        entry.insert(ConnectionSlot {
            transport,
            purpose,
            generation,
            armed: Armed::default(),
            is_busy: false,
        });
        Ok(index)
    }

    /// Removes a transport from the table and the poll.
    pub(super) fn remove(&mut self, index: usize) -> Box<dyn Transport> {
        self.take(index).transport
    }

    fn take(&mut self, index: usize) -> ConnectionSlot {
        let mut slot = self.slots.remove(index);
        // The poll may have dropped a failed socket already.
        if let Err(error) = slot.transport.deregister(self.poll.registry()) {
            tracing::debug!(%error, "cannot deregister a transport");
        }
        slot
    }

    /// Drives a transport that serves no endpoint.
    pub(super) fn drive(&mut self, index: usize, schedule: &Schedule) {
        match self.slots.get(index).map(|slot| &slot.purpose) {
            Some(ConnectionPurpose::Handshake { deadline, .. }) => {
                let is_late = schedule.now >= *deadline;
                self.drive_handshake(index, is_late, schedule.now);
            }
            Some(ConnectionPurpose::Closing { deadline }) => {
                let is_late = schedule.now >= *deadline;
                self.drive_closing(index, is_late, schedule.now);
            }
            Some(ConnectionPurpose::Endpoint { .. }) | None => {}
        }
    }

    fn drive_handshake(&mut self, index: usize, is_late: bool, now: Instant) {
        let Some((slot, mut turn)) = self.slot_and_turn(index, now) else {
            return;
        };
        let mut early: Vec<Bytes> = Vec::new();
        let driven = slot
            .transport
            .recv(&mut turn, &mut early)
            .and_then(|_| slot.transport.send(&mut turn, &mut EmptySource));
        let is_open = slot.transport.phase() == Phase::Open;
        let ended = match driven {
            Err(end) => Some(end),
            Ok(_) if is_open => None,
            Ok(_) if is_late => Some(End::TimedOut),
            Ok(progress) => return self.note_progress(index, progress),
        };
        let slot = self.take(index);
        let ConnectionPurpose::Handshake { origin, .. } = slot.purpose else {
            return;
        };
        if let HandshakeOrigin::Accepted(_, holder) = origin {
            self.handshakes.release(holder, &index);
        }
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
        match (origin, connected) {
            (HandshakeOrigin::Dialed(done), connected) => done(connected),
            (HandshakeOrigin::Accepted(accepted, _), Ok(connected)) => accepted(connected),
            (HandshakeOrigin::Accepted(..), Err(error)) => {
                tracing::debug!(%error, "a handshake failed");
            }
        }
    }

    fn drive_closing(&mut self, index: usize, is_late: bool, now: Instant) {
        let Some((slot, mut turn)) = self.slot_and_turn(index, now) else {
            return;
        };
        let mut ignored: Vec<Bytes> = Vec::new();
        let driven = slot
            .transport
            .send(&mut turn, &mut EmptySource)
            .and_then(|_| slot.transport.recv(&mut turn, &mut ignored));
        match driven {
            Ok(progress) if !is_late => self.note_progress(index, progress),
            Ok(_) | Err(_) => drop(self.take(index)),
        }
    }

    /// Closes a transport in order, independently of its endpoint.
    pub(super) fn close(&mut self, index: usize, schedule: &mut Schedule) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let deadline = schedule.now + CLOSING_MAX;
        slot.purpose = ConnectionPurpose::Closing { deadline };
        slot.transport.close(schedule.now);
        let key = TimerKey::Connection(index, slot.generation);
        schedule.timers.push(deadline, key);
        self.drive_closing(index, false, schedule.now);
        self.arm(index, schedule);
    }

    /// Lifts the limits of a transport whose peer was admitted.
    pub(super) fn admit(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.transport.admit();
        }
    }

    /// Receives frames on a transport.
    pub(super) fn receive(
        &mut self,
        index: usize,
        sink: &mut dyn FrameSink,
        now: Instant,
    ) -> Result<(), End> {
        let Some((slot, mut turn)) = self.slot_and_turn(index, now) else {
            return Ok(());
        };
        let progress = slot.transport.recv(&mut turn, sink)?;
        self.note_progress(index, progress);
        Ok(())
    }

    /// Sends frames on a transport while it has room.
    pub(super) fn transmit(
        &mut self,
        index: usize,
        source: &mut dyn FrameSource,
        schedule: &mut Schedule,
    ) -> Result<(), End> {
        let Some((slot, mut turn)) = self.slot_and_turn(index, schedule.now) else {
            return Ok(());
        };
        match slot.transport.send(&mut turn, source)? {
            Progress::Idle => self.arm(index, schedule),
            Progress::More => self.mark_busy(index),
        }
        Ok(())
    }

    /// Pushes a timer for the next deadline of a transport.
    pub(super) fn arm(&mut self, index: usize, schedule: &mut Schedule) {
        if let Some(slot) = self.slots.get_mut(index) {
            let key = TimerKey::Connection(index, slot.generation);
            schedule.arm(&mut slot.armed, slot.transport.timeout(), key);
        }
    }

    fn note_progress(&mut self, index: usize, progress: Progress) {
        if progress == Progress::More {
            self.mark_busy(index);
        }
    }

    /// Requests another turn for a transport before the worker sleeps.
    pub(super) fn mark_busy(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index)
            && !std::mem::replace(&mut slot.is_busy, true)
        {
            self.busy.push(index);
        }
    }

    pub(super) const fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }

    /// The transports that had more to do than their budget allowed.
    pub(super) fn take_busy(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.busy)
    }

    /// Whether a transport from [`take_busy`](Self::take_busy) still needs its turn.
    pub(super) fn unmark_busy(&mut self, index: usize) -> bool {
        let slot = self.slots.get_mut(index);
        slot.is_some_and(|slot| std::mem::take(&mut slot.is_busy))
    }
}
