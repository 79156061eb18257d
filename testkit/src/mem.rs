//! Transports within one process: `mem:///name`, for whole hubs in a simulation.

use std::collections::{BTreeMap, VecDeque};
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

/// How long a dial that nobody hears takes to fail.
const DIAL_MAX: Duration = Duration::from_secs(5);

/// A network of [`mem` transports](Self::dialer): reliable, each with the latency of the network,
/// and cut or killed by name. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemNet(Arc<Mutex<Net>>);

#[derive(Debug)]
struct Net {
    latency: Duration,
    listeners: BTreeMap<String, Listening>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// Pairs of names between which nothing passes, from the first to the second.
    cuts: Vec<[String; 2]>,
}

#[derive(Debug)]
struct Listening {
    node: NodeId,
    admission: Admission,
    /// Connections that have not been accepted, and when they arrive.
    knocking: VecDeque<(Instant, u64)>,
}

#[derive(Debug)]
struct Connection {
    names: [String; 2],
    nodes: [NodeId; 2],
    /// From the dialer, and from the acceptor.
    under_way: [VecDeque<(Instant, Bytes)>; 2],
    /// When the dialer hears that it was let in, or not.
    answer: Option<(Instant, Result<(), ()>)>,
    /// Which side has let go, and when the other hears.
    closed: [Option<Instant>; 2],
    is_broken: bool,
}

impl MemNet {
    /// A network without anybody.
    #[must_use]
    pub fn new(latency: Duration) -> Self {
        Self(Arc::new(Mutex::new(Net {
            latency,
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            next: 0,
            cuts: Vec::new(),
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
        let listening = Listening {
            node,
            admission,
            knocking: VecDeque::new(),
        };
        self.lock().listeners.insert(name.to_owned(), listening);
        Box::new(MemListener {
            net: self.clone(),
            name: name.to_owned(),
        })
    }

    /// From now on nothing passes from one name to the other, and nobody is told; or it does again.
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
}

impl Net {
    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cuts.iter().any(|way| way[0] == from && way[1] == to)
    }

    fn passes(&self, connection: &Connection, from: usize) -> bool {
        !self.is_cut(&connection.names[from], &connection.names[1 - from])
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
        let (latency, number) = (net.latency, net.next);
        let refused = || End::unreachable(io::ErrorKind::ConnectionRefused.into());
        let listening = net.listeners.get_mut(&to).ok_or_else(refused)?;
        let found = listening.node;
        if let Some(expected) = target.peer.filter(|expected| *expected != found) {
            return Err(End::WrongPeer { expected, found }.into());
        }
        listening.knocking.push_back((now + latency, number));
        net.next += 1;
        let connection = Connection {
            names: [self.name.clone(), to],
            nodes: [self.node, found],
            under_way: Default::default(),
            answer: None,
            closed: [None; 2],
            is_broken: false,
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
        let (latency, mut let_in) = (net.latency, Vec::new());
        let Some(listening) = net.listeners.get_mut(&self.name) else {
            return Ok(Progress::Idle);
        };
        let due: Vec<_> = {
            let due = |(at, _): &mut (Instant, u64)| *at <= turn.now;
            std::iter::from_fn(|| listening.knocking.pop_front_if(due)).collect()
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
                connection.answer = Some((turn.now + latency, answer));
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
        listening.knocking.front().map(|(at, _)| *at)
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
        if connection.closed[self.side].is_none() {
            connection.is_broken = true;
        }
        // The last one out.
        if connection.closed[1 - self.side].is_some() {
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
        loop {
            let mut net = self.net.lock();
            let latency = net.latency;
            let connection = net.connections.get_mut(&self.number).ok_or(End::Closed)?;
            let queue = &mut connection.under_way[self.side];
            let held: usize = queue.iter().map(|(_, frame)| frame.len()).sum();
            if held >= BUFFER_LEN {
                return Ok(Progress::Idle);
            }
            let Some(frame) = source.next_frame(&capacity) else {
                return Ok(Progress::Idle);
            };
            let mut bytes = BytesMut::with_capacity(frame.len());
            frame.write_to(&mut bytes);
            queue.push_back((turn.now + latency, bytes.freeze()));
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
        let answer = connection.answer.filter(|_| is_dialing).map(|(at, _)| at);
        let frame = connection.under_way[from].front().map(|(at, _)| *at);
        let passes = net.passes(connection, from);
        let heard = frame
            .or(connection.closed[from])
            .filter(|_| passes && !is_dialing);
        let limit = self.limit.filter(|_| is_dialing);
        answer.into_iter().chain(heard).chain(limit).min()
    }

    fn on_timeout(&mut self, _: Instant) {}

    fn close(&mut self, now: Instant) {
        let mut net = self.net.lock();
        let latency = net.latency;
        if let Some(connection) = net.connections.get_mut(&self.number) {
            connection.closed[self.side] = Some(now + latency);
        }
        self.phase = Phase::Closing;
    }
}
