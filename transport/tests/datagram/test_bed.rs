//! Transports and listeners on one poll, driven until a condition holds.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use mio::{Events, Poll, Registry, Token};
use selvedge_transport::{
    Address, DialTarget, Dialer, End, Frame, FrameHeader, FrameOrder, FrameSource, Instant,
    Listener, Phase, Progress, ReadBuffer, SendCapacity, Transport, Turn,
};

use crate::relay::Relay;

/// The maximum duration of a step.
const PATIENCE: Duration = Duration::from_secs(20);

/// The budget of each call.
const BUDGET: usize = 256 * 1024;

/// A queue of frames. Of its first 64 the first that fits the capacity is next.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) frames: VecDeque<Frame>,
    /// The capacity at the last call.
    pub(crate) capacity: Option<SendCapacity>,
}

impl FrameSource for Queue {
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame> {
        self.capacity = Some(*capacity);
        let fits = |frame: &Frame| match frame.order {
            FrameOrder::Control => !capacity.control_blocked,
            FrameOrder::Lane(lane) => !capacity.blocked.contains(lane),
            FrameOrder::Datagram => frame.len() <= capacity.datagram_max,
        };
        let at = self.frames.iter().take(64).position(fits)?;
        self.frames.remove(at)
    }
}

/// One end of a connection, with its frame source and sink.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) queue: Queue,
    pub(crate) inbox: Vec<Bytes>,
    pub(crate) end: Option<End>,
    /// While set, `recv` is not called.
    pub(crate) receive_paused: bool,
    /// The last calls returned [`Progress::More`].
    has_more: bool,
    token: Token,
}

impl Side {
    pub(crate) fn phase(&self) -> Phase {
        self.transport.phase()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase() == Phase::Open
    }

    pub(crate) fn push(&mut self, order: FrameOrder, body: Bytes) {
        self.queue.frames.push_back(Frame {
            order,
            header: FrameHeader::EMPTY,
            body,
        });
    }

    fn drive(&mut self, now: Instant, buffer: &mut ReadBuffer, registry: &Registry) {
        self.has_more = false;
        if self.end.is_some() {
            return;
        }
        let mut turn = Turn {
            now,
            buffer,
            budget: BUDGET,
            registry,
        };
        if self.transport.timeout().is_some_and(|at| at <= now) {
            self.transport.on_timeout(now);
        }
        let mut paces = [Progress::Idle, Progress::Idle];
        if !self.receive_paused {
            match self.transport.recv(&mut turn, &mut self.inbox) {
                Ok(progress) => paces[0] = progress,
                Err(end) => return self.end = Some(end),
            }
        }
        match self.transport.send(&mut turn, &mut self.queue) {
            Ok(progress) => paces[1] = progress,
            Err(end) => return self.end = Some(end),
        }
        self.has_more = paces != [Progress::Idle, Progress::Idle];
    }
}

/// Listeners, transports and relays on one poll.
#[derive(Debug)]
pub(crate) struct TestBed {
    pub(crate) poll: Poll,
    pub(crate) listeners: Vec<Box<dyn Listener>>,
    pub(crate) sides: Vec<Side>,
    pub(crate) relays: Vec<Relay>,
    /// If set, the time of all calls: the clock is frozen and no timer expires.
    pub(crate) frozen_at: Option<Instant>,
    buffer: ReadBuffer,
    next_token: usize,
}

impl TestBed {
    pub(crate) fn new() -> Self {
        Self {
            poll: Poll::new().unwrap(),
            listeners: Vec::new(),
            sides: Vec::new(),
            relays: Vec::new(),
            frozen_at: None,
            buffer: ReadBuffer::default(),
            next_token: 0,
        }
    }

    pub(crate) fn listen(&mut self, mut listener: impl Listener + 'static) -> SocketAddr {
        let token = self.token();
        listener.register(self.poll.registry(), token).unwrap();
        let address = listener.local_address().as_socket().unwrap();
        self.listeners.push(Box::new(listener));
        address
    }

    /// Adds a relay to `listener`. Returns the address to dial.
    pub(crate) fn relay(&mut self, listener: SocketAddr, seed: u64) -> SocketAddr {
        let token = self.token();
        let relay = Relay::new(listener, self.poll.registry(), token, seed);
        let address = relay.address();
        self.relays.push(relay);
        address
    }

    /// Adds a transport. Returns its index in `sides`.
    pub(crate) fn add(&mut self, mut transport: Box<dyn Transport>) -> usize {
        let token = self.token();
        transport.register(self.poll.registry(), token).unwrap();
        self.sides.push(Side {
            transport,
            queue: Queue::default(),
            inbox: Vec::new(),
            end: None,
            receive_paused: false,
            has_more: false,
            token,
        });
        self.sides.len() - 1
    }

    pub(crate) fn dial(
        &mut self,
        dialer: &dyn Dialer,
        to: SocketAddr,
        peer: Option<selvedge_transport::NodeId>,
    ) -> usize {
        let address = Address::socket(dialer.schemes()[0], to);
        let target = DialTarget { address, peer };
        let transport = dialer.dial(Instant::now(), &target).unwrap();
        self.add(transport)
    }

    /// Dials the first listener and waits until both sides are open.
    pub(crate) fn connect(&mut self, dialer: &dyn Dialer) -> (usize, usize) {
        let to = self.listeners[0].local_address().as_socket().unwrap();
        let dialing = self.dial(dialer, to, None);
        let accepted = self.sides.len();
        self.until("both sides are open", |bed| {
            bed.sides.len() > accepted
                && bed.sides[dialing].is_open()
                && bed.sides[accepted].is_open()
        });
        (dialing, accepted)
    }

    /// Removes a side from this poll.
    pub(crate) fn remove(&mut self, side: usize) -> Side {
        let mut side = self.sides.remove(side);
        side.transport.deregister(self.poll.registry()).unwrap();
        side
    }

    /// Adds a side of another test bed to this poll.
    pub(crate) fn adopt(&mut self, mut side: Side) -> usize {
        side.token = self.token();
        side.transport
            .register(self.poll.registry(), side.token)
            .unwrap();
        self.sides.push(side);
        self.sides.len() - 1
    }

    /// Drives everything until `is_so` returns `true`.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < patience, "not reached: {what}\n{self:#?}");
            self.turn(Duration::from_millis(20));
        }
    }

    /// One iteration of a worker's loop; waits at most `wait` for an event.
    pub(crate) fn turn(&mut self, wait: Duration) {
        let now = self.now();
        let has_more = self.sides.iter().any(|side| side.has_more);
        let wait = if has_more { Duration::ZERO } else { wait };
        let wait = self
            .sides
            .iter()
            .filter(|side| side.end.is_none())
            .filter_map(|side| side.transport.timeout())
            .chain(self.listeners.iter().filter_map(|one| one.timeout()))
            .map(|at| at.saturating_duration_since(now))
            .fold(wait, Duration::min);
        let mut events = Events::with_capacity(64);
        self.poll.poll(&mut events, Some(wait)).unwrap();
        // All are driven in each iteration, regardless of events: there are few.
        self.relays.iter_mut().for_each(Relay::pump);
        let mut accepted = Vec::new();
        for listener in &mut self.listeners {
            let mut turn = Turn {
                now: self.frozen_at.unwrap_or_else(Instant::now),
                buffer: &mut self.buffer,
                budget: BUDGET,
                registry: self.poll.registry(),
            };
            while listener.accept(&mut turn, &mut accepted).unwrap() == Progress::More {}
        }
        for transport in accepted {
            self.add(transport);
        }
        for at in 0..self.sides.len() {
            let now = self.now();
            self.sides[at].drive(now, &mut self.buffer, self.poll.registry());
        }
    }

    fn now(&self) -> Instant {
        self.frozen_at.unwrap_or_else(Instant::now)
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }
}

/// A frame of `len` bytes that contains its lane and number.
pub(crate) fn numbered(lane: u8, number: u32, len: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(len);
    bytes.put_u8(lane);
    bytes.put_u32(number);
    bytes.resize(len.max(5), number as u8);
    bytes.freeze()
}

/// The numbers of the frames of `lane`. Panics if one is damaged.
pub(crate) fn numbers(inbox: &[Bytes], lane: u8) -> Vec<u32> {
    let of_lane = inbox.iter().filter(|frame| frame[0] == lane);
    of_lane
        .map(|frame| {
            let number = u32::from_be_bytes(*frame[1..].first_chunk().unwrap());
            assert!(frame[5..].iter().all(|&byte| byte == number as u8));
            number
        })
        .collect()
}
