//! A listener and its transports on one poll, with a clock that can be advanced.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use mio::{Events, Poll, Token};
use selvedge_transport::{
    Admission, DialTarget, Dialer, End, Frame, FrameHeader, FrameOrder, FrameSource, Identity,
    Instant, Listener, Phase, Progress, QuicDialer, ReadBuffer, Role, SendCapacity, TcpDialer,
    Transport, Turn, UdpDialer, bind,
};

/// The maximum duration of a step, in real time.
const PATIENCE: Duration = Duration::from_secs(30);

/// The budget of each call.
const BUDGET: usize = 1 << 20;

const LISTENER: Token = Token(0);

/// A source of one frame.
#[derive(Debug, Default)]
pub(crate) struct OneFrame {
    pub(crate) is_pulled: bool,
}

impl FrameSource for OneFrame {
    fn next_frame(&mut self, _: &SendCapacity) -> Option<Frame> {
        if std::mem::replace(&mut self.is_pulled, true) {
            return None;
        }
        Some(Frame {
            order: FrameOrder::Control,
            header: FrameHeader::EMPTY,
            body: Bytes::from_static(b"hello"),
        })
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Side {
    /// Dropped once it has ended, as a worker does.
    transport: Option<Box<dyn Transport>>,
    pub(crate) role: Role,
    pub(crate) is_open: bool,
    pub(crate) end: Option<End>,
    pub(crate) greeting: OneFrame,
    pub(crate) inbox: Vec<Bytes>,
}

impl Side {
    fn drive(&mut self, turn: &mut Turn<'_>) {
        let Some(transport) = &mut self.transport else {
            return;
        };
        if transport.timeout().is_some_and(|at| at <= turn.now) {
            transport.on_timeout(turn.now);
        }
        let moved = loop {
            let received = transport.recv(turn, &mut self.inbox);
            let sent = received.and_then(|received| {
                let sent = transport.send(turn, &mut self.greeting)?;
                Ok([received, sent])
            });
            match sent {
                Ok([Progress::Idle, Progress::Idle]) => break Ok(()),
                Ok(_) => {}
                Err(end) => break Err(end),
            }
        };
        self.is_open = transport.phase() == Phase::Open;
        if let Err(end) = moved {
            self.end = Some(end);
            self.transport = None;
        }
    }
}

/// A listener, its transports and their dialer on one poll.
#[derive(Debug)]
pub(crate) struct TestBed {
    poll: Poll,
    pub(crate) listener: Box<dyn Listener>,
    pub(crate) sides: Vec<Side>,
    /// The number of calls of `accept`.
    pub(crate) accept_calls: usize,
    dialer: Box<dyn Dialer>,
    has_more: bool,
    buffer: ReadBuffer,
    events: Events,
    ahead: Duration,
}

impl TestBed {
    /// Creates a listener that admits every peer.
    pub(crate) fn new(scheme: &str) -> Self {
        let [ours, theirs] = [(); 2].map(|()| Identity::generate().unwrap());
        let address = format!("{scheme}://127.0.0.1:0").parse().unwrap();
        let mut listener = bind(&address, &ours, &Admission::anyone()).unwrap();
        let poll = Poll::new().unwrap();
        listener.register(poll.registry(), LISTENER).unwrap();
        let dialer: Box<dyn Dialer> = match scheme {
            "quic" => Box::new(QuicDialer::new(theirs)),
            "udp" | "udp+plain" => Box::new(UdpDialer::new(theirs)),
            _ => Box::new(TcpDialer::new(theirs)),
        };
        Self {
            poll,
            listener,
            sides: Vec::new(),
            accept_calls: 0,
            dialer,
            has_more: true,
            buffer: ReadBuffer::default(),
            events: Events::with_capacity(256),
            ahead: Duration::ZERO,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_address().as_socket().unwrap()
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    /// Advances the clock.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.ahead += by;
    }

    /// Dials as an honest peer. Returns the index in `sides`.
    pub(crate) fn dial(&mut self) -> usize {
        let target = DialTarget {
            address: self.listener.local_address(),
            peer: None,
        };
        let transport = self.dialer.dial(self.now(), &target).unwrap();
        self.add(transport);
        self.sides.len() - 1
    }

    pub(crate) fn add(&mut self, mut transport: Box<dyn Transport>) {
        let token = Token(1 + self.sides.len());
        transport.register(self.poll.registry(), token).unwrap();
        self.sides.push(Side {
            role: transport.info().role,
            transport: Some(transport),
            is_open: false,
            end: None,
            greeting: OneFrame::default(),
            inbox: Vec::new(),
        });
    }

    /// The accepted transports.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = &Side> {
        let mut sides = self.sides.iter();
        std::iter::from_fn(move || sides.by_ref().find(|side| side.role == Role::Acceptor))
    }

    /// One iteration of a worker's loop.
    pub(crate) fn turn(&mut self) {
        let wait = if self.has_more { 0 } else { 5 };
        let wait = Some(Duration::from_millis(wait));
        self.poll.poll(&mut self.events, wait).unwrap();
        let now = self.now();
        let has_event = self.events.iter().any(|event| event.token() == LISTENER);
        let is_due = self.listener.timeout().is_some_and(|at| at <= now);
        // As in a driver, `accept` is called only for a reason.
        if has_event || is_due || self.has_more {
            self.accept(now);
        }
        for side in &mut self.sides {
            side.drive(&mut Turn {
                now,
                buffer: &mut self.buffer,
                budget: BUDGET,
                registry: self.poll.registry(),
            });
        }
    }

    fn accept(&mut self, now: Instant) {
        let mut accepted = Vec::new();
        let mut turn = Turn {
            now,
            buffer: &mut self.buffer,
            budget: BUDGET,
            registry: self.poll.registry(),
        };
        self.accept_calls += 1;
        let progress = self.listener.accept(&mut turn, &mut accepted).unwrap();
        self.has_more = progress == Progress::More;
        for transport in accepted {
            self.add(transport);
        }
    }

    /// Iterates until `is_so` returns `true`.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < patience, "not reached: {what}\n{self:#?}");
            self.turn();
        }
    }

    /// Iterates until no event has occurred for four iterations.
    pub(crate) fn until_quiet(&mut self) {
        let mut quiet = 0;
        while quiet < 4 {
            self.turn();
            quiet = match self.has_more || !self.events.is_empty() {
                true => 0,
                false => quiet + 1,
            };
        }
    }
}
