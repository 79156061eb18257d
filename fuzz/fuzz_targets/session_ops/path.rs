//! A simulated transport between the two sides, with the faults that its kind allows.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use selvedge_endpoint::{AttachmentId, DetachReason};
use selvedge_transport::{FrameOrder, Instant, LaneSet, Role, SendCapacity};

use crate::side::Side;

/// How many frames a reliable transport holds in one direction before it accepts no more.
const HELD_MAX: usize = 32;
/// How many frames an unreliable transport holds before it drops further ones.
const QUEUE_MAX: usize = 128;

/// The state of a path at one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The acceptor has not accepted it yet.
    Unknown,
    Held(AttachmentId),
    Gone,
}

pub struct Path {
    reliable: bool,
    /// Nothing passes any more, and a side that has not noticed waits in vain.
    broken: bool,
    ends: [End; 2],
    /// From side 0 and from side 1.
    in_flight: [VecDeque<(FrameOrder, Bytes)>; 2],
}

impl Path {
    pub fn dial(sides: &mut [Side; 2], now: Instant, dialer: usize, reliable: bool) -> Self {
        let mut path = Self {
            reliable,
            broken: false,
            ends: [End::Unknown; 2],
            in_flight: Default::default(),
        };
        path.attach(sides, now, dialer, Role::Dialer);
        path
    }

    fn attach(&mut self, sides: &mut [Side; 2], now: Instant, at: usize, role: Role) {
        let side = &mut sides[at];
        let id = side.next_id();
        let attached = side.session.attach(now, id, role, self.reliable);
        attached.expect("neither side was closed");
        self.ends[at] = End::Held(id);
    }

    pub fn id(&self, side: usize) -> Option<AttachmentId> {
        match self.ends[side] {
            End::Held(id) => Some(id),
            End::Unknown | End::Gone => None,
        }
    }

    pub fn is_live(&self) -> bool {
        !self.broken && !self.ends.contains(&End::Gone)
    }

    pub fn is_over(&self) -> bool {
        let held = |side| matches!(self.ends[side], End::Held(_));
        !held(0) && !held(1) && (self.broken || self.in_flight.iter().all(VecDeque::is_empty))
    }

    fn detach(&mut self, sides: &mut [Side; 2], side: usize) {
        if let Some(id) = self.id(side) {
            sides[side].session.detach(id, DetachReason::Local);
        }
        self.ends[side] = End::Gone;
    }

    /// The path breaks, and one side notices.
    pub fn cut(&mut self, sides: &mut [Side; 2], seen_by: usize) {
        self.broken = true;
        self.detach(sides, seen_by);
    }

    /// Both sides notice that the path is broken, or that the other side has closed it.
    pub fn notice(&mut self, sides: &mut [Side; 2]) {
        if !self.is_live() {
            self.broken = true;
            (0..2).for_each(|side| self.detach(sides, side));
        }
    }

    /// A side closes the path in order: frames that it has sent still arrive.
    pub fn close(&mut self, sides: &mut [Side; 2], side: usize) {
        self.detach(sides, side);
    }

    /// The session of a side has released the path.
    pub fn released(&mut self, side: usize) {
        self.ends[side] = End::Gone;
    }

    /// The end of a stream is noticed after its last frame; datagrams have no end.
    pub fn see_end(&mut self, sides: &mut [Side; 2]) {
        if self.broken || !self.reliable {
            return;
        }
        for side in 0..2 {
            let other = 1 - side;
            if self.ends[other] == End::Gone && self.in_flight[other].is_empty() {
                self.detach(sides, side);
            }
        }
    }

    /// Takes at most `count` frames from a side. Returns whether there was one.
    pub fn pull(
        &mut self,
        sides: &mut [Side; 2],
        now: Instant,
        from: usize,
        count: usize,
        size: u8,
    ) -> bool {
        let capacity = SendCapacity {
            frame_max: 40 + usize::from(size & 0x7f) * 9,
            datagram_max: 1175,
            blocked: LaneSet::EMPTY,
            control_blocked: self.reliable && size == 0xff,
        };
        let queue = &mut self.in_flight[from];
        let End::Held(id) = self.ends[from] else {
            return false;
        };
        let side = &mut sides[from];
        side.session.sync_send_buffer(&mut side.outbox);
        for pulled in 0..count {
            if self.reliable && queue.len() >= HELD_MAX {
                return pulled > 0;
            }
            let Some(frame) = side.session.poll_frame(now, id, &capacity) else {
                return pulled > 0;
            };
            let is_short = frame.len() <= capacity.frame_max;
            assert!(
                is_short || !matches!(frame.order, FrameOrder::Lane(_)),
                "{frame:?}"
            );
            if self.reliable || !self.broken && queue.len() < QUEUE_MAX {
                let mut bytes = BytesMut::new();
                frame.write_to(&mut bytes);
                queue.push_back((frame.order, bytes.freeze()));
            }
        }
        true
    }

    /// Delivers the first frame to the other side, or the first of another stream, since streams keep no
    /// order between them. Returns whether there was one.
    pub fn deliver(
        &mut self,
        sides: &mut [Side; 2],
        now: Instant,
        from: usize,
        other_stream: bool,
    ) -> bool {
        if self.broken {
            return false;
        }
        let queue = &mut self.in_flight[from];
        let Some((first, _)) = queue.front() else {
            return false;
        };
        let first = *first;
        let other = queue.iter().position(|(flow, _)| *flow != first);
        let at = other.filter(|_| other_stream).unwrap_or(0);
        let Some((_, frame)) = queue.remove(at) else {
            return false;
        };
        let to = 1 - from;
        if self.ends[to] == End::Unknown {
            self.attach(sides, now, to, Role::Acceptor);
        }
        if let End::Held(id) = self.ends[to] {
            sides[to].session.handle_frame(now, id, frame);
        }
        true
    }

    pub fn lose(&mut self, from: usize, at: usize) {
        if !self.reliable {
            self.in_flight[from].remove(at);
        }
    }

    pub fn duplicate(&mut self, from: usize, at: usize) {
        let queue = &mut self.in_flight[from];
        if !self.reliable
            && let Some(frame) = queue.get(at).cloned()
        {
            queue.push_back(frame);
        }
    }

    pub fn swap(&mut self, from: usize, at: usize, to: usize) {
        let queue = &mut self.in_flight[from];
        if !self.reliable && at < queue.len() && to < queue.len() {
            queue.swap(at, to);
        }
    }
}
