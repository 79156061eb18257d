//! Two sessions and the paths between them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use selvedge_endpoint::{AttachmentId, DetachReason, SessionConfig};
use selvedge_transport::{FrameOrder, Instant, LaneSet, Role, SendCapacity};

use crate::link::{Conditions, Link};
use crate::side::Side;

/// The unique name of a [`Path`] of a [`World`].
pub type PathId = AttachmentId;

/// The kind of transport of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Like TCP: all frames in one order, no loss while it lives.
    Stream,
    /// Like QUIC: each frame order on its own, no loss while it lives.
    Streams,
    /// Like UDP: frames may be lost, duplicated or reordered. Corrupted ones do not arrive.
    Datagrams,
}

/// The bytes that a reliable path buffers in each direction, as sockets do.
const STREAM_BUFFER: usize = 256 << 10;

/// A connection between the two sides.
#[derive(Debug)]
pub struct Path {
    id: PathId,
    kind: Kind,
    /// From side 0 and from side 1.
    pub links: [Link; 2],
    /// Reliable kinds: the frames in flight with their arrival times, one queue per frame order.
    streams: [Vec<(FrameOrder, Instant, Bytes)>; 2],
    /// The sides that have not closed it.
    held: [bool; 2],
    frame_max: usize,
}

/// Two sessions, in virtual time, over paths that come and go.
///
/// A reliable path takes latency, jitter and rate from the [`Conditions`] of its links. Where they lose
/// packets it is slower by the time of retransmission, and while they are cut, nothing passes.
#[derive(Debug)]
pub struct World {
    /// Both ends.
    pub sides: [Side; 2],
    /// The current paths.
    pub paths: Vec<Path>,
    /// The source of random faults.
    pub rng: Rng,
    now: Instant,
    begin: Instant,
    next_path: u64,
    config: SessionConfig,
}

impl World {
    /// Two sides that are not introduced, and no path between them.
    #[must_use]
    pub fn new(config: &SessionConfig, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let begin = Instant::from_origin(Duration::from_secs(1));
        Self {
            sides: [0, 1].map(|number| Side::new(number, config, rng.u64(1..))),
            paths: Vec::new(),
            rng,
            now: begin,
            begin,
            next_path: 0,
            config: config.clone(),
        }
    }

    /// The elapsed virtual time.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.begin
    }

    /// The virtual time.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Opens a path that `dialer` dials; its handshake takes no time.
    pub fn connect(&mut self, dialer: usize, kind: Kind, conditions: Conditions) -> PathId {
        self.next_path += 1;
        let id = AttachmentId(self.next_path);
        self.paths.push(Path {
            id,
            kind,
            links: [Link::new(conditions), Link::new(conditions)],
            streams: Default::default(),
            held: [true; 2],
            frame_max: if kind == Kind::Datagrams {
                1175
            } else {
                16 << 10
            },
        });
        for number in 0..2 {
            let role = if number == dialer {
                Role::Dialer
            } else {
                Role::Acceptor
            };
            let reliable = kind != Kind::Datagrams;
            let session = &mut self.sides[number].session;
            if session.attach(self.now, id, role, reliable).is_err() {
                self.let_go(id, number);
            }
        }
        id
    }

    /// The path with that name, while it lives.
    pub fn path(&mut self, id: PathId) -> Option<&mut Path> {
        self.paths.iter_mut().find(|path| path.id == id)
    }

    /// Breaks a path: frames in flight are lost, and both sides notice the end.
    pub fn cut(&mut self, id: PathId) {
        self.paths.retain(|path| path.id != id);
        for side in &mut self.sides {
            side.session.detach(id, DetachReason::Local);
        }
    }

    /// Kills the process of a side and starts a new one with its name and no state. Returns the dead one;
    /// messages that had arrived and its user had not read count as received.
    pub fn restart(&mut self, number: usize) -> Side {
        let ids: Vec<_> = self.paths.iter().map(|path| path.id).collect();
        for id in ids {
            self.cut(id);
        }
        let fresh = Side::new(number as u8, &self.config, self.rng.u64(1..));
        let mut dead = std::mem::replace(&mut self.sides[number], fresh);
        dead.take_waiting();
        dead
    }

    /// Suspends both sides for so long: both find that time has leapt.
    pub fn leap(&mut self, by: Duration) {
        self.now += by;
    }

    /// Advances time until `done`, by at most `limit`. Returns whether it is done.
    pub fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.turn();
            if done(self) {
                return true;
            }
            let next = self.next_event().filter(|&at| at <= end);
            let Some(next) = next else {
                self.now = end;
                return false;
            };
            self.now = next.max(self.now);
        }
    }

    /// Advances time.
    pub fn pass(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    fn next_event(&self) -> Option<Instant> {
        let timeouts = self.sides.iter().filter_map(|it| it.session.poll_timeout());
        let arrivals = self.paths.iter().flat_map(Path::next_arrivals);
        timeouts.chain(arrivals).min()
    }

    /// Runs everything that can happen now.
    fn turn(&mut self) {
        for side in &mut self.sides {
            if side.session.poll_timeout().is_some_and(|at| at <= self.now) {
                side.session.handle_timeout(self.now);
            }
        }
        loop {
            let mut moved = false;
            for at in 0..2 {
                moved |= self.sides[at].turn();
                for id in std::mem::take(&mut self.sides[at].released) {
                    self.let_go(id, at);
                }
            }
            for path in &mut self.paths {
                for from in 0..2 {
                    moved |= path.pull(self.now, &mut self.rng, from, &mut self.sides[from]);
                    let to = &mut self.sides[1 - from];
                    moved |= path.push(self.now, 1 - from, to);
                }
            }
            self.paths_end();
            if !moved {
                return;
            }
        }
    }

    /// Closes a side's end of a path in order: what it has sent still arrives.
    fn let_go(&mut self, id: PathId, side: usize) {
        if let Some(path) = self.path(id) {
            path.held[side] = false;
        }
    }

    /// Ends a path for the other side after one end has closed and everything has arrived.
    fn paths_end(&mut self) {
        let now = self.now;
        let (over, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.paths)
            .into_iter()
            .partition(|path| path.is_over(now));
        self.paths = kept;
        for path in over {
            for side in &mut self.sides {
                side.session.detach(path.id, DetachReason::Local);
            }
        }
    }
}

impl Path {
    /// Its name.
    #[must_use]
    pub const fn id(&self) -> PathId {
        self.id
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Changes the conditions of both directions.
    pub const fn set(&mut self, conditions: Conditions) {
        self.links[0].set(conditions);
        self.links[1].set(conditions);
    }

    fn is_over(&self, now: Instant) -> bool {
        let empty = |from: usize| self.streams[from].is_empty();
        match self.held {
            [true, true] => false,
            [false, false] => true,
            [held, _] => {
                let from = usize::from(held);
                let arrives = |at: Option<Instant>| at.is_some_and(|at| at > now);
                empty(from) && !arrives(self.links[from].next_arrival())
            }
        }
    }

    fn next_arrivals(&self) -> impl Iterator<Item = Instant> {
        let is_passing = |from: &usize| !self.links[*from].conditions().cut;
        let frames = (0..2)
            .filter(is_passing)
            .flat_map(|from| &self.streams[from]);
        let datagrams = self.links.iter().filter_map(Link::next_arrival);
        frames.map(|(_, at, _)| *at).chain(datagrams)
    }

    /// Sends the frames of side `from`.
    fn pull(&mut self, now: Instant, rng: &mut Rng, from: usize, side: &mut Side) -> bool {
        let capacity = SendCapacity {
            frame_max: self.frame_max,
            datagram_max: 1175,
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        let mut moved = false;
        while self.held[from] && self.has_room(from) {
            let Some(frame) = side.session.poll_frame(now, self.id, &capacity) else {
                break;
            };
            moved = true;
            let mut bytes = BytesMut::with_capacity(frame.len());
            frame.write_to(&mut bytes);
            match self.kind {
                Kind::Datagrams => self.links[from].send(now, rng, bytes.freeze()),
                Kind::Stream | Kind::Streams => {
                    self.send_reliably(now, rng, from, frame.order, bytes.freeze());
                }
            }
        }
        moved
    }

    fn has_room(&self, from: usize) -> bool {
        let under_way = self.streams[from].iter().map(|(_, _, bytes)| bytes.len());
        under_way.sum::<usize>() < STREAM_BUFFER
    }

    fn send_reliably(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        from: usize,
        order: FrameOrder,
        bytes: Bytes,
    ) {
        let conditions = self.links[from].conditions();
        let is_before = |other: FrameOrder| self.kind == Kind::Stream || other == order;
        let before = self.streams[from].iter().rev();
        let before = before.clone().find(|(other, _, _)| is_before(*other));
        let mut arrives = now + conditions.latency + conditions.jitter.mul_f64(rng.f64());
        // Each loss costs about one further round trip.
        while rng.f64() < conditions.loss.min(0.9) {
            arrives += 2 * conditions.latency + Duration::from_millis(1);
        }
        if let Some((_, at, _)) = before {
            arrives = arrives.max(*at);
        }
        if let Some(rate) = conditions.rate {
            arrives += Duration::from_secs_f64(bytes.len() as f64 / rate as f64);
        }
        self.streams[from].push((order, arrives, bytes));
    }

    /// Delivers arrived frames to side `to`.
    fn push(&mut self, now: Instant, to: usize, side: &mut Side) -> bool {
        let from = 1 - to;
        let mut moved = false;
        while let Some(packet) = self.links[from].receive(now) {
            moved = true;
            if self.held[to] && !packet.is_corrupt {
                side.session.handle_frame(now, self.id, packet.bytes);
            }
        }
        if self.links[from].conditions().cut {
            return moved;
        }
        let under_way = std::mem::take(&mut self.streams[from]);
        let (arrived, rest): (Vec<_>, Vec<_>) =
            under_way.into_iter().partition(|(_, at, _)| *at <= now);
        self.streams[from] = rest;
        for (_, _, frame) in arrived {
            moved = true;
            if self.held[to] {
                side.session.handle_frame(now, self.id, frame);
            }
        }
        moved
    }
}
