//! Hubs keep their peers connected over every address and transport that works.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use selvedge_driver::{DialError, DialTarget, Dialer, Instant, TcpDialer, Transport};
use selvedge_testkit::{Conditions, Proxy};

use selvedge_hub::{
    Delivery, Endpoint, Event, Hub, HubEvent, Identity, Inbox, Incoming, LaneConfig, LaneId,
    SessionConfig,
};

/// Far longer than anything here takes; only a bug makes a test wait that long.
const PATIENCE: Duration = Duration::from_secs(30);

fn identity() -> Identity {
    Identity::generate().expect("randomness")
}

fn wait_for(hub: &Hub, mut wanted: impl FnMut(&HubEvent) -> bool) {
    while !wanted(
        &hub.events()
            .recv_timeout(PATIENCE)
            .expect("the event comes"),
    ) {}
}

/// The endpoint of the next peer that leaves.
fn endpoint_that_left(hub: &Hub) -> Endpoint {
    let mut found = None;
    wait_for(hub, |event| {
        if let HubEvent::Left { endpoint, .. } = event {
            found = Some(endpoint.clone());
        }
        found.is_some()
    });
    found.expect("it was found")
}

fn send(endpoint: &Endpoint, text: &str) {
    endpoint
        .send(LaneId::FIRST, text.as_bytes().to_vec().into())
        .expect("the endpoint is open");
}

fn receive(endpoint: &Endpoint) -> String {
    let message = endpoint.recv_timeout(PATIENCE).expect("a message");
    String::from_utf8(message.payload.to_vec()).expect("text")
}

/// A hub that listens on the schemes and expects one peer to dial; and its addresses.
fn listening(own: &Identity, peer: &Identity, schemes: &[&str]) -> (Hub, Vec<String>) {
    let mut builder = Hub::builder(own.clone())
        .peer(peer.node_id(), &[])
        .expect("a peer");
    for scheme in schemes {
        builder = builder
            .listen(&format!("{scheme}://127.0.0.1:0"))
            .expect("an address");
    }
    let hub = builder.start().expect("a hub");
    let addresses = hub.addresses().iter().map(ToString::to_string).collect();
    (hub, addresses)
}

fn dialing(own: &Identity, peer: &Identity, addresses: &[&str]) -> Hub {
    let builder = Hub::builder(own.clone())
        .peer(peer.node_id(), addresses)
        .expect("a peer");
    builder.start().expect("a hub")
}

#[test]
fn two_nodes_exchange_messages_over_each_transport() {
    for scheme in ["quic", "tcp", "tcp+plain", "udp", "udp+plain"] {
        let (a, b) = (identity(), identity());
        let (hub_b, at) = listening(&b, &a, &[scheme]);
        let hub_a = dialing(&a, &b, &[&at[0]]);
        let to_b = hub_a.endpoint(b.node_id()).unwrap();
        let to_a = hub_b.endpoint(a.node_id()).unwrap();
        send(&to_b, "ping");
        assert_eq!(receive(&to_a), "ping");
        send(&to_a, "pong");
        assert_eq!(receive(&to_b), "pong");
    }
}

#[test]
fn an_address_that_does_not_answer_does_not_prevent_the_next() {
    let (a, b) = (identity(), identity());
    let (hub_b, at) = listening(&b, &a, &["tcp"]);
    let hub_a = dialing(&a, &b, &["quic://127.0.0.1:1", &at[0]]);
    send(&hub_a.endpoint(b.node_id()).unwrap(), "over tcp");
    assert_eq!(receive(&hub_b.endpoint(a.node_id()).unwrap()), "over tcp");
}

#[test]
fn a_peer_is_found_by_the_name_of_its_host() {
    for scheme in ["quic", "tcp"] {
        let (a, b) = (identity(), identity());
        let (hub_b, at) = listening(&b, &a, &[scheme]);
        let named = at[0].replace("127.0.0.1", "localhost");
        assert_ne!(named, at[0]);
        let hub_a = dialing(&a, &b, &[&named]);
        send(&hub_a.endpoint(b.node_id()).unwrap(), "by name");
        assert_eq!(receive(&hub_b.endpoint(a.node_id()).unwrap()), "by name");
    }
}

#[test]
fn messages_wait_for_a_peer_that_starts_later() {
    let (a, b) = (identity(), identity());
    let (probe, at) = listening(&b, &a, &["tcp"]);
    drop(probe);
    let hub_a = dialing(&a, &b, &[&at[0]]);
    send(&hub_a.endpoint(b.node_id()).unwrap(), "patience");
    // The port is free, since dropping the first hub has joined its worker.
    let hub_b = Hub::builder(b)
        .listen(&at[0])
        .unwrap()
        .peer(a.node_id(), &[])
        .unwrap();
    let hub_b = hub_b.start().expect("the port is free");
    assert_eq!(receive(&hub_b.endpoint(a.node_id()).unwrap()), "patience");
}

#[test]
fn a_peer_that_left_and_came_back_is_reached_again() {
    let (a, b) = (identity(), identity());
    let (hub_b, at) = listening(&b, &a, &["tcp"]);
    let hub_a = dialing(&a, &b, &[&at[0]]);
    send(&hub_a.endpoint(b.node_id()).unwrap(), "one");
    assert_eq!(receive(&hub_b.endpoint(a.node_id()).unwrap()), "one");
    // Dropped without waiting: the peer may or may not receive the close.
    drop(hub_b);
    wait_for(&hub_a, |event| {
        matches!(event, HubEvent::Down { .. } | HubEvent::Left { .. })
    });
    send(&hub_a.endpoint(b.node_id()).unwrap(), "two");
    let hub_b = Hub::builder(b)
        .listen(&at[0])
        .unwrap()
        .peer(a.node_id(), &[])
        .unwrap();
    let hub_b = hub_b.start().expect("the port is free");
    assert_eq!(receive(&hub_b.endpoint(a.node_id()).unwrap()), "two");
}

#[test]
fn an_endpoint_that_was_closed_in_order_is_replaced_by_a_new_one() {
    let (a, b) = (identity(), identity());
    let (hub_b, at) = listening(&b, &a, &["tcp"]);
    let hub_a = dialing(&a, &b, &[&at[0]]);
    let to_a = hub_b.endpoint(a.node_id()).unwrap();
    send(&to_a, "last words");
    to_a.close();
    let to_b = hub_a.endpoint(b.node_id()).unwrap();
    assert_eq!(receive(&to_b), "last words");
    for hub in [&hub_a, &hub_b] {
        wait_for(hub, |event| matches!(event, HubEvent::Left { .. }));
    }
    send(&hub_a.endpoint(b.node_id()).unwrap(), "a new beginning");
    assert_eq!(
        receive(&hub_b.endpoint(a.node_id()).unwrap()),
        "a new beginning"
    );
}

/// Answers each message with the same payload.
struct Echo(Endpoint);

impl Inbox for Echo {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LaneId::FIRST) {
            self.0
                .try_send(message.lane, message.payload)
                .expect("there is room for one");
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

#[test]
fn a_guest_is_admitted_while_there_is_room_and_an_inbox_gets_its_messages() {
    let host = identity();
    let hub = Hub::builder(host.clone())
        .guests(1)
        .inbox(|endpoint| Box::new(Echo(endpoint.clone())))
        .listen("tcp://127.0.0.1:0")
        .expect("an address");
    let hub = hub.start().expect("a hub");
    let at = hub.addresses()[0].to_string();
    let (first, second) = (
        dialing(&identity(), &host, &[&at]),
        dialing(&identity(), &host, &[&at]),
    );
    for guest in [&first, &second] {
        send(&guest.endpoint(host.node_id()).expect("a peer"), "hello");
    }
    // The first to arrive is answered; the other one only after the first has left.
    let answered = |hub: &Hub| {
        let endpoint = hub.endpoint(host.node_id()).expect("a peer");
        endpoint.recv_timeout(Duration::from_secs(1)).is_ok()
    };
    let (inside, outside) = if answered(&first) {
        (first, second)
    } else {
        (second, first)
    };
    assert!(inside.close(PATIENCE), "the echo acknowledges");
    assert_eq!(
        receive(&outside.endpoint(host.node_id()).expect("a peer")),
        "hello"
    );
}

#[test]
fn n17_closing_with_ten_mebibytes_queued_delivers_them_all() {
    for scheme in ["quic", "tcp", "udp"] {
        let (a, b) = (identity(), identity());
        let (hub_b, at) = listening(&b, &a, &[scheme]);
        let hub_a = dialing(&a, &b, &[&at[0]]);
        let to_b = hub_a.endpoint(b.node_id()).unwrap();
        for n in 0..10_u8 {
            to_b.send(LaneId::FIRST, vec![n; 1 << 20].into()).unwrap();
        }
        // The peer reads while this side closes.
        let reading = std::thread::spawn(move || {
            let to_a = hub_b.endpoint(a.node_id()).unwrap();
            for n in 0..10_u8 {
                let message = to_a.recv_timeout(PATIENCE).expect("a message");
                assert_eq!(message.payload, vec![n; 1 << 20]);
            }
            hub_b
        });
        assert!(hub_a.close(PATIENCE), "{scheme}");
        endpoint_that_left(&reading.join().expect("all arrived"));
    }
}

#[test]
fn n6_of_two_processes_with_one_key_the_newest_is_connected() {
    let (server, twin) = (identity(), identity());
    let (hub, at) = listening(&server, &twin, &["tcp"]);
    let first = dialing(&twin, &server, &[&at[0]]);
    send(&first.endpoint(server.node_id()).unwrap(), "from the first");
    let endpoint = hub.endpoint(twin.node_id()).unwrap();
    assert_eq!(receive(&endpoint), "from the first");
    let second = dialing(&twin, &server, &[&at[0]]);
    send(
        &second.endpoint(server.node_id()).unwrap(),
        "from the second",
    );
    assert_eq!(receive(&endpoint), "from the second");
    wait_for(&hub, |event| matches!(event, HubEvent::Restarted { .. }));
    // The first process is refused from now on, and does not replace the second.
    let refused = first.endpoint(server.node_id()).unwrap();
    send(&refused, "from the first again");
    for n in 0..20 {
        send(&second.endpoint(server.node_id()).unwrap(), &n.to_string());
        assert_eq!(receive(&endpoint), n.to_string());
    }
}

/// Forwards datagrams in both directions, and drops all of them once it is cut.
fn relay(to: &str) -> (String, Arc<AtomicBool>, Arc<AtomicBool>) {
    let outside = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = outside.local_addr().expect("an address").to_string();
    let (cut, stop) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (is_cut, stopped, to) = (Arc::clone(&cut), Arc::clone(&stop), to.to_owned());
    std::thread::spawn(move || {
        let inside = UdpSocket::bind("127.0.0.1:0").expect("a port");
        inside.connect(to).expect("the hub's port");
        for socket in [&outside, &inside] {
            socket
                .set_read_timeout(Some(Duration::from_millis(1)))
                .expect("a timeout");
        }
        let (mut buffer, mut client) = ([0; 65_536], None);
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((len, from)) = outside.recv_from(&mut buffer) {
                client = Some(from);
                if !is_cut.load(Ordering::Relaxed) {
                    inside.send(&buffer[..len]).ok();
                }
            }
            if let (Ok(len), Some(client)) = (inside.recv(&mut buffer), client)
                && !is_cut.load(Ordering::Relaxed)
            {
                outside.send_to(&buffer[..len], client).ok();
            }
        }
    });
    (address, cut, stop)
}

#[test]
fn when_udp_is_cut_the_messages_continue_over_tcp() {
    let (a, b) = (identity(), identity());
    let (hub_b, at) = listening(&b, &a, &["quic", "tcp"]);
    let (through, cut, stop) = relay(at[0].strip_prefix("quic://").unwrap());
    let hub_a = dialing(&a, &b, &[&format!("quic://{through}"), &at[1]]);
    let (to_b, to_a) = (
        hub_a.endpoint(b.node_id()).unwrap(),
        hub_b.endpoint(a.node_id()).unwrap(),
    );
    for n in 0..100 {
        send(&to_b, &n.to_string());
        assert_eq!(receive(&to_a), n.to_string());
    }
    wait_for(&hub_a, |event| matches!(event, HubEvent::Up { .. }));
    let scheme = |endpoint: &Endpoint| endpoint.transport().expect("it is up").scheme;
    assert_eq!(scheme(&to_b), "quic");
    cut.store(true, Ordering::Relaxed);
    for n in 100..200 {
        send(&to_b, &n.to_string());
    }
    wait_for(&hub_a, |event| matches!(event, HubEvent::Down { .. }));
    wait_for(&hub_a, |event| matches!(event, HubEvent::Up { .. }));
    assert_eq!(scheme(&to_b), "tcp");
    for n in 100..200 {
        assert_eq!(receive(&to_a), n.to_string());
    }
    stop.store(true, Ordering::Relaxed);
}

#[test]
fn addresses_without_a_transport_are_refused_with_the_reason() {
    let refused = |address: &str| {
        let builder = Hub::builder(identity()).listen(address).expect("it parses");
        builder.start().expect_err("it is refused").to_string()
    };
    assert!(refused("gopher://127.0.0.1:70").contains("gopher"));
    let error = Hub::builder(identity())
        .listen("nonsense")
        .expect_err("no address");
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[test]
fn best_effort_and_reliable_lanes_go_over_udp() {
    let (a, b) = (identity(), identity());
    let lane = |delivery| LaneConfig {
        delivery,
        ..LaneConfig::default()
    };
    let config = SessionConfig {
        lanes: vec![lane(Delivery::Reliable), lane(Delivery::BestEffort)],
        ..SessionConfig::default()
    };
    let hub_b = Hub::builder(b.clone())
        .session(config.clone())
        .listen("udp://127.0.0.1:0")
        .expect("an address")
        .peer(a.node_id(), &[])
        .expect("a peer");
    let hub_b = hub_b.start().expect("a hub");
    let at = hub_b.addresses()[0].to_string();
    let hub_a = Hub::builder(a.clone())
        .session(config)
        .peer(b.node_id(), &[&at])
        .expect("a peer");
    let hub_a = hub_a.start().expect("a hub");
    wait_for(&hub_a, |event| matches!(event, HubEvent::Up { .. }));
    let to_b = hub_a.endpoint(b.node_id()).expect("a peer");
    let to_a = hub_b.endpoint(a.node_id()).expect("a peer");
    send(&to_b, "exactly once");
    assert_eq!(receive(&to_a), "exactly once");
    let best_effort = LaneId::new(1).expect("a lane");
    to_b.try_send(best_effort, "fire and forget".into())
        .expect("room");
    assert_eq!(receive(&to_a), "fire and forget");
}

#[test]
fn a_redundant_lane_uses_two_paths_and_survives_the_end_of_either() {
    let (a, b) = (identity(), identity());
    let lane = LaneConfig {
        redundant: true,
        ..LaneConfig::default()
    };
    let config = SessionConfig {
        lanes: vec![lane],
        ..SessionConfig::default()
    };
    let hub_b = Hub::builder(b.clone())
        .session(config.clone())
        .listen("quic://127.0.0.1:0")
        .expect("an address")
        .listen("tcp://127.0.0.1:0")
        .expect("an address")
        .peer(a.node_id(), &[])
        .expect("a peer");
    let hub_b = hub_b.start().expect("a hub");
    let targets = hub_b.addresses().iter();
    let targets: Vec<_> = targets
        .map(|at| at.as_socket().expect("a socket"))
        .collect();
    let quic = Proxy::udp(targets[0], Conditions::default(), 1).expect("a socket");
    let tcp = Proxy::tcp(targets[1], Conditions::default()).expect("a socket");
    let at = [
        format!("quic://{}", quic.address()),
        format!("tcp://{}", tcp.address()),
    ];
    let hub_a = Hub::builder(a.clone())
        .session(config)
        .peer(b.node_id(), &[&at[0], &at[1]])
        .expect("a peer");
    let hub_a = hub_a.start().expect("a hub");
    let to_b = hub_a.endpoint(b.node_id()).expect("a peer");
    let to_a = hub_b.endpoint(a.node_id()).expect("a peer");
    let mut sent = 0;
    let mut exchange = || {
        for _ in 0..100 {
            send(&to_b, &sent.to_string());
            assert_eq!(receive(&to_a), sent.to_string());
            sent += 1;
        }
    };
    let both = |wanted| {
        wait_for(&hub_a, |event| {
            assert!(!matches!(event, HubEvent::Down { .. }), "{event:?}");
            matches!(event, HubEvent::Redundant { is_attached, .. } if *is_attached == wanted)
        });
    };
    both(true);
    exchange();
    tcp.kill();
    exchange();
    both(false);
    both(true);
    quic.set(Conditions {
        cut: true,
        ..Conditions::default()
    });
    exchange();
    both(false);
    exchange();
}

/// Blocks the worker that reads its schemes, once it is armed.
#[derive(Debug)]
struct BlockingDialer {
    inner: TcpDialer,
    is_armed: AtomicBool,
    held: Sender<()>,
    gate: Receiver<()>,
}

impl Dialer for BlockingDialer {
    fn schemes(&self) -> &[&'static str] {
        let name = std::thread::current().name().map(str::to_owned);
        let is_worker = name.is_some_and(|name| name.starts_with("selvedge-worker"));
        if is_worker && self.is_armed.swap(false, Ordering::Relaxed) {
            self.held.send(()).expect("the test waits");
            self.gate.recv().expect("the test opens it");
        }
        self.inner.schemes()
    }

    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError> {
        self.inner.dial(now, target)
    }
}

#[test]
fn dropping_a_hub_waits_for_its_workers_even_if_one_is_redialing() {
    let (a, b) = (identity(), identity());
    let (hub_b, at) = listening(&b, &a, &["tcp"]);
    let target = hub_b.addresses()[0].as_socket().unwrap();
    let proxy = Proxy::tcp(target, Conditions::default()).unwrap();
    let (held, is_held) = bounded(1);
    let (open, gate) = bounded(1);
    let dialer = Arc::new(BlockingDialer {
        inner: TcpDialer::new(a.clone()),
        is_armed: AtomicBool::new(false),
        held,
        gate,
    });
    let through = at[0].replace(&target.to_string(), &proxy.address().to_string());
    let builder = Hub::builder(a).dialer(Arc::clone(&dialer) as _);
    let builder = builder.peer(b.node_id(), &[&through]).unwrap();
    let hub_a = builder.start().unwrap();
    wait_for(&hub_a, |event| matches!(event, HubEvent::Up { .. }));
    dialer.is_armed.store(true, Ordering::Relaxed);
    proxy.kill();
    is_held.recv_timeout(PATIENCE).unwrap();
    let dropping = std::thread::spawn(move || drop(hub_a));
    // The drop has time to return, and must not.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(100) {
        assert!(!dropping.is_finished(), "a worker is still busy");
        std::thread::yield_now();
    }
    open.send(()).unwrap();
    dropping.join().unwrap();
}
