//! Zippers, sources and functions over real sockets.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use selvedge_client::tag::Tag;
use selvedge_client::wire::{
    Data, Handshake, InterestEntry, Origin, Policy, Recipient, Role, VERSION_MIN, WireMessage,
};
use selvedge_client::{Client, ClientOptions, ConnectError, addresses};
use selvedge_hub::{
    Address, CloseReason, Driver, DriverConfig, Endpoint, Hub, Identity, LaneConfig, LaneId,
    SessionConfig,
};
use selvedge_zipper::zipper::{Neighbour, Zipper};

use crate::support::{
    IN, PATIENCE, function, identity, options, plain_source, read, source, start, text,
    until_known, write,
};

const OUT: Tag = Tag(0x11);

/// Two zippers, of which the second dials the first.
fn pair() -> (Zipper, Zipper) {
    let (mut edge, mut region) = (options("edge"), options("region"));
    edge.mesh = vec![Neighbour {
        node: region.identity.node_id(),
        addresses: Vec::new(),
    }];
    let edge_node = edge.identity.node_id();
    let edge = start(edge);
    region.mesh = vec![Neighbour {
        node: edge_node,
        addresses: edge.addresses().to_vec(),
    }];
    (edge, start(region))
}

#[test]
fn a_message_goes_to_each_name_once_and_instances_share() {
    let zipper = start(options("z"));
    let (a1, a2) = (function(&zipper, "a", IN), function(&zipper, "a", IN));
    let b = function(&zipper, "b", IN);
    // Of messages that are settled, an instance receives up to 256 in a row.
    let source = plain_source(&zipper);
    for n in 0..100 {
        write(&source, IN, &n.to_string());
    }
    let at_b: Vec<String> = (0..100).map(|_| text(&read(&b))).collect();
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(at_b, expected);
    let mut at_a: Vec<u32> = (0..50)
        .flat_map(|_| [&a1, &a2])
        .map(|it| text(&read(it)).parse().unwrap())
        .collect();
    at_a.sort_unstable();
    assert_eq!(at_a, (0..100).collect::<Vec<_>>());
    assert_eq!(zipper.stats().received, 100);
    assert_eq!(zipper.stats().delivered, 200);
}

#[test]
fn functions_are_chained_by_tags_and_the_route_is_traced() {
    let (edge, region) = pair();
    let sink = function(&edge, "sink", OUT);
    let double = function(&region, "double", IN);
    let source = source(&edge);
    until_known(&edge, IN);
    until_known(&region, OUT);
    let worker = std::thread::spawn(move || {
        for _ in 0..100 {
            let data = read(&double);
            let n: u64 = text(&data).parse().unwrap();
            let trace = data.trace.map(|mut trace| {
                trace.push(double.step("double"));
                trace
            });
            let payload = Bytes::from((2 * n).to_string());
            double.write_with(OUT, None, trace, payload).unwrap();
        }
    });
    for n in 0..100 {
        let trace = Some(vec![source.step("source")]);
        let payload = Bytes::from(n.to_string());
        source.write_with(IN, None, trace, payload).unwrap();
    }
    for n in 0..100 {
        let data = read(&sink);
        assert_eq!(text(&data), (2 * n).to_string());
        let trace = data.trace.unwrap();
        let names: Vec<&str> = trace.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["source", "edge", "region", "double", "region", "edge"]
        );
    }
    worker.join().unwrap();
}

#[test]
fn only_what_is_observed_there_goes_to_another_zipper() {
    let (edge, region) = pair();
    let there = function(&region, "there", IN);
    let source = source(&edge);
    until_known(&edge, IN);
    for _ in 0..10 {
        write(&source, OUT, "nobody wants this");
    }
    write(&source, IN, "this is wanted");
    assert_eq!(text(&read(&there)), "this is wanted");
    // Messages with another tag may arrive later.
    assert!(source.flush(PATIENCE));
    let total = source.outcomes().total();
    assert_eq!((total.settled, total.unobserved), (1, 10));
    assert_eq!(region.stats().relayed, 1);
    assert_eq!(edge.stats().unobserved, 10);
}

#[test]
fn a_target_chooses_among_functions() {
    let zipper = start(options("z"));
    let at = zipper.addresses().to_vec();
    let wanting = |target: &str| {
        let mut options = ClientOptions::function(target, vec![IN], at.clone());
        options.target = Some(target.into());
        Client::connect(options).unwrap()
    };
    let (x, y) = (wanting("x"), wanting("y"));
    let source = source(&zipper);
    let to = |target: Option<&str>, text: &'static str| {
        let target = target.map(str::to_owned);
        let written = source.write_with(IN, target, None, Bytes::from_static(text.as_bytes()));
        written.unwrap();
    };
    to(Some("y"), "for y");
    to(None, "for all");
    assert_eq!(text(&read(&x)), "for all");
    // Messages with another target are another flow, and may arrive later.
    let read_both = BTreeSet::from([text(&read(&y)), text(&read(&y))]);
    assert_eq!(
        read_both,
        BTreeSet::from(["for all".into(), "for y".into()])
    );
}

#[test]
fn all_instances_get_a_copy_if_they_want_that() {
    let zipper = start(options("z"));
    let at = zipper.addresses().to_vec();
    let mut options = ClientOptions::function("all", vec![IN], at);
    options.policy = Policy::All;
    let (one, two) = (
        Client::connect(options.clone()).unwrap(),
        Client::connect(options).unwrap(),
    );
    let source = source(&zipper);
    write(&source, IN, "hello");
    assert_eq!(text(&read(&one)), "hello");
    assert_eq!(text(&read(&two)), "hello");
}

#[test]
fn clients_come_by_each_protocol() {
    for scheme in ["quic", "tcp", "udp", "tcp+plain", "udp+plain"] {
        let mut options = options("z");
        let address = format!("{scheme}://127.0.0.1:0");
        options.listen = vec![address.parse().expect("an address")];
        let zipper = start(options);
        let (source, sink) = (source(&zipper), function(&zipper, "sink", IN));
        write(&source, IN, scheme);
        assert_eq!(text(&read(&sink)), scheme);
    }
}

#[test]
fn s3_a_wrong_or_missing_token_is_refused_with_the_reason() {
    let mut options = options("z");
    options.token = Some("right".into());
    let zipper = start(options);
    let connect = |token: Option<&str>| {
        let mut options = ClientOptions::source("s", zipper.addresses().to_vec());
        options.token = token.map(str::to_owned);
        Client::connect(options)
    };
    for (token, why) in [
        (None, "this zipper requires a token"),
        (Some("wrong"), "the token is wrong"),
    ] {
        match connect(token) {
            Err(ConnectError::Rejected { code: 401, message }) => assert_eq!(message, why),
            other => panic!("{other:?}"),
        }
    }
    assert!(connect(Some("right")).is_ok());
}

#[test]
fn an_address_without_a_zipper_is_reported_in_words() {
    let at: Vec<Address> = addresses("127.0.0.1:1").unwrap();
    let mut options = ClientOptions::source("s", at);
    options.timeout = Duration::from_secs(2);
    let error = Client::connect(options).unwrap_err().to_string();
    assert!(error.contains("tcp://127.0.0.1:1"), "{error}");
}

#[test]
fn a_slow_function_holds_its_source_back_and_nothing_is_lost() {
    let mut options = options("z");
    options.send_buffer = 1024 * 1024;
    let zipper = start(options);
    let slow = function(&zipper, "slow", IN);
    let source = source(&zipper);
    const COUNT: usize = 40_000;
    let writer = std::thread::spawn(move || {
        for n in 0..COUNT {
            let mut payload = vec![0; 1024];
            payload[..8].copy_from_slice(&(n as u64).to_le_bytes());
            source.write(IN, payload).unwrap();
        }
        assert!(source.close(PATIENCE));
    });
    // 40 MB do not fit into all buffers together: the source has to wait for this.
    for n in 0..COUNT {
        let data = read(&slow);
        assert_eq!(data.payload[..8], (n as u64).to_le_bytes());
    }
    writer.join().unwrap();
    assert_eq!(zipper.stats().delivered, COUNT as u64);
}

/// Writes so many messages to two functions, of which one begins to read late.
fn full_and_fast_both_get_all_in_order(send_buffer: u64, count: u64, len: fn(u64) -> usize) {
    let mut options = options("z");
    options.send_buffer = send_buffer;
    let zipper = start(options);
    let (slow, fast) = (function(&zipper, "slow", IN), function(&zipper, "fast", IN));
    let source = source(&zipper);
    let writer = std::thread::spawn(move || {
        for n in 0..count {
            let mut payload = vec![0; len(n)];
            payload[..8].copy_from_slice(&n.to_le_bytes());
            source.write(IN, payload).expect("it is connected");
        }
        assert!(source.close(PATIENCE));
    });
    let expect_all = |from: &Client| {
        for n in 0..count {
            assert_eq!(read(from).payload[..8], n.to_le_bytes());
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| expect_all(&fast));
        // It does not read before it has filled everything on its way.
        let deadline = Instant::now() + PATIENCE;
        while zipper.stats().received < 400 {
            assert!(Instant::now() < deadline, "nothing comes");
            std::thread::yield_now();
        }
        expect_all(&slow);
    });
    writer.join().expect("all is written");
    assert_eq!(zipper.stats().delivered, 2 * count);
}

#[test]
fn a_full_function_and_one_that_keeps_up_both_get_all_in_order() {
    // 20 MB, of which 10 KB are copied once for both and 1 KB into the buffer of each.
    let len = |n| if n % 2 == 0 { 1024 } else { 10 * 1024 };
    full_and_fast_both_get_all_in_order(64 * 1024, 4_000, len);
}

#[test]
fn what_two_functions_share_reaches_both_in_order_if_it_fits_into_their_buffers_or_not() {
    // Up to 15 messages of 1 KB are one piece of memory for both: 6 MB in all, or as much as a buffer
    // that is shorter than those passes in a second.
    let len = |n| if n % 16 > 0 { 1024 } else { 5 * 1024 };
    for (send_buffer, count) in [(64 * 1024, 5_000), (12 * 1024, 500)] {
        full_and_fast_both_get_all_in_order(send_buffer, count, len);
    }
}

#[test]
fn messages_for_one_function_and_for_two_keep_the_order_of_their_source() {
    let mut options = options("z");
    // Less than what is under way, so that messages of both kinds find no room.
    options.send_buffer = 16 * 1024;
    let zipper = start(options);
    let at = zipper.addresses().to_vec();
    let all = ClientOptions::function("all", vec![IN, OUT], at);
    let all = Client::connect(all).expect("the zipper lets it in");
    let some = function(&zipper, "some", OUT);
    // Plain data has one order for all tags.
    let source = plain_source(&zipper);
    const COUNT: u64 = 20_000;
    // Some go alone to `all`, some in a row, and some with a target take the long way to nobody else.
    let tag = |n: u64| if n % 7 < 3 { OUT } else { IN };
    let target = |n: u64| (n % 50 == 49).then(|| "nobody".to_owned());
    let writer = std::thread::spawn(move || {
        for n in 0..COUNT {
            let payload = n.to_be_bytes();
            let written = match target(n) {
                None => source.write(tag(n), payload),
                target => source.write_with(tag(n), target, None, payload),
            };
            written.expect("it is connected");
        }
        assert!(source.close(PATIENCE));
    });
    let expected = |of: &'static [Tag]| {
        (0..COUNT).filter(move |&n| target(n).is_none() && of.contains(&tag(n)))
    };
    let expect = |from: &Client, of| {
        for n in expected(of) {
            let data = read(from);
            let got = (data.tag, data.origin.sequence, &data.payload[..]);
            assert_eq!(got, (tag(n), n, &n.to_be_bytes()[..]));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| expect(&some, &[OUT]));
        expect(&all, &[IN, OUT]);
    });
    writer.join().expect("all is written");
    let (stats, delivered) = (
        zipper.stats(),
        expected(&[IN, OUT]).count() + expected(&[OUT]).count(),
    );
    assert_eq!((stats.received, stats.delivered), (COUNT, delivered as u64));
    assert_eq!(
        stats.unobserved,
        COUNT - expected(&[IN, OUT]).count() as u64
    );
}

#[test]
fn clients_that_share_a_driver_end_one_by_one() {
    let zipper = start(options("z"));
    let driver = Arc::new(Driver::new(DriverConfig::default()).unwrap());
    let sharing = |options: ClientOptions| {
        let driver = Some(Arc::clone(&driver));
        Client::connect(ClientOptions { driver, ..options }).expect("the zipper lets it in")
    };
    let at = || zipper.addresses().to_vec();
    let function = |name| sharing(ClientOptions::function(name, vec![IN], at()));
    let (a, b) = (function("a"), function("b"));
    // Messages that are settled would be kept for the function that has left.
    let source = sharing(ClientOptions {
        level: None,
        ..ClientOptions::source("source", at())
    });
    write(&source, IN, "both");
    assert_eq!(
        (text(&read(&a)), text(&read(&b))),
        ("both".into(), "both".into())
    );
    assert!(a.close(PATIENCE));
    write(&source, IN, "one");
    assert_eq!(text(&read(&b)), "one");
    assert!(source.close(PATIENCE) && b.close(PATIENCE));
    drop((a, b, source));
    let deadline = Instant::now() + PATIENCE;
    while Arc::strong_count(&driver) > 1 {
        assert!(Instant::now() < deadline, "a client holds it");
        std::thread::yield_now();
    }
}

#[test]
fn a_function_that_leaves_within_a_burst_gets_no_more_and_all_is_counted() {
    let zipper = start(options("z"));
    let leaving = function(&zipper, "leaving", IN);
    // Plain data: messages that are settled would be abandoned.
    let source = plain_source(&zipper);
    const COUNT: u64 = 100_000;
    let writer = std::thread::spawn(move || {
        for _ in 0..COUNT {
            write(&source, IN, "on its way");
        }
        assert!(source.close(PATIENCE));
    });
    for _ in 0..1000 {
        read(&leaving);
    }
    drop(leaving);
    writer.join().unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stats = zipper.stats();
        if stats.received == COUNT
            && stats.delivered + stats.unobserved + stats.unreachable == COUNT
        {
            break;
        }
        assert!(Instant::now() < deadline, "{stats:?}");
        std::thread::yield_now();
    }
    assert!(zipper.observers(IN).is_empty());
}

#[test]
fn clients_find_a_zipper_again_that_was_started_anew() {
    let first = options("z");
    let again = first.clone();
    let zipper = start(first);
    let at = zipper.addresses().to_vec();
    let sink = function(&zipper, "sink", IN);
    let source = source(&zipper);
    write(&source, IN, "before");
    assert_eq!(text(&read(&sink)), "before");
    drop(zipper);
    let mut again = again;
    again.listen = at;
    let zipper = start(again);
    until_known(&zipper, IN);
    write(&source, IN, "after");
    assert_eq!(text(&read(&sink)), "after");
}

/// A zipper with these nodes in its mesh.
fn among(nodes: &[&Identity]) -> Zipper {
    let mut options = options("between");
    let expected = |it: &&Identity| Neighbour {
        node: it.node_id(),
        addresses: Vec::new(),
    };
    options.mesh = nodes.iter().map(expected).collect();
    start(options)
}

/// A peer that acts as a zipper and sends arbitrary messages.
struct ByHand {
    endpoint: Endpoint,
    node: [u8; 32],
    _hub: Hub,
}

impl ByHand {
    fn new(identity: &Identity, zipper: &Zipper) -> Self {
        let config = SessionConfig {
            lanes: vec![LaneConfig::default(); 2],
            ..SessionConfig::default()
        };
        let hub = Hub::builder(identity.clone())
            .session(config)
            .peer_at(zipper.node_id(), zipper.addresses().to_vec())
            .expect("another node");
        let hub = hub.start().expect("a hub");
        let by_hand = Self {
            endpoint: hub.endpoint(zipper.node_id()).expect("a peer"),
            node: *hub.node_id().as_bytes(),
            _hub: hub,
        };
        by_hand.say(
            0,
            &WireMessage::Handshake(Handshake {
                version: VERSION_MIN,
                role: Role::Zipper,
                name: "by hand".into(),
                token: None,
                tags: Vec::new(),
                target: None,
                policy: Policy::Nearest,
            }),
        );
        by_hand
    }

    fn say(&self, lane: u8, message: &WireMessage) {
        let lane = LaneId::new(lane).expect("a lane");
        let bytes = message.encode().expect("it is short");
        self.endpoint.send(lane, bytes).expect("it is open");
    }

    fn hear_data(&self) -> Data {
        loop {
            let message = self.endpoint.recv_timeout(PATIENCE).expect("a message");
            if let Ok(WireMessage::Data(data)) = WireMessage::decode(message.payload) {
                return data;
            }
        }
    }
}

#[test]
fn a_message_that_was_passed_on_too_often_is_dropped_and_counted() {
    let (far, near) = (identity(), identity());
    let zipper = among(&[&far, &near]);
    let (far, near) = (ByHand::new(&far, &zipper), ByHand::new(&near, &zipper));
    let entry = InterestEntry {
        settled: None,
        drops: None,
        name: "f".into(),
        tags: vec![IN],
        target: None,
        policy: Policy::Nearest,
        path: vec![far.node],
    };
    far.say(
        0,
        &WireMessage::Interest {
            generation: 1,
            entries: vec![entry],
        },
    );
    until_known(&zipper, IN);
    for hops_left in [0, 1] {
        let data = Data {
            tag: IN,
            origin: Origin {
                source: [5; 32],
                sequence: u64::from(hops_left),
            },
            hops_left,
            target: None,
            recipients: vec![Recipient {
                name: "f".into(),
                home: far.node,
            }],
            trace: None,
            payload: Bytes::from_static(b"on its way"),
        };
        near.say(1, &WireMessage::Data(data));
    }
    let passed_on = far.hear_data();
    assert_eq!((passed_on.origin.sequence, passed_on.hops_left), (1, 0));
    assert_eq!(zipper.stats().hop_limit, 1);
}

#[test]
fn a_peer_that_sends_an_unexpected_message_is_refused() {
    let rubbish = identity();
    let zipper = among(&[&rubbish]);
    let rubbish = ByHand::new(&rubbish, &zipper);
    let lane = LaneId::new(1).expect("a lane");
    let sent = rubbish.endpoint.send(lane, Bytes::from_static(b"rubbish"));
    sent.expect("it is open");
    let ended = rubbish.endpoint.wait_closed(PATIENCE);
    assert_eq!(ended, Some(CloseReason::Peer));
    assert_eq!(zipper.stats().malformed, 1);
}
