//! Reliable lanes over a lossy path reach at least 0.7 times the speed of QUIC over the same path.
//!
//! Both send at full speed in virtual time, with 1,200 bytes per datagram and CUBIC.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use fastrand::Rng;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    Event, ServerConfig, StreamEvent, TransportConfig, VarInt,
};
use selvedge_endpoint::SessionConfig;
use selvedge_testkit::{Conditions, Kind, Link, World};
use selvedge_transport::Instant;

/// The transferred bytes.
const LEN: usize = 4 << 20;

/// The time limit under the worst conditions.
const LIMIT: Duration = Duration::from_secs(600);

/// 20 Mbit/s, a round trip of 40 ms, a queue of 1.5 times the bandwidth-delay product.
fn conditions(loss: f64) -> Conditions {
    Conditions {
        latency: Duration::from_millis(20),
        rate: Some(2_500_000),
        queue: 150_000,
        loss,
        ..Conditions::default()
    }
}

fn by_session(loss: f64, seed: u64) -> Duration {
    let config = SessionConfig {
        send_buffer: 64 << 20,
        receive_window: 16 << 20,
        ..SessionConfig::default()
    };
    let mut world = World::new(&config, seed);
    world.connect(0, Kind::Datagrams, conditions(loss));
    for _ in 0..LEN / 4096 {
        world.sides[0].send(0, vec![7; 4096]).expect("room");
    }
    let all = |world: &mut World| world.sides[1].received.len() == LEN / 4096;
    assert!(world.run(LIMIT, all), "seed {seed}: not all arrived");
    world.elapsed()
}

/// One end of a QUIC connection, as a driver uses it.
struct Peer {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    address: SocketAddr,
    buffer: Vec<u8>,
}

impl Peer {
    fn new(port: u16, server: Option<ServerConfig>) -> Self {
        let config = Arc::new(EndpointConfig::default());
        Self {
            endpoint: Endpoint::new(config, server.map(Arc::new), false, None),
            connection: None,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            buffer: Vec::new(),
        }
    }

    fn receive(&mut self, now: Instant, from: SocketAddr, bytes: BytesMut) {
        let event = self
            .endpoint
            .handle(now.into(), from, None, None, bytes, &mut self.buffer);
        self.buffer.clear();
        match event {
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self
                    .endpoint
                    .accept(incoming, now.into(), &mut self.buffer, None);
                let Ok(connection) = accepted else {
                    panic!("it is not accepted");
                };
                self.connection = Some(connection);
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
            }
            _ => {}
        }
    }

    /// Sends pending packets and runs due timers.
    fn turn(&mut self, now: Instant, rng: &mut Rng, link: &mut Link) {
        let Some((handle, connection)) = &mut self.connection else {
            return;
        };
        if connection
            .poll_timeout()
            .is_some_and(|at| Instant::from(at) <= now)
        {
            connection.handle_timeout(now.into());
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(transmit) = connection.poll_transmit(now.into(), 1, &mut self.buffer) {
            let datagram = self.buffer[..transmit.size].to_vec();
            self.buffer.clear();
            link.send(now, rng, datagram.into());
        }
    }
}

fn quic_peers() -> [Peer; 2] {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(None)
        .stream_receive_window(VarInt::from_u32(16 << 20))
        .send_window(64 << 20);
    let transport = Arc::new(transport);
    let mut server =
        ServerConfig::with_single_cert(vec![certificate.clone()], key.into()).expect("a server");
    server.transport_config(Arc::clone(&transport));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots)).expect("a client");
    client.transport_config(transport);
    let (mut ours, theirs) = (Peer::new(1, None), Peer::new(2, Some(server)));
    let connection =
        ours.endpoint
            .connect(Instant::now().into(), client, theirs.address, "localhost");
    ours.connection = Some(connection.expect("it begins"));
    [ours, theirs]
}

/// Reads received data. Returns its length.
fn read_all(connection: &mut Connection) -> usize {
    let mut read = 0;
    while let Some(event) = connection.poll() {
        let id = match event {
            Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                connection.streams().accept(Dir::Uni)
            }
            Event::Stream(StreamEvent::Readable { id }) => Some(id),
            _ => None,
        };
        let Some(id) = id else { continue };
        let mut stream = connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else {
            continue;
        };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            read += chunk.bytes.len();
        }
        let _ = chunks.finalize();
    }
    read
}

fn by_quic(loss: f64, seed: u64) -> Duration {
    let (begin, mut rng) = (Instant::now(), Rng::with_seed(seed));
    let (mut peers, mut now) = (quic_peers(), begin);
    let mut links = [(); 2].map(|()| Link::new(conditions(loss)));
    let (mut written, mut read) = (0, 0);
    let mut stream = None;
    let block = [7; 16 << 10];
    while read < LEN {
        for at in 0..2 {
            peers[at].turn(now, &mut rng, &mut links[at]);
            let from = peers[at].address;
            while let Some(packet) = links[at].receive(now) {
                peers[1 - at].receive(now, from, BytesMut::from(&packet.bytes[..]));
            }
        }
        if let Some((_, connection)) = &mut peers[1].connection {
            read += read_all(connection);
        }
        if let Some((_, connection)) = &mut peers[0].connection {
            while connection.poll().is_some() {}
            stream = stream.or_else(|| connection.streams().open(Dir::Uni));
            if let Some(id) = stream {
                while written < LEN
                    && let Ok(len) = connection.send_stream(id).write(&block)
                {
                    written += len;
                }
            }
        }
        for (peer, link) in peers.iter_mut().zip(&mut links) {
            peer.turn(now, &mut rng, link);
        }
        let timers = peers.iter_mut().filter_map(|peer| {
            let (_, connection) = peer.connection.as_mut()?;
            connection.poll_timeout().map(Instant::from)
        });
        let arrivals = links.iter().filter_map(Link::next_arrival);
        let next = timers.chain(arrivals).min().expect("something is to come");
        now = next.max(now);
        assert!(now - begin < LIMIT, "seed {seed}: QUIC got stuck");
    }
    now - begin
}

#[test]
fn lanes_over_udp_keep_up_with_quic_at_up_to_two_in_a_hundred_lost() {
    for loss in [0.0, 0.005, 0.01, 0.02] {
        let median = |run: fn(f64, u64) -> Duration| {
            let mut times: Vec<_> = (0..9).map(|seed| run(loss, seed)).collect();
            times.sort();
            times[4]
        };
        let (ours, quic) = (median(by_session), median(by_quic));
        let ratio = quic.as_secs_f64() / ours.as_secs_f64();
        println!("loss {loss}: ours {ours:?}, QUIC {quic:?}, speed {ratio:.2} of QUIC");
        assert!(ratio >= 0.7, "at a loss of {loss}: {ratio:.2} of QUIC");
    }
}

#[test]
fn everything_arrives_at_thirty_in_a_hundred_lost() {
    for (loss, seed) in [(0.1, 1), (0.1, 2), (0.3, 3), (0.3, 4)] {
        let (begin, time) = (Instant::now(), by_session(loss, seed));
        println!("loss {loss}: {time:?}, simulated in {:?}", begin.elapsed());
    }
}
