//! Two sessions that exchange messages in virtual time over a queue, from the push to the acknowledgement,
//! with one copy per frame, as a transport makes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use selvedge_endpoint::{AttachmentId, LaneId, Message, SendBuffer, Session, SessionConfig};
use selvedge_transport::{Instant, LaneSet, NodeId, Role, SendCapacity};

use crate::counted_region;

const TRANSPORT: AttachmentId = AttachmentId(1);

/// The latency of a frame: a path within one building, so that there is a round trip to measure.
const LATENCY: Duration = Duration::from_micros(250);

/// Longer than any workload takes.
const END: Duration = Duration::from_secs(10);

struct VirtualEnd {
    session: Session,
    outbox: SendBuffer,
    /// Frames in flight, with their arrival times.
    sent: VecDeque<(Instant, Bytes)>,
    received: usize,
    received_bytes: usize,
}

impl VirtualEnd {
    fn new(number: u8) -> Self {
        let config = SessionConfig::default();
        let (own, other) = (NodeId::new([number; 32]), NodeId::new([1 - number; 32]));
        Self {
            session: Session::new(config.clone(), own, other, 1 + u64::from(number)),
            outbox: SendBuffer::new(&config),
            sent: VecDeque::new(),
            received: 0,
            received_bytes: 0,
        }
    }

    /// A worker's turn for an endpoint: drains producers, delivers to the user, sends.
    fn turn(&mut self, now: Instant, capacity: &SendCapacity) {
        self.session.sync_send_buffer(&mut self.outbox);
        while self.session.poll_output().is_some() {}
        let mut taken = [0, 0];
        for (_, mut run) in self.session.take_batches() {
            while let Some(payload) = run.take_bytes() {
                taken[0] += 1;
                taken[1] += Message::cost_of(payload.len());
                self.received_bytes += payload.len();
            }
        }
        if taken[0] > 0 {
            self.received += taken[0] as usize;
            self.session.consumed(LaneId::FIRST, taken[1]);
        }
        while let Some(frame) = self.session.poll_frame(now, TRANSPORT, capacity) {
            let mut bytes = BytesMut::with_capacity(frame.len());
            frame.write_to(&mut bytes);
            self.sent.push_back((now + LATENCY, bytes.freeze()));
        }
    }

    fn is_settled(&self) -> bool {
        self.outbox.used() == 0 && self.session.unacknowledged() == 0
    }
}

struct VirtualPair {
    sides: [VirtualEnd; 2],
    capacity: SendCapacity,
    now: Instant,
}

impl VirtualPair {
    /// Two introduced sessions. `reliable`: over a transport like TCP; otherwise in packets, as over UDP, none
    /// of which is lost here.
    fn met(reliable: bool) -> Self {
        let frame_max = if reliable { 64 << 10 } else { 1175 };
        let mut pair = Self {
            sides: [0, 1].map(VirtualEnd::new),
            capacity: SendCapacity {
                frame_max,
                datagram_max: frame_max,
                blocked: LaneSet::EMPTY,
                control_blocked: false,
            },
            now: Instant::now(),
        };
        for (side, role) in pair.sides.iter_mut().zip([Role::Dialer, Role::Acceptor]) {
            let attached = side.session.attach(pair.now, TRANSPORT, role, reliable);
            attached.expect("a new session is open");
        }
        pair.run(|sides| sides.iter().all(|it| it.session.current().is_some()));
        pair
    }

    /// Advances time until `done`.
    fn run(&mut self, done: impl Fn(&[VirtualEnd; 2]) -> bool) {
        let end = self.now + END;
        loop {
            self.sides
                .iter_mut()
                .for_each(|side| side.turn(self.now, &self.capacity));
            if done(&self.sides) {
                return;
            }
            let timeouts = self.sides.iter().filter_map(|it| it.session.poll_timeout());
            let arrivals = self.sides.iter().filter_map(|it| it.sent.front());
            let next = timeouts.chain(arrivals.map(|(at, _)| *at)).min();
            self.now = next.map_or(end, |next| next.max(self.now));
            assert!(self.now < end, "the sessions stand still");
            self.arrive();
        }
    }

    fn arrive(&mut self) {
        for from in 0..2 {
            while let Some((_, frame)) = self.sides[from].sent.pop_front_if(|it| it.0 <= self.now) {
                let to = &mut self.sides[1 - from].session;
                to.handle_frame(self.now, TRANSPORT, frame);
            }
        }
        for side in &mut self.sides {
            if side.session.poll_timeout().is_some_and(|at| at <= self.now) {
                side.session.handle_timeout(self.now);
            }
        }
    }
}

/// Each side sends `count` messages to the other and receives the acknowledgements of all.
fn exchange(reliable: bool, count: usize, len: usize) {
    let mut pair = VirtualPair::met(reliable);
    let payload = Bytes::from(vec![7; len]);
    counted_region(|| {
        for side in &mut pair.sides {
            for _ in 0..count {
                let pushed = side.outbox.push(LaneId::FIRST, payload.clone());
                pushed.expect("within the send buffer");
            }
        }
        pair.run(|sides| sides.iter().all(VirtualEnd::is_settled));
    });
    for side in &pair.sides {
        assert_eq!(side.received, count);
        assert_eq!(side.received_bytes, count * len);
    }
}

pub(crate) fn datagrams_64_b() {
    exchange(false, 1000, 64);
}

pub(crate) fn datagrams_8_kib() {
    exchange(false, 100, 8 << 10);
}

pub(crate) fn reliable_64_b() {
    exchange(true, 1000, 64);
}

pub(crate) fn reliable_8_kib() {
    exchange(true, 100, 8 << 10);
}
