//! Messages one way through a Session in the same bare loop as [frames](crate::frames): no driver, no
//! user's thread, but all that makes messages exactly once.

use std::time::Instant;

use bytes::Bytes;
use selvedge_driver::{Frame, FrameSink, FrameSource, LaneId, Message, NodeId, Role, SendCapacity};
use selvedge_endpoint::{AttachmentId, SendBuffer, SendError, Session, SessionConfig};

use crate::Load;
use crate::bare::{BareByTurns, BareOneWay, Carried, Count};

const LANE: LaneId = LaneId::FIRST;
const TRANSPORT: AttachmentId = AttachmentId(0);

/// How many messages are handed in before the transport is asked to take them: about a full frame of
/// those of 64 B.
const AT_ONCE: u64 = 512;

/// One end: a session and what it is given, or a count of what it delivers.
struct Side {
    session: Session,
    outbox: SendBuffer,
    body: Bytes,
    left: u64,
    count: Option<Count>,
    now: Instant,
}

impl Side {
    fn new(role: Role, body: Bytes, count: Option<Count>) -> Self {
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
            left: 0,
            count,
            now,
        }
    }

    fn near(len: usize) -> Self {
        Self::new(Role::Dialer, vec![7; len].into(), None)
    }

    fn far(count: Count) -> Self {
        Self::new(Role::Acceptor, Bytes::new(), Some(count))
    }

    /// Hands messages in while there are any and the send buffer has room; whether there were.
    fn hand_in(&mut self) -> bool {
        for _ in 0..self.left.min(AT_ONCE) {
            match self.outbox.push(LANE, self.body.clone()) {
                Ok(()) => self.left -= 1,
                Err(SendError::Full(_)) => break,
                Err(error) => panic!("it is open: {error}"),
            }
        }
        self.session.exchange(&mut self.outbox)
    }
}

impl FrameSource for Side {
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame> {
        let frame = self.session.poll_frame(self.now, TRANSPORT, capacity);
        if frame.is_some() || !self.hand_in() {
            return frame;
        }
        self.session.poll_frame(self.now, TRANSPORT, capacity)
    }
}

impl FrameSink for Side {
    fn frame(&mut self, frame: Bytes) {
        self.session.handle_frame(self.now, TRANSPORT, frame);
        let mut taken = 0;
        for (_, mut run) in self.session.take_runs() {
            while let Some(bytes) = run.take_bytes() {
                taken += Message::cost_of(bytes.len());
                if let Some(count) = &mut self.count {
                    count.one();
                }
            }
        }
        self.session.taken(LANE, taken);
    }
}

impl Carried for Side {
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
        self.left += count;
    }
}

/// Messages one way from a session to another, each over a bare transport, counted at the far end.
#[derive(Debug)]
pub struct SessionsOneWay(BareOneWay);

impl SessionsOneWay {
    /// Messages of `len` bytes.
    #[must_use]
    pub fn new(scheme: &str, len: usize) -> Self {
        Self(BareOneWay::new(scheme, Side::near(len), Side::far))
    }

    /// The same, both ends on the thread that asks.
    #[must_use]
    pub fn by_turns(scheme: &str, len: usize) -> impl Load + use<> {
        BareByTurns::new(scheme, Side::near(len), Side::far)
    }
}

impl Load for SessionsOneWay {
    fn run(&mut self, count: u64) {
        self.0.run(count);
    }
}
