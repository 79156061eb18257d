//! A session whose peer is the fuzzer, with checks of its limits.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use selvedge_endpoint::{
    AttachmentId, Delivery, DetachReason, LaneConfig, LaneId, Message, SendBuffer, Session,
    SessionConfig, SessionOutput,
};
use selvedge_transport::{FrameOrder, Instant, LANES_MAX, LaneSet, NodeId, Role, SendCapacity};

/// A lane's window, and the longest message: small, so that a few frames reach them.
pub const SMALL: usize = 512;

const FRAME_MAX: usize = 200;

/// What the send buffer holds, cut as small as it gets, and answers.
const FRAMES_AT_ONCE: usize = 1000;

/// How many things may be due at once: a loss, then a probe for what is not sent again, a ping.
const DUE_AT_ONCE: usize = 4;

/// How long a pause may be, in milliseconds: around the delays that a session knows.
const PAUSES: [u64; 8] = [0, 1, 7, 20, 60, 210, 1100, 3100];

/// The maximum number of exchanges between two honest sides, 7 ms apart, until they are done.
const TURNS_MAX: usize = 300;

/// The message with which an honest side tests whether its messages arrive.
pub const TOKEN: &[u8] = b"is anybody there?";

/// Numbers of a packet that fit into one byte, and into two.
const NUMBER_MAX: [u64; 2] = [1 << 6, 1 << 14];

pub struct Subject {
    pub session: Session,
    pub outbox: SendBuffer,
    pub now: Instant,
    /// What is attached, and whether it is reliable.
    pub attached: Vec<(AttachmentId, bool)>,
    next_id: u64,
    /// The number of the next packet of the peer.
    next_number: u64,
    waiting: VecDeque<Message>,
    /// Bytes on each lane that the user has not taken.
    held: [u64; LANES_MAX],
    /// Bytes of received best-effort messages, which need no credit, and grant credit when taken.
    uncredited: u64,
    /// Whether [`TOKEN`] has come.
    pub received_token: bool,
}

pub fn config() -> SessionConfig {
    let lane = |delivery, redundant| LaneConfig {
        delivery,
        redundant,
        ..LaneConfig::default()
    };
    SessionConfig {
        lanes: vec![
            lane(Delivery::Reliable, false),
            lane(Delivery::Reliable, true),
            lane(Delivery::BestEffort, false),
        ],
        message_max: SMALL,
        receive_window: SMALL as u64,
        send_buffer: 4 * SMALL as u64,
        best_effort_buffer: SMALL,
        ..SessionConfig::default()
    }
}

/// Splits an input into records: a byte that selects the operation, and the operation's bytes.
pub fn records(mut input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[what, len], rest) = input.split_first_chunk()?;
        let (bytes, rest) = rest.split_at(usize::from(len).min(rest.len()));
        input = rest;
        Some((what, bytes))
    })
}

impl Subject {
    pub fn new(number: u8, incarnation: u64) -> Self {
        let (local, peer) = (NodeId::new([number; 32]), NodeId::new([1 - number; 32]));
        let config = config();
        Self {
            outbox: SendBuffer::new(&config),
            session: Session::new(config, local, peer, incarnation),
            now: Instant::now(),
            attached: Vec::new(),
            next_id: 0,
            // Lower ones may have been used by an honest peer that introduced itself before.
            next_number: 8,
            waiting: VecDeque::new(),
            held: [0; LANES_MAX],
            uncredited: 0,
            received_token: false,
        }
    }

    pub fn attach(&mut self, role: Role, reliable: bool) -> Option<AttachmentId> {
        self.next_id += 1;
        let id = AttachmentId(self.next_id);
        self.session.attach(self.now, id, role, reliable).ok()?;
        self.attached.push((id, reliable));
        Some(id)
    }

    pub fn detach(&mut self, which: usize) {
        if which < self.attached.len() {
            let (id, _) = self.attached.swap_remove(which);
            self.session.detach(id, DetachReason::Local);
        }
    }

    pub fn send(&mut self, lane: usize, payload: &[u8]) -> bool {
        let lane = LaneId::new((lane % 3) as u8);
        let payload = Bytes::copy_from_slice(payload);
        let sent = lane.is_some_and(|lane| self.outbox.push(lane, payload).is_ok());
        self.session.sync_send_buffer(&mut self.outbox);
        sent
    }

    pub fn pause(&mut self, which: usize) {
        self.now += Duration::from_millis(PAUSES[which % PAUSES.len()]);
    }

    /// The user takes all waiting messages.
    pub fn take_all(&mut self) {
        for message in self.waiting.drain(..) {
            self.received_token |= message.payload == TOKEN;
            self.held[usize::from(message.lane.number())] -= message.cost();
            self.session.consumed(message.lane, message.cost());
        }
    }

    /// The peer sends a frame, with a packet number if requested and if the transport is unreliable.
    pub fn feed(&mut self, which: usize, frame: &[u8], numbered: bool) {
        let Some(&(id, reliable)) = self.attached.get(which % self.attached.len().max(1)) else {
            return;
        };
        let mut bytes = BytesMut::new();
        if numbered && !reliable && self.next_number < NUMBER_MAX[1] {
            let number = self.next_number;
            self.next_number += 1;
            bytes.extend_from_slice(&[9]);
            match number < NUMBER_MAX[0] {
                true => bytes.extend_from_slice(&[number as u8]),
                false => bytes.extend_from_slice(&(0x4000 | number as u16).to_be_bytes()),
            }
        }
        bytes.extend_from_slice(frame);
        let bytes = bytes.freeze();
        if is_datagram(&bytes) {
            self.uncredited += bytes.len() as u64;
        }
        self.session.handle_frame(self.now, id, bytes);
    }

    /// Processes the effects of an input, and checks every limit. Returns the frames to send.
    pub fn settle(&mut self) -> Vec<(AttachmentId, Bytes)> {
        self.session.sync_send_buffer(&mut self.outbox);
        let mut frames = self.pull();
        let now = self.now;
        let is_due = |session: &Session| session.poll_timeout().is_some_and(|at| at <= now);
        for _ in 0..DUE_AT_ONCE {
            if is_due(&self.session) {
                self.session.handle_timeout(now);
                frames.extend(self.pull());
            }
        }
        assert!(!is_due(&self.session), "always due");
        while let Some(output) = self.session.poll_output() {
            if let SessionOutput::Release { attachment, .. } = output {
                self.attached.retain(|(id, _)| *id != attachment);
            }
        }
        for message in self.session.take_messages() {
            assert!(message.payload.len() <= SMALL);
            self.held[usize::from(message.lane.number())] += message.cost();
            self.waiting.push_back(message);
        }
        let bound = 2 * (SMALL as u64 + 8) + 2 * self.uncredited;
        let most = self.held.iter().max().copied().unwrap_or(0);
        assert!(
            most <= bound,
            "a lane holds {most} bytes, more than {bound}"
        );
        assert!(self.session.unacknowledged() <= 5 * SMALL as u64);
        frames
    }

    fn pull(&mut self) -> Vec<(AttachmentId, Bytes)> {
        let capacity = SendCapacity {
            frame_max: FRAME_MAX,
            datagram_max: FRAME_MAX,
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        let mut frames = Vec::new();
        for (id, _) in self.attached.clone() {
            while let Some(frame) = self.session.poll_frame(self.now, id, &capacity) {
                assert!(frame.order == FrameOrder::Control || frame.len() <= FRAME_MAX);
                let mut bytes = BytesMut::new();
                frame.write_to(&mut bytes);
                frames.push((id, bytes.freeze()));
                assert!(frames.len() < FRAMES_AT_ONCE, "it never becomes idle");
            }
        }
        frames
    }
}

/// A transport between two honest sessions, by the id that each has for it.
pub type Wire = [AttachmentId; 2];

/// Connects two sessions that have no other transport.
pub fn connect(sides: &mut [Subject; 2], dialer: usize, reliable: bool) -> Option<Wire> {
    let now = sides[0].now.max(sides[1].now);
    let mut attach = |at: usize| {
        sides[at].now = now;
        let role = [Role::Acceptor, Role::Dialer][usize::from(at == dialer)];
        sides[at].attach(role, reliable)
    };
    Some([attach(0)?, attach(1)?])
}

/// Lets two sessions exchange frames until `done`. Returns whether it is.
pub fn talk(sides: &mut [Subject; 2], wire: Wire, done: impl Fn(&[Subject; 2]) -> bool) -> bool {
    for _ in 0..TURNS_MAX {
        for from in 0..2 {
            for (id, frame) in sides[from].settle() {
                if id == wire[from] {
                    let to = &mut sides[1 - from];
                    to.session.handle_frame(to.now, wire[1 - from], frame);
                }
            }
            sides[from].take_all();
        }
        if done(sides) {
            return true;
        }
        sides.iter_mut().for_each(|side| side.pause(2));
    }
    false
}

fn is_datagram(frame: &Bytes) -> bool {
    let mut rest = frame.clone();
    if rest.first() == Some(&9) && rest.len() > 1 {
        let digits = 1 << (rest[1] >> 6);
        rest.advance(rest.len().min(1 + digits));
    }
    rest.first() == Some(&5)
}
