//! A transport that is driven on its own poll.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use mio::{Events, Poll, Token};
use selvedge_transport::{
    Address, Admission, DialTarget, Dialer, End, Frame, FrameHeader, FrameOrder, FrameSink,
    FrameSource, Identity, Instant, Listener, Phase, Progress, ReadBuffer, SendCapacity, TcpDialer,
    TcpListener, Transport, Turn,
};

/// The maximum duration of a step.
const PATIENCE: Duration = Duration::from_secs(20);

/// The budget of each call.
const BUDGET: usize = 256 * 1024;

/// A queue of frames: a list, then a number of equal frames.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) frames: VecDeque<Bytes>,
    pub(crate) repeated: Option<(usize, Bytes)>,
}

impl FrameSource for Queue {
    fn next_frame(&mut self, _: &SendCapacity) -> Option<Frame> {
        let body = match (self.frames.pop_front(), &mut self.repeated) {
            (Some(body), _) => body,
            (None, Some((count, body))) if *count > 0 => {
                *count -= 1;
                body.clone()
            }
            _ => return None,
        };
        Some(Frame {
            order: FrameOrder::Lane(0),
            header: FrameHeader::EMPTY,
            body,
        })
    }
}

/// Counts received frames, and keeps them if requested.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) count: usize,
    pub(crate) len: usize,
    pub(crate) last: Bytes,
}

impl FrameSink for Inbox {
    fn frame(&mut self, frame: Bytes) {
        self.count += 1;
        self.len += frame.len();
        self.last = frame;
    }
}

#[derive(Debug)]
pub(crate) struct DrivenTcp {
    poll: Poll,
    events: Events,
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) queue: Queue,
    pub(crate) inbox: Inbox,
    pub(crate) end: Option<End>,
    buffer: ReadBuffer,
}

impl DrivenTcp {
    pub(crate) fn new(mut transport: Box<dyn Transport>) -> Self {
        let poll = Poll::new().unwrap();
        transport.register(poll.registry(), Token(0)).unwrap();
        let mut lone = Self {
            poll,
            events: Events::with_capacity(16),
            transport,
            queue: Queue::default(),
            inbox: Inbox::default(),
            end: None,
            buffer: ReadBuffer::default(),
        };
        lone.drive();
        lone
    }

    pub(crate) fn dial(dialer: &TcpDialer, address: &Address) -> Self {
        let target = DialTarget {
            address: address.clone(),
            peer: None,
        };
        Self::new(dialer.dial(Instant::now(), &target).unwrap())
    }

    /// Calls `recv` and `send` until both are idle.
    pub(crate) fn drive(&mut self) {
        let now = Instant::now();
        if self.transport.timeout().is_some_and(|at| at <= now) {
            self.transport.on_timeout(now);
        }
        let mut turn = Turn {
            now,
            buffer: &mut self.buffer,
            budget: BUDGET,
            registry: self.poll.registry(),
        };
        let mut is_idle = false;
        while !is_idle && self.end.is_none() {
            let paces = [
                self.transport.recv(&mut turn, &mut self.inbox),
                self.transport.send(&mut turn, &mut self.queue),
            ];
            is_idle = true;
            for progress in paces {
                match progress {
                    Ok(progress) => is_idle &= progress == Progress::Idle,
                    Err(end) => {
                        self.end.get_or_insert(end);
                    }
                }
            }
        }
    }

    /// Sends the queued frames.
    pub(crate) fn send(&mut self) {
        let mut turn = Turn {
            now: Instant::now(),
            buffer: &mut self.buffer,
            budget: BUDGET,
            registry: self.poll.registry(),
        };
        while self.transport.send(&mut turn, &mut self.queue).unwrap() == Progress::More {}
    }

    /// Drives the transport until `is_so` returns `true`. With `spins` it does not wait for events.
    #[track_caller]
    pub(crate) fn until(&mut self, spins: bool, mut is_so: impl FnMut(&mut Self) -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !is_so(self) {
            let now = Instant::now();
            assert!(now < patience, "not reached: {self:?}");
            let limit = self.transport.timeout().unwrap_or(patience).min(patience);
            let wait = if spins {
                Duration::ZERO
            } else {
                limit.saturating_duration_since(now)
            };
            self.poll.poll(&mut self.events, Some(wait)).unwrap();
            for event in &self.events {
                self.transport.on_event(event);
            }
            if !self.events.is_empty() || limit <= Instant::now() {
                self.drive();
            }
        }
    }

    pub(crate) fn until_open(&mut self) {
        self.until(false, |lone| lone.transport.phase() == Phase::Open);
    }
}

pub(crate) fn listener(scheme: &str) -> TcpListener {
    let address = format!("{scheme}://127.0.0.1:0").parse().unwrap();
    let identity = Identity::generate().unwrap();
    TcpListener::bind(&address, identity, Admission::anyone()).unwrap()
}

/// Waits for one connection.
pub(crate) fn accept(listener: &mut dyn Listener) -> DrivenTcp {
    let mut poll = Poll::new().unwrap();
    listener.register(poll.registry(), Token(0)).unwrap();
    let (mut accepted, mut buffer) = (Vec::new(), ReadBuffer::default());
    while accepted.is_empty() {
        let mut turn = Turn {
            now: Instant::now(),
            buffer: &mut buffer,
            budget: BUDGET,
            registry: poll.registry(),
        };
        let _ = listener.accept(&mut turn, &mut accepted).unwrap();
        if accepted.is_empty() {
            let mut events = Events::with_capacity(4);
            poll.poll(&mut events, Some(PATIENCE)).unwrap();
        }
    }
    listener.deregister(poll.registry()).unwrap();
    DrivenTcp::new(accepted.remove(0))
}
