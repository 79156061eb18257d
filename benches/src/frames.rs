//! Messages one way over a bare transport, one a frame: what a Session stands on.

use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use mio::{Events, Poll, Token, Waker};
use selvedge_driver::{
    Admission, End, Flow, Frame, FrameSink, FrameSource, Head, Identity, Listener, Pace, Phase,
    ReadBuffer, Room, Target, Transport, Turn, bind, dialers,
};

use crate::Load;

const TRANSPORT: Token = Token(0);
const WAKER: Token = Token(1);

/// As the driver has it.
const BUDGET: usize = 1 << 20;

/// A transport and the loop around it.
#[derive(Debug)]
struct Node {
    transport: Box<dyn Transport>,
    poll: Poll,
    events: Events,
    buffer: ReadBuffer,
}

impl Node {
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

    /// Everything that can be done now; an error is the end.
    fn drive(&mut self, source: &mut dyn FrameSource, sink: &mut dyn FrameSink) -> Result<(), End> {
        loop {
            let now = Instant::now();
            if self.transport.timeout().is_some_and(|at| at <= now) {
                self.transport.on_timeout(now);
            }
            let buffer = &mut self.buffer;
            let mut turn = Turn {
                now,
                buffer,
                budget: BUDGET,
            };
            let received = self.transport.recv(&mut turn, sink)?;
            let sent = self.transport.send(&mut turn, source)?;
            if (received, sent) == (Pace::Idle, Pace::Idle) {
                return Ok(());
            }
        }
    }

    fn wait(&mut self) {
        let at = self.transport.timeout();
        let timeout = at.map(|at| at.saturating_duration_since(Instant::now()));
        let polled = self.poll.poll(&mut self.events, timeout);
        polled.expect("it is not interrupted");
    }
}

/// The same body again and again.
#[derive(Debug)]
struct Repeat {
    body: Bytes,
    left: u64,
}

impl FrameSource for Repeat {
    fn next_frame(&mut self, room: &Room) -> Option<Frame> {
        let fits = room.frame_max >= self.body.len() && !room.blocked.contains(0);
        if self.left == 0 || !fits {
            return None;
        }
        self.left -= 1;
        Some(Frame {
            flow: Flow::Lane(0),
            head: Head::EMPTY,
            body: self.body.clone(),
        })
    }
}

/// Counts, and tells when a number is reached.
#[derive(Debug)]
struct Count {
    left: u64,
    wanted: Receiver<u64>,
    reached: Sender<()>,
}

impl FrameSink for Count {
    fn frame(&mut self, _frame: Bytes) {
        if self.left == 0 {
            let wanted = self.wanted.try_recv();
            self.left = wanted.expect("it is said before it is sent");
        }
        self.left -= 1;
        if self.left == 0 {
            self.reached.send(()).expect("somebody waits");
        }
    }
}

/// Two open ends, and the listener, which a QUIC connection may still need.
fn open(scheme: &str) -> ([Node; 2], Box<dyn Listener>) {
    let keys = [(); 2].map(|()| Identity::generate().expect("randomness"));
    let address = format!("{scheme}://127.0.0.1:0");
    let address = address.parse().expect("an address");
    let mut listener = bind(&address, &keys[1], &Admission::anyone()).expect("a port");
    let poll = Poll::new().expect("a poll");
    let registered = listener.register(poll.registry(), TRANSPORT);
    registered.expect("a socket");
    let target = Target {
        address: listener.local_address(),
        peer: Some(keys[1].node_id()),
    };
    let all = dialers(&keys[0]);
    let dialer = all.iter().find(|it| it.schemes().contains(&scheme));
    let dialed = dialer
        .expect("it is built in")
        .dial(Instant::now(), &target);
    let mut near = Node::new(dialed.expect("it listens"));
    let (mut far, mut buffer) = (Vec::new(), ReadBuffer::default());
    let mut nothing = Repeat {
        body: Bytes::new(),
        left: 0,
    };
    let (mut accepted, mut ignored) = (Vec::new(), Vec::new());
    // Turn by turn: only a handshake.
    while near.transport.phase() < Phase::Open
        || far
            .first()
            .is_none_or(|it: &Node| it.transport.phase() < Phase::Open)
    {
        let mut turn = Turn {
            now: Instant::now(),
            buffer: &mut buffer,
            budget: BUDGET,
        };
        let _pace = listener
            .accept(&mut turn, &mut accepted)
            .expect("it listens");
        far.extend(accepted.drain(..).map(Node::new));
        for node in far.iter_mut().chain([&mut near]) {
            node.drive(&mut nothing, &mut ignored).expect("they agree");
        }
    }
    ([near, far.remove(0)], listener)
}

/// Messages one way, each a frame, counted at the far end: no session, no acknowledgement of ours.
#[derive(Debug)]
pub struct FramesOneWay {
    send: Option<Sender<u64>>,
    waker: Waker,
    want: Sender<u64>,
    reached: Receiver<()>,
    threads: Vec<JoinHandle<()>>,
    _listener: Box<dyn Listener>,
}

impl FramesOneWay {
    /// Messages of `len` bytes.
    #[must_use]
    pub fn new(scheme: &str, len: usize) -> Self {
        let ([near, far], listener) = open(scheme);
        let ((want, wanted), (reach, reached)) = (bounded(1), bounded(1));
        let count = Count {
            left: 0,
            wanted,
            reached: reach,
        };
        let (send, orders) = bounded(1);
        let waker = Waker::new(near.poll.registry(), WAKER).expect("a waker");
        let body = vec![7; len].into();
        let source = Repeat { body, left: 0 };
        Self {
            send: Some(send),
            waker,
            want,
            reached,
            threads: vec![
                std::thread::spawn(move || run_near(near, source, &orders)),
                std::thread::spawn(move || run_far(far, count)),
            ],
            _listener: listener,
        }
    }
}

fn run_near(mut node: Node, mut source: Repeat, orders: &Receiver<u64>) {
    let mut ignored = Vec::new();
    while node.drive(&mut source, &mut ignored).is_ok() {
        node.wait();
        match orders.try_recv() {
            Ok(count) => source.left += count,
            Err(crossbeam_channel::TryRecvError::Empty) => {}
            Err(crossbeam_channel::TryRecvError::Disconnected) => {
                node.transport.close(Instant::now());
            }
        }
    }
}

fn run_far(mut node: Node, mut count: Count) {
    let body = Bytes::new();
    let mut nothing = Repeat { body, left: 0 };
    while node.drive(&mut nothing, &mut count).is_ok() {
        node.wait();
    }
}

impl Load for FramesOneWay {
    fn run(&mut self, count: u64) {
        self.want.send(count).expect("the far end lives");
        let send = self.send.as_ref().expect("it is there until it is dropped");
        send.send(count).expect("the near end lives");
        self.waker.wake().expect("the near end lives");
        self.reached.recv().expect("the far end lives");
    }
}

impl Drop for FramesOneWay {
    fn drop(&mut self) {
        self.send = None;
        self.waker.wake().expect("the near end lives");
        for thread in self.threads.drain(..) {
            thread.join().expect("neither end panics");
        }
    }
}
