//! Messages in one direction through a Session, in the same bare loop as [frames](crate::frames): no
//! driver and no user's thread, but everything that exactly-once delivery needs.

use bytes::Bytes;
use selvedge_driver::{Frame, FrameSink, FrameSource, LaneId, Message, NodeId, Role, SendCapacity};
use selvedge_endpoint::{AttachmentId, SendBuffer, SendError, Session, SessionConfig};
use selvedge_transport::Instant;

use crate::Workload;
use crate::bare::{BareByTurns, BareOneWay, FrameCount, Traffic};

const LANE: LaneId = LaneId::FIRST;
const TRANSPORT: AttachmentId = AttachmentId(0);

/// How many messages are enqueued before the transport sends: about one full frame of 64 B messages.
const AT_ONCE: u64 = 512;

/// One end: a session with the messages to send, or with a count of those it delivers.
struct SessionEnd {
    session: Session,
    outbox: SendBuffer,
    body: Bytes,
    remaining: u64,
    count: Option<FrameCount>,
    now: Instant,
}

impl SessionEnd {
    fn new(role: Role, body: Bytes, count: Option<FrameCount>) -> Self {
        let ids = [1, 2].map(|number| NodeId::new([number; 32]));
        let (local, peer) = match role {
            Role::Dialer => (ids[0], ids[1]),
            Role::Acceptor => (ids[1], ids[0]),
        };
        let (config, now) = (SessionConfig::default(), Instant::now());
        let mut session = Session::new(config.clone(), local, peer, 1);
        let attached = session.attach(now, TRANSPORT, role, true);
        attached.expect("a new session is open");
        Self {
            session,
            outbox: SendBuffer::new(&config),
            body,
            remaining: 0,
            count,
            now,
        }
    }

    fn near(len: usize) -> Self {
        Self::new(Role::Dialer, vec![7; len].into(), None)
    }

    fn far(count: FrameCount) -> Self {
        Self::new(Role::Acceptor, Bytes::new(), Some(count))
    }

    /// Enqueues messages while any remain and the send buffer has room. Returns whether it enqueued any.
    fn hand_in(&mut self) -> bool {
        for _ in 0..self.remaining.min(AT_ONCE) {
            match self.outbox.push(LANE, self.body.clone()) {
                Ok(()) => self.remaining -= 1,
                Err(SendError::Full(_)) => break,
                Err(error) => panic!("it is open: {error}"),
            }
        }
        self.session.sync_send_buffer(&mut self.outbox)
    }
}

impl FrameSource for SessionEnd {
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame> {
        let frame = self.session.poll_frame(self.now, TRANSPORT, capacity);
        if frame.is_some() || !self.hand_in() {
            return frame;
        }
        self.session.poll_frame(self.now, TRANSPORT, capacity)
    }
}

impl FrameSink for SessionEnd {
    fn frame(&mut self, frame: Bytes) {
        self.session.handle_frame(self.now, TRANSPORT, frame);
        let mut taken = 0;
        for (_, mut run) in self.session.take_batches() {
            while let Some(bytes) = run.take_bytes() {
                taken += Message::cost_of(bytes.len());
                if let Some(count) = &mut self.count {
                    count.one();
                }
            }
        }
        self.session.consumed(LANE, taken);
    }
}

impl Traffic for SessionEnd {
    fn begin(&mut self, now: Instant) {
        self.now = now;
        if self.session.poll_timeout().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
        }
        while self.session.poll_output().is_some() {}
    }

    fn timeout(&self) -> Option<Instant> {
        self.session.poll_timeout()
    }

    fn order(&mut self, count: u64) {
        self.remaining += count;
    }
}

/// Messages in one direction between two sessions over bare transports, counted at the receiver.
#[derive(Debug)]
pub struct SessionsOneWay(BareOneWay);

impl SessionsOneWay {
    /// Messages of `len` bytes.
    #[must_use]
    pub fn new(scheme: &str, len: usize) -> Self {
        Self(BareOneWay::new(
            scheme,
            SessionEnd::near(len),
            SessionEnd::far,
        ))
    }

    /// The same with both ends on the calling thread.
    #[must_use]
    pub fn by_turns(scheme: &str, len: usize) -> impl Workload + use<> {
        BareByTurns::new(scheme, SessionEnd::near(len), SessionEnd::far)
    }
}

impl Workload for SessionsOneWay {
    fn run(&mut self, count: u64) {
        self.0.run(count);
    }
}
