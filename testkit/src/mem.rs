//! Transports within one process: `mem:///name`, for whole hubs in a simulation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mio::{Registry, Token};
use selvedge_transport::{
    Address, Admission, DialError, DialTarget, Dialer, End, FrameSink, FrameSource, Info, Instant,
    LaneSet, Listener, NodeId, Phase, Place, Progress, Role, SendCapacity, Transport, Turn,
};

const SCHEME: &str = "mem";

/// What a connection holds in each direction, as the buffers of a socket do.
const BUFFER_LEN: usize = 64 << 10;

const FRAME_MAX: usize = 16 << 10;

/// The time until a dial fails that reaches no listener.
const DIAL_MAX: Duration = Duration::from_secs(5);

/// How long a lost frame of a lossy link takes longer than others: the shortest pause before TCP
/// retransmits.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// A network of [`mem` transports](Self::dialer): reliable, each with the latency of its link, and cut or
/// killed by name. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemNet(Arc<Mutex<Net>>);

/// How a link of a [`MemNet`] treats the frames of a connection. They arrive in order nevertheless.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemLink {
    /// The time from one end to the other.
    pub latency: Duration,
    /// Up to so much more, drawn for each frame.
    pub jitter: Duration,
    /// Which part of the frames is lost and retransmitted, which holds back those behind, from 0 to 1.
    pub loss: f64,
}

#[derive(Debug)]
struct Net {
    latency: Duration,
    /// For pairs of names, the lesser first, that differ from the others.
    links: BTreeMap<[String; 2], MemLink>,
    rng: fastrand::Rng,
    listeners: BTreeMap<String, MemListening>,
    connections: BTreeMap<u64, MemConnection>,
    next: u64,
    /// Pairs of names between which nothing passes, from the first to the second.
    cuts: Vec<[String; 2]>,
    /// Names that do not answer, not even that nobody listens.
    unplugged: BTreeSet<String>,
}

#[derive(Debug)]
struct MemListening {
    node: NodeId,
    admission: Admission,
    /// Connections that have not been accepted, and when they arrive.
    incoming: VecDeque<(Instant, u64)>,
}

#[derive(Debug)]
struct MemConnection {
    names: [String; 2],
    nodes: [NodeId; 2],
    link: MemLink,
    /// From the dialer, and from the acceptor.
    under_way: [VecDeque<(Instant, Bytes)>; 2],
    /// How many bytes they are.
    held: [usize; 2],
    /// Whether a side waits for room.
    is_blocked: [bool; 2],
    /// When the dialer learns whether it was let in.
    answer: Option<(Instant, Result<(), ()>)>,
    /// Which side has closed, and when the other learns of it.
    closed: [Option<Instant>; 2],
    is_broken: bool,
    /// Whether one end has lost its power: nothing passes any more, and the other end is not notified.
    is_dead: bool,
    dropped: [bool; 2],
    began: Instant,
}

impl MemNet {
    /// A network without any nodes.
    #[must_use]
    pub fn new(latency: Duration) -> Self {
        Self(Arc::new(Mutex::new(Net {
            latency,
            links: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(0),
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            next: 0,
            cuts: Vec::new(),
            unplugged: BTreeSet::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A dialer for the node of that name.
    #[must_use]
    pub fn dialer(&self, name: &str, node: NodeId) -> Arc<dyn Dialer> {
        Arc::new(MemDialer {
            net: self.clone(),
            name: name.to_owned(),
            node,
        })
    }

    /// A listener at `mem:///name`.
    #[must_use]
    pub fn listener(&self, name: &str, node: NodeId, admission: Admission) -> Box<dyn Listener> {
        let listening = MemListening {
            node,
            admission,
            incoming: VecDeque::new(),
        };
        self.lock().listeners.insert(name.to_owned(), listening);
        Box::new(MemListener {
            net: self.clone(),
            name: name.to_owned(),
        })
    }

    /// From now on nothing passes from one name to the other, and neither is notified; or it does again.
    pub fn cut(&self, from: &str, to: &str, is_cut: bool) {
        let mut net = self.lock();
        let way = [from.to_owned(), to.to_owned()];
        net.cuts.retain(|known| *known != way);
        if is_cut {
            net.cuts.push(way);
        }
    }

    /// Breaks every connection between two names; both sides see it at once.
    pub fn kill(&self, one: &str, other: &str) {
        let mut net = self.lock();
        for connection in net.connections.values_mut() {
            let [a, b] = &connection.names;
            connection.is_broken |= (a == one && b == other) || (a == other && b == one);
        }
    }

    /// Sets what the link between two names is like, for connections that are made from now on. What it
    /// draws follows from `seed`.
    pub fn set_link(&self, one: &str, other: &str, link: MemLink, seed: u64) {
        let mut net = self.lock();
        net.links.insert(pair(one, other), link);
        net.rng.seed(seed);
    }

    /// Takes the power from the node of that name: its connections are silent for good, and dials to it
    /// are not answered, until it is [plugged in](Self::plug_in) again.
    pub fn unplug(&self, name: &str) {
        let mut net = self.lock();
        net.unplugged.insert(name.to_owned());
        for connection in net.connections.values_mut() {
            connection.is_dead |= connection.names.iter().any(|it| it == name);
        }
    }

    /// Lets a node be reached again.
    pub fn plug_in(&self, name: &str) {
        self.lock().unplugged.remove(name);
    }

    /// How many connections there are between two names.
    #[must_use]
    pub fn connections(&self, one: &str, other: &str) -> usize {
        let net = self.lock();
        let names = pair(one, other);
        let all = net.connections.values();
        all.filter(|it| pair(&it.names[0], &it.names[1]) == names)
            .count()
    }
}

fn pair(one: &str, other: &str) -> [String; 2] {
    [one.min(other).to_owned(), one.max(other).to_owned()]
}

impl Net {
    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cuts.iter().any(|way| way[0] == from && way[1] == to)
    }

    fn passes(&self, connection: &MemConnection, from: usize) -> bool {
        !connection.is_dead && !self.is_cut(&connection.names[from], &connection.names[1 - from])
    }

    fn link(&self, one: &str, other: &str) -> MemLink {
        let latency = self.latency;
        let plain = MemLink {
            latency,
            jitter: Duration::ZERO,
            loss: 0.0,
        };
        self.links.get(&pair(one, other)).copied().unwrap_or(plain)
    }
}

impl MemConnection {
    /// When a frame arrives that is sent now.
    fn arrival(&self, rng: &mut fastrand::Rng, now: Instant, from: usize) -> Instant {
        let MemLink {
            latency,
            jitter,
            loss,
        } = self.link;
        let mut arrival = now + latency;
        if !jitter.is_zero() {
            arrival += jitter.mul_f64(rng.f64());
        }
        if loss > 0.0 && rng.f64() < loss {
            arrival += RETRANSMISSION;
        }
        let last = self.under_way[from].back().map(|(at, _)| *at);
        last.map_or(arrival, |last| last.max(arrival))
    }
}

#[derive(Debug)]
struct MemDialer {
    net: MemNet,
    name: String,
    node: NodeId,
}

fn name_of(address: &Address) -> Option<String> {
    match address.place() {
        Place::Path(path) => Some(path.trim_start_matches('/').to_owned()),
        _ => None,
    }
}

impl Dialer for MemDialer {
    fn schemes(&self) -> &[&'static str] {
        &[SCHEME]
    }

    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError> {
        let bad = || DialError::BadPlace {
            address: target.address.clone(),
        };
        let to = name_of(&target.address).ok_or_else(bad)?;
        let mut net = self.net.lock();
        let (link, number) = (net.link(&self.name, &to), net.next);
        let is_dead = net.unplugged.contains(&to) || net.unplugged.contains(&self.name);
        let mut found = target.peer.unwrap_or(self.node);
        if !is_dead {
            let refused = || End::unreachable(io::ErrorKind::ConnectionRefused.into());
            let listening = net.listeners.get_mut(&to).ok_or_else(refused)?;
            found = listening.node;
            if let Some(expected) = target.peer.filter(|expected| *expected != found) {
                return Err(End::WrongPeer { expected, found }.into());
            }
            listening.incoming.push_back((now + link.latency, number));
        }
        net.next += 1;
        let connection = MemConnection {
            names: [self.name.clone(), to],
            nodes: [self.node, found],
            link,
            under_way: Default::default(),
            held: [0; 2],
            is_blocked: [false; 2],
            answer: None,
            closed: [None; 2],
            is_broken: false,
            is_dead,
            dropped: [false, true],
            began: now,
        };
        net.connections.insert(number, connection);
        drop(net);
        let transport = MemTransport::new(&self.net, number, Role::Dialer, Some(now + DIAL_MAX));
        Ok(Box::new(transport))
    }
}

#[derive(Debug)]
struct MemListener {
    net: MemNet,
    name: String,
}

impl Drop for MemListener {
    fn drop(&mut self) {
        self.net.lock().listeners.remove(&self.name);
    }
}

impl Listener for MemListener {
    fn local_address(&self) -> Address {
        let address = format!("{SCHEME}:///{}", self.name);
        #[allow(clippy::expect_used, reason = "tests choose names that are paths")]
        address.parse().expect("a name is a path")
    }

    fn register(&mut self, _: &Registry, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        Ok(())
    }

    fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) -> Result<Progress, io::Error> {
        let mut net = self.net.lock();
        let mut let_in = Vec::new();
        let Some(listening) = net.listeners.get_mut(&self.name) else {
            return Ok(Progress::Idle);
        };
        let due: Vec<_> = {
            let due = |(at, _): &mut (Instant, u64)| *at <= turn.now;
            std::iter::from_fn(|| listening.incoming.pop_front_if(due)).collect()
        };
        let admission = listening.admission.clone();
        for (_, number) in due {
            let Some(connection) = net.connections.get(&number) else {
                continue;
            };
            if !net.passes(connection, 0) || !net.passes(connection, 1) {
                continue;
            }
            let admitted = admission.admits(&connection.nodes[0]);
            let answer = if admitted { Ok(()) } else { Err(()) };
            if let Some(connection) = net.connections.get_mut(&number) {
                connection.answer = Some((turn.now + connection.link.latency, answer));
                connection.dropped[1] = !admitted;
            }
            let_in.extend(admitted.then_some(number));
        }
        drop(net);
        for number in let_in {
            let mut transport = MemTransport::new(&self.net, number, Role::Acceptor, None);
            transport.phase = Phase::Open;
            accepted.push(Box::new(transport));
        }
        Ok(Progress::Idle)
    }

    fn timeout(&self) -> Option<Instant> {
        let net = self.net.lock();
        let listening = net.listeners.get(&self.name)?;
        listening.incoming.front().map(|(at, _)| *at)
    }
}

#[derive(Debug)]
struct MemTransport {
    net: MemNet,
    number: u64,
    /// 0 is the dialer.
    side: usize,
    info: Info,
    phase: Phase,
    /// When a dial has taken too long.
    limit: Option<Instant>,
}

impl MemTransport {
    fn new(net: &MemNet, number: u64, role: Role, limit: Option<Instant>) -> Self {
        let side = usize::from(role == Role::Acceptor);
        let peer = net
            .lock()
            .connections
            .get(&number)
            .map(|it| it.nodes[1 - side]);
        Self {
            net: net.clone(),
            number,
            side,
            info: Info {
                scheme: SCHEME,
                role,
                local: None,
                remote: None,
                peer,
                reliable: true,
                encrypted: false,
                frame_max: FRAME_MAX,
                datagram_max: 0,
            },
            phase: Phase::Handshaking,
            limit,
        }
    }

    /// The handshake, and how the connection may have ended.
    fn look(&mut self, now: Instant) -> Result<(), End> {
        let net = self.net.lock();
        let broken = || End::broken(io::ErrorKind::ConnectionReset.into());
        let connection = net.connections.get(&self.number).ok_or_else(broken)?;
        if connection.is_broken {
            return Err(broken());
        }
        if self.phase == Phase::Handshaking {
            match connection.answer {
                Some((at, Ok(()))) if at <= now => self.phase = Phase::Open,
                Some((at, Err(()))) if at <= now => {
                    let detail = "this key is not admitted there".to_owned();
                    return Err(End::Refused { detail });
                }
                _ if self.limit.is_some_and(|at| at <= now) => return Err(End::TimedOut),
                _ => {}
            }
        }
        let from = 1 - self.side;
        let heard = connection.closed[from].is_some_and(|at| at <= now);
        if heard && connection.under_way[from].is_empty() && net.passes(connection, from) {
            return Err(End::PeerClosed);
        }
        Ok(())
    }
}

impl Drop for MemTransport {
    fn drop(&mut self) {
        let mut net = self.net.lock();
        let Some(connection) = net.connections.get_mut(&self.number) else {
            return;
        };
        if connection.closed[self.side].is_none() && !connection.is_dead {
            connection.is_broken = true;
        }
        connection.dropped[self.side] = true;
        if connection.dropped == [true; 2] {
            net.connections.remove(&self.number);
        }
    }
}

impl Transport for MemTransport {
    fn info(&self) -> &Info {
        &self.info
    }

    fn phase(&self) -> Phase {
        self.phase
    }

    fn register(&mut self, _: &Registry, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        self.look(turn.now)?;
        if self.phase == Phase::Closing {
            return Err(End::Closed);
        }
        let capacity = SendCapacity {
            frame_max: FRAME_MAX,
            datagram_max: 0,
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        if self.phase != Phase::Open {
            return Ok(Progress::Idle);
        }
        let mut net = self.net.lock();
        let Net {
            connections, rng, ..
        } = &mut *net;
        let connection = connections.get_mut(&self.number).ok_or(End::Closed)?;
        loop {
            connection.is_blocked[self.side] = connection.held[self.side] >= BUFFER_LEN;
            if connection.is_blocked[self.side] {
                return Ok(Progress::Idle);
            }
            let Some(frame) = source.next_frame(&capacity) else {
                return Ok(Progress::Idle);
            };
            let mut bytes = BytesMut::with_capacity(frame.len());
            frame.write_to(&mut bytes);
            connection.held[self.side] += bytes.len();
            let arrival = connection.arrival(rng, turn.now, self.side);
            connection.under_way[self.side].push_back((arrival, bytes.freeze()));
        }
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        self.look(turn.now)?;
        if self.phase != Phase::Open {
            return Ok(Progress::Idle);
        }
        let from = 1 - self.side;
        loop {
            let mut net = self.net.lock();
            let passes = net
                .connections
                .get(&self.number)
                .is_some_and(|connection| net.passes(connection, from));
            let connection = net.connections.get_mut(&self.number).ok_or(End::Closed)?;
            let due = |(at, _): &mut (Instant, Bytes)| passes && *at <= turn.now;
            let Some((_, frame)) = connection.under_way[from].pop_front_if(due) else {
                break;
            };
            connection.held[from] -= frame.len();
            drop(net);
            sink.frame(frame);
        }
        self.look(turn.now)?;
        Ok(Progress::Idle)
    }

    fn timeout(&self) -> Option<Instant> {
        let net = self.net.lock();
        let connection = net.connections.get(&self.number)?;
        let from = 1 - self.side;
        let is_dialing = self.phase == Phase::Handshaking;
        let has_room = connection.is_blocked[self.side] && connection.held[self.side] < BUFFER_LEN;
        if connection.is_broken || has_room {
            return Some(connection.began);
        }
        let answer = connection.answer.filter(|_| is_dialing).map(|(at, _)| at);
        let frame = connection.under_way[from].front().map(|(at, _)| *at);
        // The rest is looked up only then: this is called for every connection at every step.
        let heard = frame
            .or(connection.closed[from])
            .filter(|_| !is_dialing && net.passes(connection, from));
        let limit = self.limit.filter(|_| is_dialing);
        answer.into_iter().chain(heard).chain(limit).min()
    }

    fn on_timeout(&mut self, _: Instant) {}

    fn close(&mut self, now: Instant) {
        let mut net = self.net.lock();
        if let Some(connection) = net.connections.get_mut(&self.number) {
            let last = connection.under_way[self.side].back().map(|(at, _)| *at);
            let at = now + connection.link.latency;
            connection.closed[self.side] = Some(last.map_or(at, |last| last.max(at)));
        }
        self.phase = Phase::Closing;
    }
}
