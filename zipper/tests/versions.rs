//! Version negotiation over real sockets: with recorded peers of version 2, and with later ones.
//!
//! The bytes of version 2 were recorded from commit 10f33ed, the last one without negotiation.

#[allow(dead_code, reason = "a part of it is used")]
mod support;

use bytes::Bytes;
use selvedge_client::wire::{
    AdminQuery, AdminRequest, FEATURES, Handshake, INTEREST_DELTAS, InterestDelta, InterestEntry,
    Negotiated, Policy, Role, VERSION, VERSION_MIN, VersionOffer, WireMessage, WithdrawnRoute,
};
use selvedge_client::{AdminClient, AdminError, Client, ClientOptions};
use selvedge_hub::{
    CloseReason, Endpoint, Hub, Identity, LaneConfig, LaneId, NodeId, SessionConfig,
};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperOptions};

use crate::support::{IN, PATIENCE, identity, options, start, text, until_known, write};

/// Handshakes of version 2: role, name, the token `secret`, and for the function the tag 0x10.
const SOURCE: &str = "0102010006736f7572636501000673656372657400000001";
const FUNCTION: &str = "010202000866756e6374696f6e0100067365637265740001000000100001";
const ZIPPER: &str = "01020300067a697070657201000673656372657400000001";

/// The acknowledgement of a zipper of version 2 with the name `zipper`, up to its key.
const ACK: &str = "0200067a6970706572";

/// `hello` with the tag 0x10, from a source to its zipper, and from a zipper up to and behind the key of
/// the source.
const DATA_TO_ZIPPER: &str = "050000000010100068656c6c6f";
const DATA_FROM_ZIPPER: [&str; 2] = ["0501000000101000", "68656c6c6f"];

/// An interest table of version 2: a function with the name `there` and the tag 0x10 at its sender, up to
/// the key of the sender.
const INTEREST: &str = "06000000000000000100010005746865726500010000001000010001";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits
        .chunks(2)
        .map(|pair| byte(pair).expect("hex"))
        .collect()
}

fn lane(number: u8) -> LaneId {
    LaneId::new(number).expect("a lane")
}

fn session() -> SessionConfig {
    SessionConfig {
        lanes: vec![LaneConfig::default(); 2],
        ..SessionConfig::default()
    }
}

fn secured(name: &str) -> Zipper {
    let mut options = options(name);
    options.token = Some("secret".into());
    start(options)
}

/// The options with these nodes in the mesh.
fn among(nodes: &[&Identity], options: ZipperOptions) -> ZipperOptions {
    let expected = |it: &&Identity| Neighbour {
        node: it.node_id(),
        addresses: Vec::new(),
    };
    ZipperOptions {
        mesh: nodes.iter().map(expected).collect(),
        ..options
    }
}

fn authorized(options: ClientOptions) -> ClientOptions {
    ClientOptions {
        token: Some("secret".into()),
        ..options
    }
}

/// A peer that sends and receives bytes.
struct RecordedPeer {
    endpoint: Endpoint,
    hub: Hub,
}

impl RecordedPeer {
    /// A peer that connects to the zipper.
    fn connect(zipper: &Zipper) -> Self {
        Self::connect_as(identity(), zipper)
    }

    fn connect_as(identity: Identity, zipper: &Zipper) -> Self {
        let hub = Hub::builder(identity)
            .session(session())
            .peer_at(zipper.node_id(), zipper.addresses().to_vec())
            .expect("another node");
        let hub = hub.start().expect("a hub");
        let endpoint = hub.endpoint(zipper.node_id()).expect("a peer");
        Self { endpoint, hub }
    }

    fn node(&self) -> NodeId {
        self.hub.node_id()
    }

    fn send(&self, to: u8, bytes: impl Into<Bytes>) {
        self.endpoint
            .send(lane(to), bytes.into())
            .expect("it is open");
    }

    fn send_message(&self, message: &WireMessage) {
        self.send(0, message.encode().expect("it is short"));
    }

    fn receive(&self) -> Bytes {
        let message = self.endpoint.recv_timeout(PATIENCE);
        message.expect("a message").payload
    }

    /// The next message that is not an interest table.
    fn receive_message(&self) -> WireMessage {
        loop {
            match WireMessage::decode(self.receive()).expect("a message") {
                WireMessage::Interest { .. } => {}
                message => return message,
            }
        }
    }
}

fn handshake(version: u8) -> WireMessage {
    WireMessage::Handshake(Handshake {
        version,
        role: Role::Source,
        name: "source".into(),
        token: None,
        tags: Vec::new(),
        target: None,
        policy: Policy::Nearest,
    })
}

/// The answer of a zipper to a source with these versions and features.
fn answer_to(offer: VersionOffer) -> WireMessage {
    let zipper = start(options("z"));
    let peer = RecordedPeer::connect(&zipper);
    peer.send_message(&WireMessage::VersionOffer(offer));
    peer.send_message(&handshake(offer.min));
    let answer = peer.receive_message();
    if let WireMessage::Rejected { .. } = answer {
        let closed = peer.endpoint.wait_closed(PATIENCE);
        assert_eq!(closed, Some(CloseReason::Peer));
    }
    answer
}

#[test]
fn clients_of_version_2_are_admitted_in_the_form_that_they_read() {
    let zipper = secured("zipper");
    let (function, source) = (
        RecordedPeer::connect(&zipper),
        RecordedPeer::connect(&zipper),
    );
    let ack = [&bytes(ACK)[..], zipper.node_id().as_bytes()].concat();
    for (peer, handshake) in [(&function, FUNCTION), (&source, SOURCE)] {
        peer.send(0, bytes(handshake));
        assert_eq!(peer.receive(), ack);
    }
    until_known(&zipper, IN);
    source.send(1, bytes(DATA_TO_ZIPPER));
    let [header, payload] = DATA_FROM_ZIPPER.map(bytes);
    let data = [&header[..], source.node().as_bytes(), &payload].concat();
    assert_eq!(function.receive(), data);
}

#[test]
fn a_client_is_admitted_by_a_zipper_of_version_2_and_exchanges_data() {
    let identity = identity();
    let hub = Hub::builder(support::identity())
        .session(session())
        .guests(1)
        .listen("tcp://127.0.0.1:0")
        .expect("an address");
    let hub = hub.start().expect("a hub");
    let mut options = ClientOptions::function("function", vec![IN], hub.addresses().to_vec());
    options.identity = Some(identity.clone());
    let node = hub.node_id();
    let connecting = std::thread::spawn(move || Client::connect(authorized(options)));
    hub.events().recv_timeout(PATIENCE).expect("it connects");
    let endpoint = hub.endpoint(identity.node_id()).expect("a guest");
    let zipper = RecordedPeer { endpoint, hub };
    // Version 2 reads the offer as an acknowledgement, which it ignores: a kind, an empty name, a key.
    let offer = zipper.receive();
    assert_eq!((&offer[..3], offer.len()), (&b"\x02\0\0"[..], 1 + 2 + 32));
    assert_eq!(zipper.receive(), bytes(FUNCTION));
    zipper.send(0, [&bytes(ACK)[..], node.as_bytes()].concat());
    let client = connecting.join().expect("it does not panic");
    let client = client.expect("it is admitted");
    assert_eq!(client.zipper(), "zipper");
    assert_eq!(client.protocol(), Negotiated::WITHOUT_NEGOTIATION);
    let [header, payload] = DATA_FROM_ZIPPER.map(bytes);
    zipper.send(1, [&header[..], &[9; 32], &payload].concat());
    let data = client.read_timeout(PATIENCE).expect("data");
    assert_eq!((data.tag, text(&data)), (IN, "hello".into()));
    write(&client, IN, "hello");
    assert_eq!(zipper.receive(), bytes(DATA_TO_ZIPPER));
    let unsupported = AdminClient::from(client).list(AdminQuery::Zipper, PATIENCE);
    assert!(matches!(unsupported, Err(AdminError::Unsupported)));
}

#[test]
fn a_request_of_an_operator_without_the_feature_ends_the_connection() {
    let zipper = start(options("z"));
    let peer = RecordedPeer::connect(&zipper);
    peer.send(0, bytes(SOURCE));
    peer.receive_message();
    peer.send_message(&WireMessage::AdminRequest(AdminRequest {
        id: 1,
        query: AdminQuery::Zipper as u8,
        after: Bytes::new(),
    }));
    let answer = peer.receive_message();
    assert!(
        matches!(answer, WireMessage::Rejected { code: 400, .. }),
        "{answer:?}"
    );
}

#[test]
fn zippers_of_version_2_and_of_this_one_are_neighbours() {
    let identity = identity();
    let mut options = options("zipper");
    options.token = Some("secret".into());
    let zipper = start(among(&[&identity], options));
    let old = RecordedPeer::connect_as(identity, &zipper);
    let offer = old.receive();
    assert_eq!((&offer[..3], offer.len()), (&b"\x02\0\0"[..], 1 + 2 + 32));
    assert_eq!(old.receive(), bytes(ZIPPER), "name and token are the same");
    old.send(0, bytes(ZIPPER));
    let ack = [&bytes(ACK)[..], zipper.node_id().as_bytes()].concat();
    assert_eq!(old.receive(), ack);
    old.send(0, [&bytes(ACK)[..], old.node().as_bytes()].concat());
    old.send(0, [&bytes(INTEREST)[..], old.node().as_bytes()].concat());
    until_known(&zipper, IN);
    assert_eq!(zipper.observers(IN), ["there"]);
}

/// A neighbour that has introduced itself with these features.
fn neighbour(identity: Identity, zipper: &Zipper, features: u64) -> RecordedPeer {
    let peer = RecordedPeer::connect_as(identity, zipper);
    peer.send_message(&WireMessage::VersionOffer(VersionOffer {
        features,
        ..VersionOffer::OWN
    }));
    let WireMessage::Handshake(handshake) = handshake(VERSION_MIN) else {
        unreachable!("it makes one");
    };
    let role = Role::Zipper;
    peer.send_message(&WireMessage::Handshake(Handshake { role, ..handshake }));
    peer
}

/// The next interest table or delta.
fn receive_interest(peer: &RecordedPeer) -> WireMessage {
    loop {
        let message = WireMessage::decode(peer.receive()).expect("a message");
        if matches!(
            message,
            WireMessage::Interest { .. } | WireMessage::InterestDelta(_)
        ) {
            return message;
        }
    }
}

#[test]
fn a_neighbour_is_sent_deltas_if_it_implements_them_and_whole_tables_otherwise() {
    let (new, old) = (identity(), identity());
    let zipper = start(among(&[&new, &old], options("z")));
    let first = support::function(&zipper, "first", IN);
    until_known(&zipper, IN);
    let entry = |name: &str| InterestEntry {
        settled: None,
        drops: None,
        name: name.into(),
        tags: vec![IN],
        target: None,
        policy: Policy::Nearest,
        path: vec![*zipper.node_id().as_bytes()],
    };
    let new = neighbour(new, &zipper, INTEREST_DELTAS);
    let old = neighbour(old, &zipper, 0);
    let delta = |number, updated| InterestDelta {
        lists_instances: false,
        number,
        updated,
        withdrawn: Vec::new(),
    };
    let table = |generation, entries| WireMessage::Interest {
        generation,
        entries,
    };
    let first_delta = WireMessage::InterestDelta(delta(1, vec![entry("first")]));
    assert_eq!(receive_interest(&new), first_delta);
    assert_eq!(receive_interest(&old), table(1, vec![entry("first")]));
    let _second = support::function(&zipper, "second", IN);
    let second_delta = WireMessage::InterestDelta(delta(2, vec![entry("second")]));
    assert_eq!(receive_interest(&new), second_delta);
    let both = vec![entry("first"), entry("second")];
    assert_eq!(receive_interest(&old), table(2, both));
    assert!(first.close(PATIENCE));
    let withdrawn = WithdrawnRoute {
        name: "first".into(),
        target: None,
        home: *zipper.node_id().as_bytes(),
    };
    let third_delta = InterestDelta {
        withdrawn: vec![withdrawn],
        ..delta(3, Vec::new())
    };
    assert_eq!(
        receive_interest(&new),
        WireMessage::InterestDelta(third_delta)
    );
    assert_eq!(receive_interest(&old), table(3, vec![entry("second")]));
}

#[test]
fn a_delta_that_does_not_follow_the_last_one_ends_the_connection() {
    let identity = identity();
    let zipper = start(among(&[&identity], options("z")));
    let peer = neighbour(identity, &zipper, INTEREST_DELTAS);
    let there = InterestEntry {
        settled: None,
        drops: None,
        name: "there".into(),
        tags: vec![IN],
        target: None,
        policy: Policy::Nearest,
        path: vec![*peer.node().as_bytes()],
    };
    for number in [1, 2, 4] {
        peer.send_message(&WireMessage::InterestDelta(InterestDelta {
            lists_instances: false,
            number,
            updated: vec![there.clone()],
            withdrawn: Vec::new(),
        }));
    }
    let rejected = loop {
        if let WireMessage::Rejected { code, message } =
            WireMessage::decode(peer.receive()).expect("a message")
        {
            break (code, message);
        }
    };
    assert_eq!(rejected, (400, "interest delta 4 follows delta 2".into()));
    assert_eq!(peer.endpoint.wait_closed(PATIENCE), Some(CloseReason::Peer));
    assert!(zipper.observers(IN).is_empty());
}

#[test]
fn a_client_and_a_zipper_of_this_version_negotiate_it() {
    let zipper = start(options("z"));
    let options = ClientOptions::source("source", zipper.addresses().to_vec());
    let client = Client::connect(options).expect("it is admitted");
    let expected = Negotiated {
        version: VERSION,
        features: FEATURES,
    };
    assert_eq!(client.protocol(), expected);
}

#[test]
fn later_versions_and_unknown_features_of_a_client_are_ignored() {
    let answer = answer_to(VersionOffer {
        min: VERSION_MIN,
        max: u8::MAX,
        features: 1 << 63,
        required: 0,
    });
    let WireMessage::HandshakeAck { negotiated, .. } = answer else {
        panic!("{answer:?}");
    };
    let expected = Negotiated {
        version: VERSION,
        features: 0,
    };
    assert_eq!(negotiated, Some(expected));
}

#[test]
fn a_client_without_a_common_version_is_refused_and_both_ranges_are_named() {
    let answer = answer_to(VersionOffer {
        min: VERSION + 1,
        max: VERSION + 2,
        features: 0,
        required: 0,
    });
    let message = "this side speaks versions 2 to 3 of the protocol, the peer versions 4 to 5: \
                   upgrade the older side";
    let rejected = WireMessage::Rejected {
        code: 426,
        message: message.into(),
    };
    assert_eq!(answer, rejected);
}

#[test]
fn a_client_that_requires_an_unknown_feature_is_refused_and_both_ranges_are_named() {
    let answer = answer_to(VersionOffer {
        min: VERSION_MIN,
        max: VERSION,
        features: 1 << 8,
        required: 1 << 8,
    });
    let message = "this side speaks versions 2 to 3 of the protocol, the peer versions 2 to 3; \
                   required features are missing: 0x100";
    let rejected = WireMessage::Rejected {
        code: 428,
        message: message.into(),
    };
    assert_eq!(answer, rejected);
}
