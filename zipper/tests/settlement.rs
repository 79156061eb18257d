//! Messages that are settled, with real zippers, sources and functions.

#[allow(dead_code, reason = "a part of it is used")]
mod support;

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use selvedge_client::lanes::{BULK, BULK_LEN_MIN, CONTROL, DATA, PAYLOAD_MAX, session_config};
use selvedge_client::settlement::{
    FlowOffer, GroupId, GroupOffer, InstanceId, RecipientGroup, SequenceSet,
};
use selvedge_client::tag::Tag;
use selvedge_client::wire::settlement::{
    FlowOpening, MessageMarks, RoutedHeader, SettlementMessage,
};
use selvedge_client::wire::{Handshake, Policy, Role, VersionOffer, WireMessage};
use selvedge_client::{
    AcknowledgeMode, Client, ClientOptions, InstanceLossPolicy, ReadError, SettlementLevel,
};
use selvedge_hub::{Address, Endpoint, Hub, NodeId};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperOptions};
use support::{IN, PATIENCE, options, start, until_known};

/// A zipper with functions, and so many others that are connected to it.
fn mesh(others: usize) -> (Zipper, Vec<Zipper>) {
    let mut home = options("home");
    let node = home.identity.node_id();
    let others: Vec<_> = (0..others)
        .map(|at| options(&format!("edge{at}")))
        .collect();
    home.mesh = others
        .iter()
        .map(|it| neighbour(it.identity.node_id(), Vec::new()))
        .collect();
    let home = start(home);
    let start_other = |mut options: ZipperOptions| {
        options.mesh = vec![neighbour(node, home.addresses().to_vec())];
        start(options)
    };
    let others = others.into_iter().map(start_other).collect();
    (home, others)
}

fn neighbour(node: NodeId, addresses: Vec<Address>) -> Neighbour {
    Neighbour { node, addresses }
}

/// A source whose messages are settled when they are processed.
fn source(zippers: &[&Zipper]) -> Client {
    let addresses = zippers.iter().flat_map(|it| it.addresses().to_vec());
    let connected = Client::connect(ClientOptions {
        level: Some(SettlementLevel::Processed),
        ..ClientOptions::source("source", addresses.collect())
    });
    connected.expect("the zipper lets it in")
}

fn function(zippers: &[&Zipper], change: impl FnOnce(&mut ClientOptions)) -> Client {
    let addresses = zippers.iter().flat_map(|it| it.addresses().to_vec());
    let mut options = ClientOptions::function("f", vec![IN], addresses.collect());
    change(&mut options);
    Client::connect(options).expect("the zipper lets it in")
}

/// Writes so many numbers.
fn write(source: &Client, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let payload = number.to_be_bytes();
        source.write(IN, payload).expect("it is open");
    }
}

fn number(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload.try_into().expect("a number"))
}

/// Reads the next number.
fn read(function: &Client) -> u64 {
    let data = function.read_timeout(PATIENCE).expect("a message");
    number(&data.payload)
}

#[test]
fn every_message_is_settled_once_the_function_has_read_it() {
    let zipper = start(options("z"));
    let function = function(&[&zipper], |_| {});
    let source = source(&[&zipper]);
    let reading = std::thread::spawn(move || {
        for expected in 0..10_000 {
            assert_eq!(read(&function), expected);
        }
        function
    });
    write(&source, 0..10_000);
    assert!(source.flush(PATIENCE));
    let total = source.outcomes().total();
    assert_eq!((total.settled, total.abandoned()), (10_000, 0));
    assert!(source.close(PATIENCE));
    let function = reading.join().expect("all have arrived");
    assert!(matches!(function.try_read(), Err(ReadError::TimedOut)));
    assert!(function.close(PATIENCE));
}

/// A burst of 256 messages is more than the send buffer holds: most bursts are refused in part.
#[test]
fn what_finds_no_room_in_the_middle_of_a_burst_is_sent_again_in_order() {
    let mut options = options("z");
    options.send_buffer = 64 << 10;
    let zipper = start(options);
    let (source, function) = (source(&[&zipper]), function(&[&zipper], |_| {}));
    until_known(&zipper, IN);
    let count = 20_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..count {
                let mut payload = [0; 1000];
                payload[..8].copy_from_slice(&u64::to_be_bytes(number));
                source.write(IN, payload).expect("it is connected");
            }
        });
        for expected in 0..count {
            let data = function.read_timeout(PATIENCE).expect("a message");
            assert_eq!(number(&data.payload[..8]), expected);
        }
    });
    assert!(function.try_read().is_err());
    assert!(source.flush(PATIENCE));
    assert_eq!(source.outcomes().total().settled, count);
    assert!(zipper.stats().discarded > 0, "nothing was refused");
}

#[test]
fn what_a_source_reports_as_settled_was_printed_by_a_sink_that_is_killed() {
    let zipper = start(options("z"));
    let at = zipper.addresses()[1].to_string();
    let mut sink = Command::new(env!("CARGO_BIN_EXE_zipper"))
        .args(["sink", "-z", &at, "--observe", "0x10", "--name", "f"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdout = sink.stdout.take().expect("it is piped");
    until_known(&zipper, IN);
    let source = source(&[&zipper]);
    let line = |number: u64| format!("{number:0999}");
    let write = |numbers: std::ops::Range<u64>| {
        numbers.for_each(|number| source.write(IN, line(number)).expect("it is open"));
    };
    write(0..10);
    assert!(source.flush(PATIENCE));
    // More than fits into the pipe, which is not read, and into the buffer of the sink.
    write(10..300);
    assert!(!source.flush(Duration::from_secs(1)));
    sink.kill().expect("it runs");
    sink.wait().expect("it ends");
    let mut printed = String::new();
    stdout.read_to_string(&mut printed).expect("text");
    let whole = printed.rfind('\n').map_or(0, |end| end + 1);
    let settled = source.outcomes().total().settled;
    let printed: Vec<&str> = printed[..whole].lines().collect();
    assert!((10..=printed.len() as u64).contains(&settled), "{settled}");
    assert!(printed.iter().zip(0..).all(|(it, at)| **it == line(at)));
}

#[test]
fn a_source_that_is_dropped_waits_a_moment_for_the_settlement_of_its_messages() {
    let zipper = start(options("z"));
    let function = function(&[&zipper], |_| {});
    let reading = std::thread::spawn(move || {
        for expected in 0..100 {
            assert_eq!(read(&function), expected);
        }
    });
    write(&source(&[&zipper]), 0..100);
    reading.join().expect("all have arrived");
}

#[test]
fn messages_are_settled_across_zippers() {
    let (home, edges) = mesh(1);
    let function = function(&[&home], |_| {});
    let source = source(&[&edges[0]]);
    until_known(&edges[0], IN);
    let reading = std::thread::spawn(move || {
        for expected in 0..10_000 {
            assert_eq!(read(&function), expected);
        }
        function
    });
    write(&source, 0..10_000);
    assert!(source.close(PATIENCE));
    assert_eq!(source.outcomes().total().settled, 10_000);
    reading.join().expect("all have arrived");
}

/// The first long message moves the flow to another lane, behind short ones that are on their way.
#[test]
fn long_and_short_messages_of_a_flow_arrive_in_order_across_zippers() {
    const COUNT: u64 = 300;
    let (home, edges) = mesh(2);
    let function = function(&[&home, &edges[0]], |_| {});
    let source = source(&[&edges[1]]);
    until_known(&edges[1], IN);
    let reading = std::thread::spawn(move || {
        for expected in 0..COUNT {
            let data = function.read_timeout(PATIENCE).expect("a message");
            assert_eq!(number(&data.payload[..8]), expected);
            let len = if expected % 50 == 49 { BULK_LEN_MIN } else { 8 };
            assert_eq!(data.payload.len(), len);
        }
        function
    });
    for number in 0..COUNT {
        let mut payload = number.to_be_bytes().to_vec();
        if number % 50 == 49 {
            payload.resize(BULK_LEN_MIN, 0);
        }
        source.write(IN, payload).expect("it is open");
    }
    assert!(source.flush(PATIENCE));
    assert_eq!(source.outcomes().total().settled, COUNT);
    let function = reading.join().expect("all have arrived");
    assert!(matches!(function.try_read(), Err(ReadError::TimedOut)));
}

#[test]
fn a_trace_and_a_target_reach_the_function() {
    let zipper = start(options("z"));
    let function = function(&[&zipper], |options| options.target = Some("t".into()));
    let source = source(&[&zipper]);
    let trace = Some(vec![source.step("source")]);
    let written = source.write_with(IN, Some("t".into()), trace, "hello");
    written.expect("it is open");
    let data = function.read_timeout(PATIENCE).expect("a message");
    assert_eq!(
        (data.target.as_deref(), &data.payload[..]),
        (Some("t"), &b"hello"[..])
    );
    let steps: Vec<_> = data.trace.expect("it is traced");
    let names: Vec<_> = steps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["source", "z"]);
    assert!(source.flush(PATIENCE));
}

#[test]
fn a_function_behind_a_zipper_of_the_former_version_gets_one_copy_with_its_whole_trace() {
    let (mut former, mut entry) = (options("former"), options("entry"));
    former.features = 0;
    former.mesh = vec![neighbour(entry.identity.node_id(), Vec::new())];
    let node = former.identity.node_id();
    let former = start(former);
    entry.mesh = vec![neighbour(node, former.addresses().to_vec())];
    let entry = start(entry);
    let function = function(&[&former], |_| {});
    let source = source(&[&entry]);
    until_known(&entry, IN);
    let trace = Some(vec![source.step("source")]);
    let written = source.write_with(IN, None, trace, "hello");
    written.expect("it is open");
    let data = function.read_timeout(PATIENCE).expect("a message");
    let steps: Vec<_> = data.trace.expect("it is traced");
    let names: Vec<_> = steps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["source", "entry", "former"]);
    assert!(source.flush(PATIENCE));
    assert!(matches!(function.try_read(), Err(ReadError::TimedOut)));
}

#[test]
fn instances_that_come_and_go_process_each_message_once() {
    let zipper = start(options("z"));
    let source = source(&[&zipper]);
    let read_some = |function: Client, count: usize| {
        std::thread::spawn(move || {
            let mut numbers = Vec::new();
            while numbers.len() < count {
                match function.read_timeout(Duration::from_millis(500)) {
                    Ok(data) => numbers.push(number(&data.payload)),
                    Err(_) => break,
                }
            }
            assert!(function.close(PATIENCE));
            numbers
        })
    };
    let leaving = read_some(function(&[&zipper], |_| {}), 1000);
    let staying = read_some(function(&[&zipper], |_| {}), usize::MAX);
    until_known(&zipper, IN);
    write(&source, 0..20_000);
    assert!(source.flush(PATIENCE));
    assert_eq!(source.outcomes().total().settled, 20_000);
    let (first, second) = (
        leaving.join().expect("it reads"),
        staying.join().expect("it reads"),
    );
    let all: BTreeSet<u64> = first.iter().chain(&second).copied().collect();
    assert_eq!(first.len() + second.len(), 20_000, "none is repeated");
    assert_eq!(all.len(), 20_000, "none is lost");
}

#[test]
fn a_message_that_nobody_observes_has_an_outcome() {
    let zipper = start(options("z"));
    let source = source(&[&zipper]);
    write(&source, 0..10);
    assert!(source.flush(PATIENCE));
    let total = source.outcomes().total();
    assert_eq!((total.unobserved, total.settled), (10, 0));
}

#[test]
fn an_acknowledged_message_is_settled_and_others_wait() {
    let zipper = start(options("z"));
    let function = function(&[&zipper], |options| {
        options.acknowledge = AcknowledgeMode::ByCall;
        options.on_instance_loss = InstanceLossPolicy::Report;
    });
    let source = source(&[&zipper]);
    until_known(&zipper, IN);
    write(&source, 0..2);
    let first = function.receive().expect("a message");
    let second = function.receive().expect("a message");
    function.acknowledge(&second);
    let deadline = Instant::now() + PATIENCE;
    assert!(!source.flush(Duration::from_millis(100)));
    function.acknowledge(&first);
    assert!(source.flush(deadline.saturating_duration_since(Instant::now())));
}

#[test]
fn a_source_that_loses_its_zipper_moves_with_its_messages() {
    let (home, mut edges) = mesh(2);
    let function = function(&[&home], |_| {});
    edges.iter().for_each(|edge| until_known(edge, IN));
    let source = source(&[&edges[0], &edges[1]]);
    let is_entry = |edge: &Zipper| edge.node_id() == source.zipper_node();
    let entry = edges.iter().position(is_entry).expect("it is one of them");
    let reading = std::thread::spawn(move || {
        for expected in 0..30_000 {
            assert_eq!(read(&function), expected);
        }
        function
    });
    write(&source, 0..10_000);
    let lost = edges.remove(entry);
    lost.watch().abort();
    drop(lost);
    write(&source, 10_000..30_000);
    assert!(source.flush(PATIENCE));
    assert_eq!(source.outcomes().total().settled, 30_000);
    assert_eq!(source.uncertain(), 0);
    assert_eq!(source.zipper_node(), edges[0].node_id());
    reading.join().expect("each has arrived once, in order");
}

/// A source that speaks the protocol by hand, once it is admitted.
fn admitted_by_hand(zipper: &Zipper) -> (Hub, Endpoint) {
    let hub = Hub::builder(support::identity())
        .session(session_config(64 << 20, PAYLOAD_MAX))
        .peer_at(zipper.node_id(), zipper.addresses().to_vec())
        .and_then(|builder| builder.start())
        .expect("a hub");
    let endpoint = hub.endpoint(zipper.node_id()).expect("it is a peer");
    let handshake = WireMessage::Handshake(Handshake {
        version: VersionOffer::OWN.min,
        role: Role::Source,
        name: "hostile".into(),
        token: None,
        tags: Vec::new(),
        target: None,
        policy: Policy::Nearest,
    });
    for message in [WireMessage::VersionOffer(VersionOffer::OWN), handshake] {
        let bytes = message.encode().expect("it is short");
        endpoint.send(CONTROL, bytes).expect("it is open");
    }
    let admitted = endpoint.recv_timeout(PATIENCE).expect("an answer");
    let admitted = WireMessage::decode(admitted.payload).expect("it is well-formed");
    assert!(matches!(admitted, WireMessage::HandshakeAck { .. }));
    (hub, endpoint)
}

/// Until the zipper refuses the source: the reason.
fn refusal(endpoint: &Endpoint) -> String {
    loop {
        let message = endpoint.recv_timeout(PATIENCE).expect("a refusal");
        if let Ok(WireMessage::Rejected { message, .. }) = WireMessage::decode(message.payload) {
            return message;
        }
    }
}

/// An opening of 1 MiB: groups with many messages of which each second one is settled.
fn long_opening(label: u32) -> Bytes {
    let settled: SequenceSet = (0..1024).map(|at| 2 * at..2 * at + 1).collect();
    let groups = (0..64).map(|number| GroupOffer {
        recipients: RecipientGroup {
            group: GroupId(number),
            name: format!("g{number}"),
            only: None,
            from: 0,
            until: None,
            members: vec![InstanceId(u64::from(number))],
            uncertain_below: 0,
        },
        floor: 0,
        settled: settled.clone(),
    });
    let opening = SettlementMessage::FlowOpen(FlowOpening {
        label,
        process: 1,
        tag: Tag(0x100 + label),
        target: None,
        level: SettlementLevel::Processed,
        offer: FlowOffer {
            attachment: 1,
            live_from: 0,
            sent_max: 10_000,
            groups_end: 64,
            groups: groups.collect(),
        },
    });
    opening.encode().expect("it is within its limits")
}

#[test]
fn a_source_that_opens_flows_with_long_histories_is_refused_at_a_limit() {
    let zipper = start(options("z"));
    let (_hub, endpoint) = admitted_by_hand(&zipper);
    let mut lens = Vec::new();
    for label in 0..20 {
        let opening = long_opening(label);
        lens.push(opening.len());
        endpoint.send(DATA, opening).expect("there is room");
    }
    assert!(lens.iter().sum::<usize>() > 16 << 20, "{lens:?}");
    assert_eq!(refusal(&endpoint), "the source has too many flows");
}

/// The opening of a flow without a history.
fn opening(label: u32, attachment: u32) -> Bytes {
    let opening = SettlementMessage::FlowOpen(FlowOpening {
        label,
        process: 1,
        tag: IN,
        target: None,
        level: SettlementLevel::Processed,
        offer: FlowOffer {
            attachment,
            live_from: 0,
            sent_max: 0,
            groups_end: 0,
            groups: Vec::new(),
        },
    });
    opening.encode().expect("it is within its limits")
}

/// Until the zipper has announced the recipients of a flow: its label.
fn announced(endpoint: &Endpoint) -> u32 {
    loop {
        let message = endpoint.recv_timeout(PATIENCE).expect("an announcement");
        if let Ok(SettlementMessage::Announce(it)) = SettlementMessage::decode(message.payload) {
            return it.label;
        }
    }
}

/// Until the zipper has routed a message: under which label and attachment.
fn routed(endpoint: &Endpoint) -> (u32, u32) {
    loop {
        let message = endpoint.recv_timeout(PATIENCE).expect("a progress");
        if let Ok(SettlementMessage::Progress(it)) = SettlementMessage::decode(message.payload)
            && it.routed == 1
        {
            return (it.label, it.attachment);
        }
    }
}

#[test]
fn an_older_opening_that_arrives_on_the_other_lane_does_not_replace_a_flow() {
    let zipper = start(options("z"));
    let (_hub, endpoint) = admitted_by_hand(&zipper);
    let send = |lane, bytes| endpoint.send(lane, bytes).expect("there is room");
    let message = |label| {
        let header = RoutedHeader::new(label, 0, MessageMarks::default());
        Bytes::copy_from_slice(&[header.bytes(), b"payload"].concat())
    };
    send(BULK, opening(2, 2));
    // The zipper has answered, so the next one is the later one there.
    assert_eq!(announced(&endpoint), 2);
    send(DATA, opening(1, 1));
    send(DATA, message(1));
    let close = SettlementMessage::FlowClose { label: 1 };
    send(DATA, close.encode().expect("it is short"));
    // A message on another lane than its opening belongs to no flow.
    send(DATA, message(2));
    send(DATA, opening(3, 3));
    assert_eq!(announced(&endpoint), 3, "a newer one replaces it");
    send(DATA, message(3));
    assert_eq!(routed(&endpoint), (3, 3));
    assert_eq!(zipper.stats().discarded, 2);
}

#[test]
fn rubbish_on_the_data_lane_of_a_source_is_refused_with_a_reason() {
    let zipper = start(options("z"));
    for rubbish in [
        &[0x20, 1, 2, 3][..],
        &[0x22, 0xff, 0, 0, 0, 1, 7],
        &[0x3f],
        &[0x30, 0, 0, 0, 1],
        &[0x23],
    ] {
        for lane in [DATA, BULK] {
            let (_hub, endpoint) = admitted_by_hand(&zipper);
            let sent = endpoint.send(lane, Bytes::copy_from_slice(rubbish));
            sent.expect("there is room");
            assert!(!refusal(&endpoint).is_empty(), "{rubbish:?}");
        }
    }
    // Plain data is no message of a flow.
    let (_hub, endpoint) = admitted_by_hand(&zipper);
    let plain = Bytes::from_static(&[5, 0, 0, 0]);
    endpoint.send(BULK, plain).expect("there is room");
    assert!(!refusal(&endpoint).is_empty());
    // The zipper serves others.
    let client = source(&[&zipper]);
    assert!(client.close(PATIENCE));
}
