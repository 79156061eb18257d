//! The exchange: what each side sends, and the check of what it receives.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use selvedge_endpoint::{
    AttachmentId, LaneId, SendBuffer, SendError, Session, SessionConfig, SessionOutput,
};
use selvedge_transport::{Instant, LaneSet, NodeId, Role, SendCapacity};

use crate::path::{LossyPath, PathCounts};

const ID: AttachmentId = AttachmentId(1);

const CAPACITY: SendCapacity = SendCapacity {
    frame_max: 1200,
    datagram_max: 1200,
    blocked: LaneSet::EMPTY,
    control_blocked: false,
};

/// The exchange fails when it takes longer, in virtual time.
const TIME_MAX: Duration = Duration::from_secs(600);

/// How long the sides go on after the last message, so that a late duplicate is noticed.
const QUIET: Duration = Duration::from_secs(2);

/// What an exchange moved.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) messages: u32,
    pub(crate) bytes: usize,
    pub(crate) milliseconds: u64,
    pub(crate) path: PathCounts,
}

/// One side, and how many messages it has sent and received.
struct ExchangeSide {
    session: Session,
    buffer: SendBuffer,
    /// The message to send next, if the send buffer had no room for it.
    unsent: Option<Bytes>,
    sent: u32,
    received: u32,
    bytes: usize,
}

/// Two sides and the path between them.
pub(crate) struct Exchange {
    seed: u64,
    count: u32,
    sides: [ExchangeSide; 2],
    /// The path from each side to the other.
    paths: [LossyPath; 2],
    rng: Rng,
    now: Instant,
}

/// The message of that number in the direction that begins at `from`: most are short, some longer
/// than a datagram or empty.
fn message(seed: u64, from: usize, number: u32) -> Bytes {
    let mut rng = Rng::with_seed(seed ^ u64::from(number) << 1 ^ from as u64);
    let len = match number % 50 {
        0 => 20_000,
        1 => 0,
        _ => rng.usize(1..2_000),
    };
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes.into()
}

impl Exchange {
    pub(crate) fn new(seed: u64, count: u32) -> Self {
        let now = Instant::from_origin(Duration::ZERO);
        let config = SessionConfig::default();
        let nodes = [1, 2].map(|byte| NodeId::new([byte; 32]));
        let sides = [0, 1].map(|at| ExchangeSide {
            session: Session::new(config.clone(), nodes[at], nodes[1 - at], seed + at as u64),
            buffer: SendBuffer::new(&config),
            unsent: None,
            sent: 0,
            received: 0,
            bytes: 0,
        });
        Self {
            seed,
            count,
            sides,
            paths: Default::default(),
            rng: Rng::with_seed(seed),
            now,
        }
    }

    pub(crate) fn run(mut self) -> Result<Report, String> {
        let began = self.now;
        for (side, role) in self.sides.iter_mut().zip([Role::Dialer, Role::Acceptor]) {
            let attached = side.session.attach(self.now, ID, role, false);
            attached.map_err(|error| error.to_string())?;
        }
        let mut quiet_from = None;
        while quiet_from.is_none_or(|at| self.now - at < QUIET) {
            for at in 0..2 {
                self.send(at)?;
                self.receive(1 - at)?;
            }
            self.advance()?;
            if self.sides.iter().all(|side| side.received == self.count) {
                quiet_from.get_or_insert(self.now);
            }
            if self.now - began > TIME_MAX {
                return Err("it does not end".to_owned());
            }
        }
        let counts = self.paths.map(|path| path.counts);
        let sum = |of: fn(&PathCounts) -> u32| counts.iter().map(of).sum();
        Ok(Report {
            messages: self.sides.iter().map(|side| side.received).sum(),
            bytes: self.sides.iter().map(|side| side.bytes).sum(),
            milliseconds: (self.now - began).saturating_sub(QUIET).as_millis() as u64,
            path: PathCounts {
                sent: sum(|it| it.sent),
                lost: sum(|it| it.lost),
                duplicated: sum(|it| it.duplicated),
                overtaken: sum(|it| it.overtaken),
            },
        })
    }

    fn send(&mut self, at: usize) -> Result<(), String> {
        let side = &mut self.sides[at];
        while side.sent < self.count {
            let unsent = side.unsent.take();
            let next = unsent.unwrap_or_else(|| message(self.seed, at, side.sent));
            match side.buffer.push(LaneId::FIRST, next) {
                Ok(()) => side.sent += 1,
                Err(SendError::Full(message)) => {
                    side.unsent = Some(message);
                    break;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        side.session.sync_send_buffer(&mut side.buffer);
        while let Some(frame) = side.session.poll_frame(self.now, ID, &CAPACITY) {
            let mut datagram = BytesMut::new();
            frame.write_to(&mut datagram);
            self.paths[at].send(self.now, &mut self.rng, &datagram.freeze());
        }
        Ok(())
    }

    fn receive(&mut self, at: usize) -> Result<(), String> {
        let side = &mut self.sides[at];
        while let Some(datagram) = self.paths[1 - at].receive(self.now) {
            side.session.handle_frame(self.now, ID, datagram);
        }
        let arrived: Vec<_> = side.session.take_messages().collect();
        for arrived in arrived {
            side.session.consumed(arrived.lane, arrived.cost());
            if arrived.payload != message(self.seed, 1 - at, side.received) {
                return Err(format!("side {at}: message {} differs", side.received));
            }
            side.received += 1;
            side.bytes += arrived.payload.len();
        }
        while let Some(output) = side.session.poll_output() {
            if let SessionOutput::Release { reason, .. } = output {
                return Err(format!("side {at} released its path: {reason}"));
            }
        }
        if side.received > self.count {
            return Err(format!("side {at}: more messages than were sent"));
        }
        Ok(())
    }

    /// Lets time pass until the next datagram arrives or a timer of a session expires.
    fn advance(&mut self) -> Result<(), String> {
        let arrivals = self.paths.iter().filter_map(LossyPath::next_arrival);
        let timers = self.sides.iter();
        let timers = timers.filter_map(|side| side.session.poll_timeout());
        let next = arrivals.chain(timers).min();
        self.now = next
            .ok_or("nothing is in flight, and no timer runs")?
            .max(self.now);
        for side in &mut self.sides {
            if side.session.poll_timeout().is_some_and(|at| at <= self.now) {
                side.session.handle_timeout(self.now);
            }
        }
        Ok(())
    }
}
