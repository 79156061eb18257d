//! Two sessions and the transports between them, in virtual time.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use selvedge_endpoint::{
    AttachmentId, DetachReason, Event, LaneId, Message, SendBuffer, SendError, Session,
    SessionConfig, SessionOutput,
};
use selvedge_transport::{FrameOrder, Instant, LaneSet, NodeId, Role, SendCapacity};

/// One side: a session, its send buffer, and its outputs.
pub(crate) struct Side {
    pub(crate) session: Session,
    pub(crate) send_buffer: SendBuffer,
    pub(crate) received: Vec<Message>,
    pub(crate) events: Vec<Event>,
    pub(crate) released: Vec<AttachmentId>,
    /// Whether messages are read as soon as they arrive.
    pub(crate) reads: bool,
}

impl Side {
    pub(crate) fn new(number: u8, config: &SessionConfig, incarnation: u64) -> Self {
        let (own, other) = (NodeId::new([number; 32]), NodeId::new([1 - number; 32]));
        Self {
            session: Session::new(config.clone(), own, other, incarnation),
            send_buffer: SendBuffer::new(config),
            received: Vec::new(),
            events: Vec::new(),
            released: Vec::new(),
            reads: true,
        }
    }

    pub(crate) fn send(&mut self, lane: u8, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.send_buffer.push(
            LaneId::new(lane).expect("tests use few lanes"),
            payload.into(),
        )
    }

    pub(crate) fn payloads(&self, lane: u8) -> Vec<Bytes> {
        let on_lane = |m: &&Message| m.lane.number() == lane;
        self.received
            .iter()
            .filter(on_lane)
            .map(|m| m.payload.clone())
            .collect()
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                SessionOutput::Event(event) => self.events.push(event),
                SessionOutput::Release { attachment, .. } => self.released.push(attachment),
            }
        }
        if self.reads {
            let messages: Vec<_> = self.session.take_messages().collect();
            for message in &messages {
                self.session.consumed(message.lane, message.cost());
            }
            self.received.extend(messages);
        }
    }
}

/// A reliable transport: the frames in flight in each direction, in order per [`FrameOrder`].
pub(crate) struct Pipe {
    pub(crate) id: AttachmentId,
    pub(crate) up: bool,
    in_flight: [VecDeque<(FrameOrder, Bytes)>; 2],
}

pub(crate) struct Pair {
    pub(crate) sides: [Side; 2],
    pub(crate) pipes: Vec<Pipe>,
    pub(crate) now: Instant,
    pub(crate) rng: fastrand::Rng,
    /// Frames that may be in flight in one direction of one pipe.
    pub(crate) capacity: usize,
    pub(crate) frame_max: usize,
    next_id: u64,
}

impl Pair {
    pub(crate) fn new(config: &SessionConfig, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            sides: [0, 1].map(|n| Side::new(n, config, rng.u64(1..))),
            pipes: Vec::new(),
            now: Instant::from_origin(Duration::from_secs(1)),
            rng,
            capacity: 8,
            frame_max: 256,
            next_id: 0,
        }
    }

    /// Opens a transport dialed by `dialer`.
    pub(crate) fn connect(&mut self, dialer: usize) -> AttachmentId {
        self.next_id += 1;
        let id = AttachmentId(self.next_id);
        for (number, side) in self.sides.iter_mut().enumerate() {
            let role = if number == dialer {
                Role::Dialer
            } else {
                Role::Acceptor
            };
            if side.session.attach(self.now, id, role, true).is_err() {
                // A driver would close the transport, so the other side detaches it, too.
                self.sides
                    .iter_mut()
                    .for_each(|s| s.session.detach(id, DetachReason::Local));
                return id;
            }
        }
        self.pipes.push(Pipe {
            id,
            up: true,
            in_flight: Default::default(),
        });
        id
    }

    /// Cuts a transport: the frames in flight are lost.
    pub(crate) fn cut(&mut self, id: AttachmentId) {
        self.pipes.retain(|pipe| pipe.id != id);
        for side in &mut self.sides {
            side.session.detach(id, DetachReason::Local);
        }
    }

    /// Closes a transport in order on one side: the frames in flight still arrive, then the other
    /// side detaches it.
    fn close(&mut self, id: AttachmentId, from: usize) {
        let Some(at) = self.pipes.iter().position(|pipe| pipe.id == id) else {
            return;
        };
        let mut pipe = self.pipes.remove(at);
        while let Some((_, frame)) = pipe.in_flight[from].pop_front() {
            self.sides[1 - from]
                .session
                .handle_frame(self.now, id, frame);
        }
        self.sides[1 - from].session.detach(id, DetachReason::Local);
    }

    /// One random step. Returns whether it made progress.
    pub(crate) fn step(&mut self) -> bool {
        let mut progress = false;
        for number in 0..2 {
            let side = &mut self.sides[number];
            progress |= side.session.sync_send_buffer(&mut side.send_buffer);
            side.drain();
            let released: Vec<_> = std::mem::take(&mut self.sides[number].released);
            for id in released {
                self.close(id, number);
                progress = true;
            }
        }
        for at in 0..self.pipes.len() {
            for from in 0..2 {
                if at < self.pipes.len() {
                    progress |= self.move_frames(at, from);
                }
            }
        }
        progress
    }

    fn move_frames(&mut self, at: usize, from: usize) -> bool {
        let (frame_max, budget) = (self.frame_max, self.rng.usize(0..4));
        let mut progress = false;
        let pipe = &mut self.pipes[at];
        let capacity = SendCapacity {
            frame_max,
            datagram_max: frame_max,
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        for _ in 0..budget {
            if pipe.in_flight[from].len() >= self.capacity {
                break;
            }
            let Some(frame) = self.sides[from]
                .session
                .poll_frame(self.now, pipe.id, &capacity)
            else {
                break;
            };
            assert!(
                frame.order == FrameOrder::Control || frame.len() <= frame_max,
                "{frame:?}"
            );
            let mut bytes = BytesMut::new();
            frame.write_to(&mut bytes);
            pipe.in_flight[from].push_back((frame.order, bytes.freeze()));
            progress = true;
        }
        for _ in 0..self.rng.usize(0..4) {
            let Some(&(first, _)) = pipe.in_flight[from].front() else {
                break;
            };
            // Frames of different orders may overtake each other, and sometimes do here.
            let overtaking = pipe.in_flight[from]
                .iter()
                .position(|(order, _)| *order != first);
            let next = overtaking.filter(|_| self.rng.u8(0..4) == 0).unwrap_or(0);
            let (_, frame) = pipe.in_flight[from]
                .remove(next)
                .expect("the index was just found");
            self.sides[1 - from]
                .session
                .handle_frame(self.now, pipe.id, frame);
            progress = true;
        }
        progress
    }

    /// Advances the clock to the next deadline of either side.
    pub(crate) fn advance(&mut self) {
        let due = self
            .sides
            .iter()
            .filter_map(|side| side.session.poll_timeout())
            .min();
        let soon = self.now + Duration::from_millis(10);
        self.now = due.unwrap_or(soon).max(self.now);
        for side in &mut self.sides {
            side.session.handle_timeout(self.now);
        }
    }

    /// Takes steps until none makes progress and no deadline is due within half a second
    /// (acknowledgements are, heartbeats are not), at most `steps` of them.
    pub(crate) fn settle(&mut self, steps: usize) {
        let end = self.now + Duration::from_millis(500);
        let mut idle = 0;
        for _ in 0..steps {
            idle = if self.step() { 0 } else { idle + 1 };
            // One step may make no progress by chance; eight in a row hardly ever do.
            if idle < 8 {
                continue;
            }
            idle = 0;
            let due = self
                .sides
                .iter()
                .filter_map(|side| side.session.poll_timeout())
                .min();
            if due.is_none_or(|due| due > end) {
                return;
            }
            self.advance();
        }
        panic!("still busy after {steps} steps");
    }
}
