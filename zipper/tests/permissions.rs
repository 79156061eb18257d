//! Permissions of clients by token, key and tag, over real sockets.

#[allow(dead_code, reason = "a part of it is used")]
mod support;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use selvedge_client::lanes::{CONTROL, DATA};
use selvedge_client::settlement::FlowOutcome;
use selvedge_client::wire::settlement::FEATURE_SETTLEMENT;
use selvedge_client::wire::{
    AdminQuery, Data, Denial, Handshake, Origin, Permission, Policy, Recipient, Role, VersionOffer,
    WireMessage,
};
use selvedge_client::{AdminClient, AdminError, Client, ClientOptions, ConnectError, Tag};
use selvedge_hub::{Endpoint, Hub, Identity, LaneConfig, SessionConfig};
use selvedge_zipper::permissions::{AccessRules, Grant, Permissions, TagRange, TokenGrant};
use selvedge_zipper::zipper::Zipper;

use crate::support::{IN, PATIENCE, identity, options, read, start, text, wait_until, write};

const OTHER: Tag = Tag(0x20);

/// Permissions for tags, each written as a range.
fn permissions(write: &[&str], observe: &[&str], admin: &[&str]) -> Permissions {
    let set = |ranges: &[&str]| {
        let ranges = ranges.iter().map(|it| it.parse::<TagRange>());
        ranges.map(|it| it.expect("a range")).collect()
    };
    Permissions {
        write: set(write),
        observe: set(observe),
        admin: set(admin),
    }
}

fn token(name: &str, permissions: Permissions) -> TokenGrant {
    TokenGrant {
        token: name.into(),
        grant: Grant {
            name: name.into(),
            expires: None,
            permissions,
        },
    }
}

fn rules(tokens: Vec<TokenGrant>) -> AccessRules {
    AccessRules {
        tokens,
        ..AccessRules::default()
    }
}

fn zipper(tokens: Vec<TokenGrant>) -> Zipper {
    let mut options = options("z");
    options.access = Some(rules(tokens));
    start(options)
}

fn connect(zipper: &Zipper, token: &str, options: ClientOptions) -> Result<Client, ConnectError> {
    Client::connect(ClientOptions {
        token: (!token.is_empty()).then(|| token.to_owned()),
        zippers: zipper.addresses().to_vec(),
        ..options
    })
}

fn source(zipper: &Zipper, token: &str) -> Result<Client, ConnectError> {
    connect(zipper, token, ClientOptions::source("source", Vec::new()))
}

fn plain_source(zipper: &Zipper, token: &str) -> Result<Client, ConnectError> {
    let options = ClientOptions {
        level: None,
        ..ClientOptions::source("source", Vec::new())
    };
    connect(zipper, token, options)
}

fn sink(zipper: &Zipper, token: &str, tags: Vec<Tag>) -> Result<Client, ConnectError> {
    connect(
        zipper,
        token,
        ClientOptions::function("sink", tags, Vec::new()),
    )
}

#[test]
fn messages_of_other_tags_are_dropped_and_counted_and_the_connection_stays() {
    let zipper = zipper(vec![
        token("w", permissions(&["0x10-0x1f"], &[], &[])),
        token("o", permissions(&[], &["all"], &[])),
    ]);
    let sink = sink(&zipper, "o", vec![IN, OTHER]).expect("it may observe");
    let source = plain_source(&zipper, "w").expect("it may write");
    for n in 0..300 {
        write(&source, OTHER, "no");
        write(&source, IN, &n.to_string());
    }
    for n in 0..300 {
        let data = read(&sink);
        assert_eq!((data.tag, text(&data)), (IN, n.to_string()));
    }
    let stats = zipper.stats();
    assert_eq!((stats.received, stats.delivered), (600, 300));
    assert_eq!(
        (stats.forbidden, stats.unobserved, stats.malformed),
        (300, 0, 0)
    );
    assert_eq!(zipper.observers(OTHER), ["sink"]);
}

#[test]
fn the_outcome_of_settled_messages_of_other_tags_is_forbidden() {
    let zipper = zipper(vec![token("w", permissions(&["0x10-0x1f"], &[], &[]))]);
    let source = source(&zipper, "w").expect("it may write");
    for _ in 0..300 {
        write(&source, OTHER, "no");
    }
    assert!(source.flush(PATIENCE));
    let expected = FlowOutcome {
        forbidden: 300,
        ..FlowOutcome::default()
    };
    assert_eq!(source.outcomes().total(), expected);
    assert!(!source.outcomes().is_settled());
    let stats = zipper.stats();
    assert_eq!(
        (stats.received, stats.forbidden, stats.unobserved),
        (300, 300, 0)
    );
}

#[test]
fn a_function_receives_the_tags_that_it_may_observe() {
    let zipper = zipper(vec![token("t", permissions(&["all"], &["0x10"], &[]))]);
    let sink = sink(&zipper, "t", vec![IN, OTHER]).expect("it may observe one of them");
    assert_eq!(zipper.observers(OTHER), [""; 0]);
    let source = plain_source(&zipper, "t").expect("it may write");
    write(&source, OTHER, "no");
    write(&source, IN, "yes");
    assert_eq!(text(&read(&sink)), "yes");
    let stats = zipper.stats();
    assert_eq!((stats.forbidden_tags, stats.unobserved), (1, 1));
}

#[test]
fn a_client_without_any_use_of_its_permissions_is_refused_with_the_reason() {
    let zipper = zipper(vec![token("o", permissions(&[], &["0x30"], &[]))]);
    let refused = |result: Result<Client, ConnectError>| match result {
        Err(ConnectError::Rejected { code, message }) => (code, message),
        other => panic!("{other:?}"),
    };
    let expected = |code, message: &str| (code, message.to_owned());
    assert_eq!(
        refused(source(&zipper, "")),
        expected(401, "this zipper requires a token")
    );
    assert_eq!(
        refused(source(&zipper, "x")),
        expected(401, "the token is wrong")
    );
    assert_eq!(
        refused(source(&zipper, "o")),
        expected(403, "no permission to write, or to ask as an operator")
    );
    assert_eq!(
        refused(sink(&zipper, "o", vec![IN])),
        expected(
            403,
            "no permission to observe one of these tags, or to write"
        )
    );
}

#[test]
fn a_key_gives_permissions_without_a_token() {
    let identity = identity();
    let grant = Grant {
        name: "press".into(),
        expires: None,
        permissions: permissions(&[], &["0x10"], &[]),
    };
    let mut options = options("z");
    options.access = Some(AccessRules {
        keys: [(*identity.node_id().as_bytes(), grant)].into(),
        ..AccessRules::default()
    });
    let zipper = start(options);
    let with = |identity: Identity| ClientOptions {
        identity: Some(identity),
        ..ClientOptions::function("press", vec![IN], Vec::new())
    };
    connect(&zipper, "", with(identity)).expect("its key is listed");
    let stranger = connect(&zipper, "", with(support::identity()));
    assert!(
        matches!(stranger, Err(ConnectError::Rejected { code: 401, .. })),
        "{stranger:?}"
    );
}

#[test]
fn new_rules_apply_to_connected_clients() {
    let all = || permissions(&["all"], &["all"], &["all"]);
    let zipper = zipper(vec![token("a", all()), token("b", all())]);
    let sink = sink(&zipper, "a", vec![IN, OTHER]).expect("it may observe");
    let source = plain_source(&zipper, "a").expect("it may write");
    let other = self::source(&zipper, "b").expect("it may write");
    write(&source, OTHER, "1");
    assert_eq!(text(&read(&sink)), "1");
    zipper.set_access(rules(vec![token(
        "a",
        permissions(&["0x10"], &["0x10"], &[]),
    )]));
    assert_eq!(zipper.observers(OTHER), [""; 0]);
    // The client learns the reason when it reads or writes.
    wait_until(
        "the client without a token is connected",
        || matches!(other.read_timeout(Duration::from_millis(10)), Err(selvedge_client::ReadError::Closed(why)) if why.contains("the token is wrong")),
    );
    write(&source, OTHER, "2");
    write(&source, IN, "3");
    assert_eq!(text(&read(&sink)), "3");
    wait_until("the message is not counted", || {
        zipper.stats().forbidden == 1
    });
    zipper.set_access(rules(vec![token("a", all())]));
    assert_eq!(zipper.observers(OTHER), ["sink"]);
    write(&source, OTHER, "4");
    assert_eq!(text(&read(&sink)), "4");
}

/// What it has written before is settled, also what the function has not read yet.
#[test]
fn a_source_that_loses_its_permission_learns_what_was_processed_before() {
    let all = || permissions(&["all"], &["all"], &["all"]);
    let zipper = zipper(vec![token("a", all()), token("b", all())]);
    let sink = sink(&zipper, "b", vec![IN]).expect("it may observe");
    let source = source(&zipper, "a").expect("it may write");
    for n in 0..10 {
        write(&source, IN, &n.to_string());
    }
    assert_eq!(text(&read(&sink)), "0");
    wait_until("not all have arrived", || zipper.stats().received == 10);
    zipper.set_access(rules(vec![
        token("a", permissions(&["0x30"], &[], &[])),
        token("b", all()),
    ]));
    write(&source, IN, "no");
    wait_until("the message is not counted", || {
        zipper.stats().forbidden == 1
    });
    for n in 1..10 {
        assert_eq!(text(&read(&sink)), n.to_string());
    }
    // The last message is settled when the next one is requested.
    assert!(sink.try_read().is_err());
    assert!(source.flush(PATIENCE));
    let expected = FlowOutcome {
        settled: 10,
        forbidden: 1,
        ..FlowOutcome::default()
    };
    assert_eq!(source.outcomes().total(), expected);
}

#[test]
fn a_client_whose_token_expires_is_disconnected() {
    let zipper = zipper(vec![token("a", Permissions::all())]);
    let source = source(&zipper, "a").expect("it may write");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut expiring = token("a", Permissions::all());
    expiring.grant.expires = Some(now.expect("it is after 1970") + Duration::from_millis(500));
    zipper.set_access(rules(vec![expiring]));
    wait_until(
        "the client is still connected",
        || matches!(source.read_timeout(Duration::from_millis(10)), Err(selvedge_client::ReadError::Closed(why)) if why.contains("the token `a` has expired")),
    );
}

#[test]
fn an_operator_sees_what_its_permission_covers() {
    let zipper = zipper(vec![
        token("ops", permissions(&[], &[], &["all"])),
        token("part", permissions(&[], &[], &["0x10"])),
        token("f", permissions(&["all"], &["all"], &[])),
    ]);
    let _sink = sink(&zipper, "f", vec![IN, OTHER]).expect("it may observe");
    let list = |token: &str, query| {
        let client = source(&zipper, token).expect("it is admitted");
        AdminClient::from(client).list(query, PATIENCE)
    };
    assert_eq!(list("ops", AdminQuery::Tags).expect("permitted").len(), 2);
    assert_eq!(list("part", AdminQuery::Tags).expect("permitted").len(), 1);
    list("ops", AdminQuery::Clients).expect("permitted");
    for (token, query) in [("part", AdminQuery::Clients), ("f", AdminQuery::Tags)] {
        let refused = list(token, query);
        assert!(
            matches!(refused, Err(AdminError::Refused { code: 403, .. })),
            "{refused:?}"
        );
    }
    assert_eq!(zipper.stats().forbidden_requests, 2);
}

/// A client that is admitted by hand, so that it can send what no client of this crate would.
fn by_hand(zipper: &Zipper, token: &str, tags: Vec<Tag>) -> (Hub, Endpoint) {
    let hub = Hub::builder(identity())
        .session(SessionConfig {
            lanes: vec![LaneConfig::default(); 2],
            ..SessionConfig::default()
        })
        .peer_at(zipper.node_id(), zipper.addresses().to_vec())
        .expect("another node");
    let hub = hub.start().expect("a hub");
    let endpoint = hub.endpoint(zipper.node_id()).expect("a peer");
    for message in [
        // Without settlement: then it receives plain messages.
        WireMessage::VersionOffer(VersionOffer {
            features: VersionOffer::OWN.features & !FEATURE_SETTLEMENT,
            ..VersionOffer::OWN
        }),
        WireMessage::Handshake(Handshake {
            version: VersionOffer::OWN.min,
            role: Role::StreamFunction,
            name: "f".into(),
            token: Some(token.into()),
            tags,
            target: None,
            policy: Policy::Nearest,
        }),
    ] {
        let bytes = message.encode().expect("it is short");
        endpoint.send(CONTROL, bytes).expect("it is open");
    }
    (hub, endpoint)
}

/// Each violation has no effect but to be counted and reported, and the connection stays.
#[test]
fn s5_a_client_writes_and_observes_what_it_may_and_in_no_other_name() {
    let zipper = zipper(vec![
        token("t", permissions(&["0x10"], &["0x10"], &[])),
        token("all", permissions(&["all"], &["all"], &[])),
    ]);
    let sink = sink(&zipper, "all", vec![IN, OTHER]).expect("it may observe");
    let (other, key) = (identity(), ClientOptions::source("source", Vec::new()));
    let source = ClientOptions {
        level: None,
        identity: Some(other.clone()),
        ..key
    };
    let source = connect(&zipper, "all", source).expect("it may write");
    let (hub, endpoint) = by_hand(&zipper, "t", vec![IN, OTHER]);
    let send = |tag, payload: &'static [u8]| {
        let message = WireMessage::Data(Data {
            tag,
            // Those of another client, as if this one forwarded a message.
            origin: Origin {
                source: *other.node_id().as_bytes(),
                sequence: 7,
            },
            hops_left: 3,
            target: None,
            recipients: vec![Recipient {
                name: "f".into(),
                home: *zipper.node_id().as_bytes(),
            }],
            trace: None,
            payload: payload.into(),
        });
        let bytes = message.encode().expect("it is short");
        endpoint.send(DATA, bytes).expect("it is open");
    };
    send(OTHER, b"outside");
    send(IN, b"inside");
    let data = read(&sink);
    assert_eq!((data.tag, &data.payload[..]), (IN, &b"inside"[..]));
    assert_eq!(data.origin.source, *hub.node_id().as_bytes());
    assert_eq!(zipper.stats().forbidden, 1);
    assert_eq!(zipper.observers(OTHER), ["sink"]);
    // It observes what it may: its own message, and this one. The connection stays.
    write(&source, OTHER, "not for it");
    write(&source, IN, "for it");
    let (mut read, mut denied) = (Vec::new(), Vec::new());
    while read.last().is_none_or(|it: &Bytes| it != "for it") {
        let message = endpoint.recv_timeout(PATIENCE).expect("a message").payload;
        match WireMessage::decode(message) {
            Ok(WireMessage::Data(data)) => read.push(data.payload),
            Ok(WireMessage::Denial(denial)) => denied.push(denial.permission),
            _ => {}
        }
    }
    assert_eq!(read, [&b"inside"[..], b"for it"]);
    assert_eq!(denied, [Permission::Observe, Permission::Write]);
}

#[test]
fn a_client_is_notified_of_what_it_may_not_do() {
    let zipper = zipper(vec![token("t", permissions(&["0x10"], &["0x10"], &[]))]);
    let (_hub, endpoint) = by_hand(&zipper, "t", vec![IN, OTHER]);
    // A message with tag 0x20.
    let data = b"\x05\0\0\0\0\x20\x10\x01hi";
    endpoint
        .send(DATA, data.to_vec().into())
        .expect("it is open");
    let mut denied = Vec::new();
    while denied.len() < 2 {
        let message = endpoint.recv_timeout(PATIENCE).expect("a message").payload;
        if let WireMessage::Denial(denial) = WireMessage::decode(message).expect("a message") {
            denied.push(denial);
        }
    }
    let denial = |permission| Denial {
        permission,
        tags: vec![OTHER],
    };
    assert_eq!(
        denied,
        [denial(Permission::Observe), denial(Permission::Write)]
    );
}
