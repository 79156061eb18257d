//! Two bare transports for frames or Sessions, each with its own loop and thread, or both on the calling
//! thread.

use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use mio::{Events, Poll, Token, Waker};
use selvedge_driver::{
    Admission, DialTarget, End, Frame, FrameSink, FrameSource, Identity, Instant, Listener, Phase,
    Progress, ReadBuffer, SendCapacity, Transport, Turn, bind, dialers,
};

use crate::Workload;

const TRANSPORT: Token = Token(0);
const WAKER: Token = Token(1);

/// The driver's default.
const BUDGET: usize = 1 << 20;

/// The source and sink of frames at one end of a bare transport.
pub(crate) trait Traffic: FrameSource + FrameSink + Send {
    /// Called at the start of each turn.
    fn begin(&mut self, _now: Instant) {}

    /// The latest time of the next turn.
    fn timeout(&self) -> Option<Instant> {
        None
    }

    /// Adds `count` messages to send from this end.
    fn order(&mut self, _count: u64) {}
}

/// Counts received messages and signals when the requested number is reached.
#[derive(Debug)]
pub(crate) struct FrameCount {
    remaining: u64,
    wanted: Receiver<u64>,
    reached: Sender<()>,
}

impl FrameCount {
    /// The counter, the sender for the next number, and the receiver of the signal that it is reached.
    fn new() -> (Self, Sender<u64>, Receiver<()>) {
        let ((want, wanted), (reach, reached)) = (bounded(1), bounded(1));
        let count = Self {
            remaining: 0,
            wanted,
            reached: reach,
        };
        (count, want, reached)
    }

    pub(crate) fn one(&mut self) {
        if self.remaining == 0 {
            let wanted = self.wanted.try_recv();
            self.remaining = wanted.expect("the number precedes the messages");
        }
        self.remaining -= 1;
        if self.remaining == 0 {
            self.reached.send(()).expect("the receiver lives");
        }
    }
}

/// A transport and the loop around it.
#[derive(Debug)]
struct BareEnd {
    transport: Box<dyn Transport>,
    poll: Poll,
    events: Events,
    buffer: ReadBuffer,
}

impl BareEnd {
    fn new(mut transport: Box<dyn Transport>) -> Self {
        let poll = Poll::new().expect("a poll");
        let registered = transport.register(poll.registry(), TRANSPORT);
        registered.expect("a socket");
        Self {
            transport,
            poll,
            events: Events::with_capacity(16),
            buffer: ReadBuffer::default(),
        }
    }

    /// Receives and sends until neither makes progress. An error ends the transport.
    fn drive(&mut self, carried: &mut dyn Traffic) -> Result<(), End> {
        loop {
            let now = Instant::now();
            if self.transport.timeout().is_some_and(|at| at <= now) {
                self.transport.on_timeout(now);
            }
            carried.begin(now);
            let buffer = &mut self.buffer;
            let mut turn = Turn {
                now,
                buffer,
                budget: BUDGET,
                registry: self.poll.registry(),
            };
            let received = self.transport.recv(&mut turn, carried)?;
            let sent = self.transport.send(&mut turn, carried)?;
            if (received, sent) == (Progress::Idle, Progress::Idle) {
                return Ok(());
            }
        }
    }

    fn wait(&mut self, carried: &dyn Traffic) {
        let at = self.transport.timeout().into_iter();
        let at = at.chain(carried.timeout()).min();
        let timeout = at.map(|at| at.saturating_duration_since(Instant::now()));
        let polled = self.poll.poll(&mut self.events, timeout);
        polled.expect("it is not interrupted");
    }
}

/// Sends and expects no frames, during a handshake.
struct EmptyTraffic;

impl FrameSource for EmptyTraffic {
    fn next_frame(&mut self, _room: &SendCapacity) -> Option<Frame> {
        None
    }
}

impl FrameSink for EmptyTraffic {
    fn frame(&mut self, _frame: Bytes) {}
}

impl Traffic for EmptyTraffic {}

/// Two open ends and the listener, which a QUIC connection may still need.
fn open(scheme: &str) -> ([BareEnd; 2], Box<dyn Listener>) {
    let keys = [(); 2].map(|()| Identity::generate().expect("randomness"));
    let address = format!("{scheme}://127.0.0.1:0");
    let address = address.parse().expect("an address");
    let mut listener = bind(&address, &keys[1], &Admission::anyone()).expect("a port");
    let poll = Poll::new().expect("a poll");
    let registered = listener.register(poll.registry(), TRANSPORT);
    registered.expect("a socket");
    let target = DialTarget {
        address: listener.local_address(),
        peer: Some(keys[1].node_id()),
    };
    let all = dialers(&keys[0]);
    let dialer = all.iter().find(|it| it.schemes().contains(&scheme));
    let dialed = dialer
        .expect("it is built in")
        .dial(Instant::now(), &target);
    let mut near = BareEnd::new(dialed.expect("it listens"));
    let (mut far, mut accepted) = (Vec::new(), Vec::new());
    let mut buffer = ReadBuffer::default();
    // Both ends take turns; a handshake needs no thread.
    while near.transport.phase() < Phase::Open
        || far
            .first()
            .is_none_or(|it: &BareEnd| it.transport.phase() < Phase::Open)
    {
        let mut turn = Turn {
            now: Instant::now(),
            buffer: &mut buffer,
            budget: BUDGET,
            registry: poll.registry(),
        };
        let _pace = listener
            .accept(&mut turn, &mut accepted)
            .expect("it listens");
        far.extend(accepted.drain(..).map(BareEnd::new));
        for node in far.iter_mut().chain([&mut near]) {
            node.drive(&mut EmptyTraffic).expect("they agree");
        }
    }
    ([near, far.remove(0)], listener)
}

/// Messages in one direction over a bare transport, counted at the receiver.
#[derive(Debug)]
pub(crate) struct BareOneWay {
    send: Option<Sender<u64>>,
    waker: Waker,
    want: Sender<u64>,
    reached: Receiver<()>,
    threads: Vec<JoinHandle<()>>,
    _listener: Box<dyn Listener>,
}

impl BareOneWay {
    /// Traffic from `near` to the end that `far` creates from a count.
    pub(crate) fn new<F: Traffic + 'static>(
        scheme: &str,
        mut near: impl Traffic + 'static,
        far: impl FnOnce(FrameCount) -> F,
    ) -> Self {
        let ([near_node, far_node], listener) = open(scheme);
        let (count, want, reached) = FrameCount::new();
        let mut far = far(count);
        let (send, orders) = bounded(1);
        let waker = Waker::new(near_node.poll.registry(), WAKER).expect("a waker");
        Self {
            send: Some(send),
            waker,
            want,
            reached,
            threads: vec![
                std::thread::spawn(move || run_near(near_node, &mut near, &orders)),
                std::thread::spawn(move || run_far(far_node, &mut far)),
            ],
            _listener: listener,
        }
    }
}

/// The same without threads: both ends take turns on the calling thread, so no core is woken and CPU time
/// is that of the work alone.
pub(crate) struct BareByTurns<N, F> {
    near: (BareEnd, N),
    far: (BareEnd, F),
    want: Sender<u64>,
    reached: Receiver<()>,
    _listener: Box<dyn Listener>,
}

impl<N: Traffic, F: Traffic> BareByTurns<N, F> {
    /// Traffic from `near` to the end that `far` creates from a count.
    pub(crate) fn new(scheme: &str, near: N, far: impl FnOnce(FrameCount) -> F) -> Self {
        let ([near_node, far_node], listener) = open(scheme);
        let (count, want, reached) = FrameCount::new();
        Self {
            near: (near_node, near),
            far: (far_node, far(count)),
            want,
            reached,
            _listener: listener,
        }
    }
}

impl<N: Traffic, F: Traffic> Workload for BareByTurns<N, F> {
    fn run(&mut self, count: u64) {
        self.want.send(count).expect("the far end lives");
        self.near.1.order(count);
        while self.reached.try_recv().is_err() {
            self.near.0.drive(&mut self.near.1).expect("it lives");
            self.far.0.drive(&mut self.far.1).expect("it lives");
        }
    }
}

fn run_near(mut node: BareEnd, carried: &mut dyn Traffic, orders: &Receiver<u64>) {
    while node.drive(carried).is_ok() {
        node.wait(carried);
        match orders.try_recv() {
            Ok(count) => carried.order(count),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => node.transport.close(Instant::now()),
        }
    }
}

fn run_far(mut node: BareEnd, carried: &mut dyn Traffic) {
    while node.drive(carried).is_ok() {
        node.wait(carried);
    }
}

impl Workload for BareOneWay {
    fn run(&mut self, count: u64) {
        self.want.send(count).expect("the far end lives");
        let send = self.send.as_ref().expect("it is there until it is dropped");
        send.send(count).expect("the near end lives");
        self.waker.wake().expect("the near end lives");
        self.reached.recv().expect("the far end lives");
    }
}

impl Drop for BareOneWay {
    fn drop(&mut self) {
        self.send = None;
        self.waker.wake().expect("the near end lives");
        for thread in self.threads.drain(..) {
            thread.join().expect("neither end panics");
        }
    }
}
