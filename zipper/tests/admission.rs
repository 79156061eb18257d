//! Strangers and hostile peers beside honest clients, over real sockets.

#[allow(dead_code, reason = "a part of it is used")]
mod support;

use bytes::Bytes;
use selvedge_client::lanes::{CONTROL, session_config};
use selvedge_client::tag::Tag;
use selvedge_client::wire::{
    Handshake, InterestEntry, Policy, Role, TAGS_MAX, VERSION_MIN, WireMessage,
};
use selvedge_hub::{CloseReason, Endpoint, Hub, Identity, RecvError, TryRecvError};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperError};

use crate::support::{IN, PATIENCE, function, identity, options, read, source, start, text, write};

/// A peer that sends arbitrary messages.
struct Stranger {
    endpoint: Endpoint,
    hub: Hub,
}

impl Stranger {
    fn connect(zipper: &Zipper) -> Self {
        Self::connect_as(identity(), zipper)
    }

    fn connect_as(identity: Identity, zipper: &Zipper) -> Self {
        let hub = Hub::builder(identity)
            .session(session_config(16 << 20, 64 << 20))
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
