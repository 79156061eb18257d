//! Strangers and hostile peers beside honest clients, over real sockets.

#[allow(dead_code, reason = "a part of it is used")]
mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use selvedge_client::lanes::{CONTROL, DATA, PAYLOAD_MAX, session_config};
use selvedge_client::tag::Tag;
use selvedge_client::wire::{
    Handshake, InterestEntry, Policy, Role, TAGS_MAX, VERSION_MIN, WireMessage,
};
use selvedge_client::{Client, ClientOptions};
use selvedge_hub::{
    Address, CloseReason, Driver, DriverConfig, Endpoint, Hub, Identity, NodeId, RecvError,
    SessionConfig, TryRecvError, dialers,
};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperError};

use crate::support::{IN, PATIENCE, function, identity, options, read, source, start, text, write};

/// A peer that sends arbitrary messages.
struct Stranger {
    endpoint: Endpoint,
    hub: Hub,
}

/// Endpoints to a zipper that have not introduced themselves. They do not dial again.
struct MuteStrangers {
    driver: Driver,
    session: SessionConfig,
}

impl MuteStrangers {
    fn new() -> Self {
        Self {
            driver: Driver::new(DriverConfig::default()).expect("a driver"),
            session: session_config(2 << 20, PAYLOAD_MAX),
        }
    }

    fn connect(&self, address: &Address, zipper: NodeId) -> Endpoint {
        let identity = identity();
        let dialers = dialers(&identity);
        let connected = self.driver.dial_blocking(&dialers, address, Some(zipper));
        let endpoint = self
            .driver
            .endpoint(self.session.clone(), identity.node_id(), zipper);
        let endpoint = endpoint.expect("the driver runs");
        let attached = endpoint.attach(connected.expect("it listens"));
        attached.expect("it is open");
        endpoint
    }
}

impl Stranger {
    fn connect(zipper: &Zipper) -> Self {
        Self::connect_as(identity(), zipper)
    }

    fn connect_as(identity: Identity, zipper: &Zipper) -> Self {
        let hub = Hub::builder(identity)
            .session(session_config(16 << 20, PAYLOAD_MAX))
            .peer_at(zipper.node_id(), zipper.addresses().to_vec())
            .expect("another node");
        let hub = hub.start().expect("a hub");
        let endpoint = hub.endpoint(zipper.node_id()).expect("a peer");
        Self { endpoint, hub }
    }

    fn send(&self, message: &WireMessage) {
        let bytes = message.encode().expect("it is short");
        self.endpoint.send(CONTROL, bytes).expect("it is open");
    }

    /// Everything that the zipper sends until it closes the connection.
    fn received(&self) -> Vec<WireMessage> {
        let mut messages = Vec::new();
        loop {
            match self.endpoint.recv_timeout(PATIENCE) {
                Ok(message) => {
                    messages.push(WireMessage::decode(message.payload).expect("a message"));
                }
                Err(TryRecvError::Closed(RecvError(CloseReason::Peer))) => return messages,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn handshake(role: Role, token: Option<&str>, tags: &[Tag]) -> WireMessage {
    WireMessage::Handshake(Handshake {
        version: VERSION_MIN,
        role,
        name: "stranger".into(),
        token: token.map(str::to_owned),
        tags: tags.to_vec(),
        target: None,
        policy: Policy::Nearest,
    })
}

/// The code of the only message that a refused peer receives.
fn code(messages: &[WireMessage]) -> u16 {
    match messages {
        [WireMessage::Rejected { code, .. }] => *code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_or_open_access_does_not_make_a_zipper() {
    for token in [None, Some("secret")] {
        let mut options = options("z");
        options.token = token.map(str::to_owned);
        let zipper = start(options);
        for presented in [None, Some("secret"), Some("wrong")] {
            let stranger = Stranger::connect(&zipper);
            let entry = InterestEntry {
                settled: None,
                drops: None,
                name: "f".into(),
                tags: vec![IN],
                target: None,
                policy: Policy::Nearest,
                path: vec![*stranger.hub.node_id().as_bytes()],
            };
            stranger.send(&handshake(Role::Zipper, presented, &[]));
            stranger.send(&WireMessage::Interest {
                generation: 1,
                entries: vec![entry],
            });
            assert_eq!(code(&stranger.received()), 403, "with {presented:?}");
            assert!(zipper.observers(IN).is_empty());
        }
    }
}

#[test]
fn a_zipper_of_the_mesh_needs_no_token_and_a_client_with_its_key_does() {
    let neighbour = identity();
    let mut options = options("z");
    options.token = Some("secret".into());
    options.mesh = vec![Neighbour {
        node: neighbour.node_id(),
        addresses: Vec::new(),
    }];
    let zipper = start(options);
    let peer = Stranger::connect_as(neighbour.clone(), &zipper);
    peer.send(&handshake(Role::Zipper, None, &[]));
    let admitted = std::iter::repeat_with(|| peer.endpoint.recv_timeout(PATIENCE))
        .map(|message| WireMessage::decode(message.expect("an answer").payload))
        .find(|message| matches!(message, Ok(WireMessage::HandshakeAck { node, .. }) if *node == *zipper.node_id().as_bytes()));
    assert!(admitted.is_some());
    drop(peer);
    let client = Stranger::connect_as(neighbour, &zipper);
    client.send(&handshake(Role::Source, None, &[]));
    let refused = client
        .received()
        .into_iter()
        .find_map(|message| match message {
            WireMessage::Rejected { code, .. } => Some(code),
            _ => None,
        });
    assert_eq!(refused, Some(401));
}

#[test]
fn a_zipper_without_a_token_listens_on_loopback_addresses_only() {
    let exposed = |token: Option<&str>, is_open| {
        let mut options = options("z");
        options
            .listen
            .push("tcp://0.0.0.0:0".parse().expect("an address"));
        (options.token, options.is_open) = (token.map(str::to_owned), is_open);
        Zipper::start(options)
    };
    match exposed(None, false) {
        Err(ZipperError::Exposed(address)) => assert_eq!(address.to_string(), "tcp://0.0.0.0:0"),
        other => panic!("{other:?}"),
    }
    for (token, is_open) in [(Some("secret"), false), (None, true)] {
        exposed(token, is_open).expect("it is asked for");
    }
}

/// A message that no peer may send on the control lane of a zipper: the connection is closed behind it.
fn violation() -> WireMessage {
    WireMessage::Interest {
        generation: 1,
        entries: Vec::new(),
    }
}

fn goaway() -> WireMessage {
    WireMessage::Goaway {
        message: "x".repeat(1024),
    }
}

#[test]
fn a_flood_of_goaways_is_answered_once_and_an_honest_pair_beside_it_works() {
    let zipper = start(options("z"));
    let (honest, sink) = (source(&zipper), function(&zipper, "sink", IN));
    let flood = Stranger::connect(&zipper);
    flood.send(&handshake(Role::StreamFunction, None, &[Tag(0x11)]));
    for n in 0..50_000 {
        flood.send(&goaway());
        if n % 1_000 == 0 {
            write(&honest, IN, &n.to_string());
            assert_eq!(text(&read(&sink)), n.to_string());
        }
    }
    flood.send(&violation());
    let received = flood.received();
    let kinds: Vec<_> = received.iter().map(WireMessage::kind).collect();
    let count = |kind| kinds.iter().filter(|it| **it == kind).count();
    assert_eq!(
        (count("HandshakeAck"), count("Goaway")),
        (1, 1),
        "{kinds:?}"
    );
    assert!(zipper.observers(Tag(0x11)).is_empty());
}

#[test]
fn a_repeated_handshake_is_acknowledged_and_another_one_ends_the_connection() {
    let zipper = start(options("z"));
    let stranger = Stranger::connect(&zipper);
    for _ in 0..3 {
        stranger.send(&handshake(Role::StreamFunction, None, &[IN]));
    }
    stranger.send(&handshake(Role::StreamFunction, None, &[Tag(0x11)]));
    let received = stranger.received();
    let kinds: Vec<_> = received.iter().map(WireMessage::kind).collect();
    let expected = ["HandshakeAck", "HandshakeAck", "HandshakeAck", "Rejected"];
    assert_eq!(kinds, expected);
    assert!(zipper.observers(Tag(0x11)).is_empty());
}

#[test]
fn one_connection_presents_one_token() {
    let mut options = options("z");
    options.token = Some("right".into());
    let zipper = start(options);
    let stranger = Stranger::connect(&zipper);
    for token in ["wrong", "right", "right"] {
        stranger.send(&handshake(Role::StreamFunction, Some(token), &[IN]));
    }
    assert_eq!(code(&stranger.received()), 401);
    assert!(zipper.observers(IN).is_empty());
}

#[test]
fn a_client_may_not_send_what_only_zippers_send() {
    let zipper = start(options("z"));
    let ack = WireMessage::HandshakeAck {
        name: "z".into(),
        node: [1; 32],
        negotiated: None,
    };
    let rejected = WireMessage::Rejected {
        code: 400,
        message: "no".into(),
    };
    for message in [ack, rejected, violation()] {
        let stranger = Stranger::connect(&zipper);
        stranger.send(&message);
        assert_eq!(code(&stranger.received()), 400, "{}", message.kind());
    }
}

#[test]
fn the_functions_of_one_name_cannot_exceed_the_table_of_their_zipper() {
    let zipper = start(options("z"));
    let first: Vec<Tag> = (0..TAGS_MAX as u32).map(Tag).collect();
    let kept = Stranger::connect(&zipper);
    kept.send(&handshake(Role::StreamFunction, None, &first));
    let answer = kept.endpoint.recv_timeout(PATIENCE).expect("an answer");
    let answer = WireMessage::decode(answer.payload).expect("a message");
    assert_eq!(answer.kind(), "HandshakeAck");
    let another = Stranger::connect(&zipper);
    another.send(&handshake(
        Role::StreamFunction,
        None,
        &[Tag(TAGS_MAX as u32)],
    ));
    assert_eq!(code(&another.received()), 503);
}

#[test]
fn what_strangers_send_before_they_introduce_themselves_is_not_buffered() {
    let zipper = ZipperProcess::start();
    let before = zipper.peak_memory();
    let strangers = MuteStrangers::new();
    let endpoints: Vec<Endpoint> = (0..40)
        .map(|number| {
            let address = &zipper.addresses[number % zipper.addresses.len()];
            let endpoint = strangers.connect(address, zipper.node);
            let message = Bytes::from(vec![0; 1 << 20]);
            while endpoint.try_send(DATA, message.clone()).is_ok() {}
            if number % 4 < 2 {
                let message = Bytes::from_static(&[1; 1000]);
                while endpoint.try_send(CONTROL, message.clone()).is_ok() {}
            }
            endpoint
        })
        .collect();
    let at = zipper.addresses.clone();
    let honest = ClientOptions::source("honest", at.clone());
    let honest = Client::connect(honest).expect("it is admitted beside them");
    let sink = ClientOptions::function("sink", vec![IN], at);
    let sink = Client::connect(sink).expect("it is admitted beside them");
    write(&honest, IN, "hello");
    assert_eq!(text(&read(&sink)), "hello");
    for endpoint in endpoints {
        // Half of them break the protocol, and the others are mute for too long.
        assert!(endpoint.wait_closed(PATIENCE).is_some());
    }
    // 40 connections with their buffers, and less than an eighth of what the strangers would send.
    let used = zipper.peak_memory() - before;
    assert!(used < 20 << 20, "{used} bytes");
}

#[test]
fn mute_strangers_take_no_place_from_clients() {
    let mut options = options("z");
    options.clients_max = 4;
    let zipper = start(options);
    let strangers = MuteStrangers::new();
    // More than may wait at a time.
    let mute: Vec<Endpoint> = (0..300)
        .map(|_| strangers.connect(&zipper.addresses()[1], zipper.node_id()))
        .collect();
    let (honest, sink) = (source(&zipper), function(&zipper, "sink", IN));
    write(&honest, IN, "hello");
    assert_eq!(text(&read(&sink)), "hello");
    let first = mute[0].wait_closed(PATIENCE);
    assert_eq!(first, Some(CloseReason::PeerAborted));
}

#[test]
fn wrong_tokens_take_no_place_from_clients() {
    let mut options = options("z");
    (options.token, options.clients_max) = (Some("right".into()), 4);
    let zipper = start(options);
    let strangers = MuteStrangers::new();
    let wrong = handshake(Role::Source, Some("wrong"), &[]).encode();
    let wrong = wrong.expect("it is short");
    let refused: Vec<Endpoint> = (0..300)
        .map(|_| {
            let endpoint = strangers.connect(&zipper.addresses()[1], zipper.node_id());
            endpoint.send(CONTROL, wrong.clone()).expect("it is open");
            endpoint
        })
        .collect();
    let at = zipper.addresses().to_vec();
    let mut honest = ClientOptions::source("honest", at);
    honest.token = Some("right".into());
    Client::connect(honest).expect("it is admitted beside them");
    for endpoint in refused {
        let ended = endpoint.wait_closed(PATIENCE);
        let expected = [CloseReason::Peer, CloseReason::PeerAborted];
        assert!(ended.is_some_and(|it| expected.contains(&it)), "{ended:?}");
    }
}

#[test]
fn half_open_connections_take_no_place_from_clients() {
    let driver = Driver::new(DriverConfig {
        handshakes_max: 32,
        // They do not end by themselves while the test runs.
        handshake_max: 2 * PATIENCE,
        ..DriverConfig::default()
    });
    let mut options = options("z");
    options.driver = Some(Arc::new(driver.expect("a driver")));
    let zipper = start(options);
    let place = zipper.addresses()[1].as_socket().expect("an IP address");
    let half_open: Vec<_> = (0..200).map(|_| TcpStream::connect(place)).collect();
    assert!(half_open.iter().all(Result::is_ok));
    for address in zipper.addresses() {
        let honest = ClientOptions::source("honest", vec![address.clone()]);
        Client::connect(honest).expect("it is admitted beside them");
    }
}

#[test]
fn a_refused_zipper_logs_one_line_with_the_address_for_each_attempt() {
    let other = ZipperProcess::start();
    let (node, address) = (other.node, &other.addresses[1]);
    let mesh = format!("mesh={{other: {{node: {node}, addresses: ['{address}']}}}}");
    let mut refused = ZipperProcess::spawn(&["--log", "info", "--set", &mesh]);
    let log = BufReader::new(refused.child.stderr.take().expect("it is piped"));
    let lines = log.lines().map(|line| line.expect("text"));
    let is_other = |line: &String| !line.contains("refused by the neighbour");
    let attempts = lines.skip_while(is_other).take(4);
    for line in attempts {
        assert!(line.contains("refused by the neighbour"), "{line}");
        assert!(line.contains(&address.to_string()), "{line}");
        assert!(line.contains("403"), "{line}");
    }
}

/// A zipper in a process of its own, killed when it is dropped.
struct ZipperProcess {
    child: Child,
    node: NodeId,
    addresses: Vec<Address>,
}

impl ZipperProcess {
    fn start() -> Self {
        Self::spawn(&["--log", "error"])
    }

    fn spawn(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_zipper"))
            .args(["serve", "--output", "json", "--set"])
            .arg("listen=['quic://127.0.0.1:0', 'tcp://127.0.0.1:0']")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("it prints where it listens");
        let started: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let parse = |it: &serde_json::Value| it.as_str().and_then(|it| it.parse().ok());
        let addresses = started["addresses"].as_array().expect("a list");
        Self {
            node: started["node"]
                .as_str()
                .expect("a text")
                .parse()
                .expect("a node id"),
            addresses: addresses.iter().filter_map(parse).collect(),
            child,
        }
    }

    /// The largest amount of memory that it has used, in bytes.
    fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.expect("it is listed").parse().expect("a number");
        kib * 1024
    }
}

impl Drop for ZipperProcess {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}
